"""The benchmark's course: rounds, in each every subject does the same thing in turn.

Who comes first changes from round to round, and everything that was written is on disk before the
next one starts: nobody pays for what another left to be written. Nor for what another left to be
deleted: trees that are done with are emptied and kept to the end (:func:`_emptied`). The floor is
measured at the start and the end of each round. Trees are made before the round, and are older than
two seconds when they are backed up for the second time: younger ones count as "may still change".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from holdfast.cluster.benchmark.corpora import CORPORA, Corpus, bytes_of, files_of
from holdfast.cluster.benchmark.floor import read_floor
from holdfast.cluster.benchmark.holdfast_subject import HoldfastSubject
from holdfast.cluster.benchmark.measuring import Cost, measure
from holdfast.cluster.benchmark.memory import touch_memory
from holdfast.cluster.benchmark.samples import Sample, Samples
from holdfast.cluster.benchmark.subject import Subject
from holdfast.cluster.demo.compare import compare_trees
from holdfast.cluster.processes import wait_until
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import IntegrityFailure

__all__ = ["Course"]

_SETTLED_NS = 2_100_000_000
_DEAD_NODES = (1, 2)


class Course:
    """One run.

    Args:
        folder: for trees and what is restored; empty.
        profile: of the cluster; the floor codes alike.
        tell: one line on how it goes.
    """

    def __init__(
        self,
        holdfast: HoldfastSubject,
        peers: Sequence[Subject],
        folder: Path,
        profile: str,
        tell: Callable[[str], None],
    ) -> None:
        self.samples = Samples()
        self._holdfast = holdfast
        self._subjects: list[Subject] = [holdfast, *peers]
        self._folder = folder
        self._profile = profile
        self._tell = tell
        self._folders = 0

    def round(self, number: int, corpora: Sequence[Corpus]) -> None:
        """Everything once, with bytes that nobody has stored yet."""
        self._floor(number)
        for corpus in corpora:
            with self._tree(corpus, number) as tree:
                self._corpus(corpus, number, tree)
        self._floor(number)

    def _new_folder(self, name: str) -> Path:
        """Empty, and never there before: none is deleted before the end."""
        self._folders += 1
        made = self._folder / f"{name}-{self._folders}"
        made.mkdir()
        return made

    @contextmanager
    def _tree(self, corpus: Corpus, number: int) -> Iterator[Path]:
        tree = self._new_folder(f"{corpus.name}-{number}")
        corpus.make(tree, f"{corpus.name} round {number}")
        os.sync()
        yield tree
        _emptied(tree)

    def _floor(self, number: int) -> None:
        program: list[str | Path] = [sys.executable, "-P", "-m", "holdfast.cluster.benchmark.floor"]
        with self._tree(CORPORA["big"], number) as tree:
            command = [*program, tree / "file", self._folder, self._profile]
            _make_even(tree)
            cost = measure(command, environment=os.environ, folder=self._folder)
        floor = read_floor(cost.output)
        self.samples.add_floor(number, floor.in_s / floor.bytes, floor.out_s / floor.bytes)

    def _corpus(self, corpus: Corpus, number: int, tree: Path) -> None:
        self._everybody(corpus, number, tree, "backup", lambda subject: subject.backup(corpus.name, tree))
        _wait_settled(tree)
        # Files were too young to be trusted at the first backup: the second looks at all of them again.
        for subject in self._subjects:
            subject.backup(corpus.name, tree)
        self._everybody(corpus, number, tree, "unchanged", lambda subject: subject.backup(corpus.name, tree))
        corpus.change(tree, f"{corpus.name} round {number}")
        self._everybody(corpus, number, tree, "changed", lambda subject: subject.backup(corpus.name, tree))
        self._everybody(
            corpus, number, tree, "restore", lambda subject: self._restored(subject, corpus, tree)
        )
        _make_even(tree)
        cost = self._holdfast.without(_DEAD_NODES, lambda: self._restored(self._holdfast, corpus, tree))
        self._note(corpus, number, tree, "degraded", self._holdfast, cost)

    def _everybody(
        self, corpus: Corpus, number: int, tree: Path, phase: str, work: Callable[[Subject], Cost]
    ) -> None:
        turn = number % len(self._subjects)
        for subject in (*self._subjects[turn:], *self._subjects[:turn]):
            _make_even(tree)
            self._note(corpus, number, tree, phase, subject, work(subject))

    def _note(
        self, corpus: Corpus, number: int, tree: Path, phase: str, subject: Subject, cost: Cost
    ) -> None:
        sample = Sample(corpus.name, phase, subject.name, number, files_of(tree), bytes_of(tree), cost)
        self.samples.all.append(sample)
        rate = f"{sample.files / cost.seconds:,.0f} files/s" if corpus.by_files else (
            f"{sample.bytes / 1e6 / cost.seconds:,.0f} MB/s")  # fmt: skip
        self._tell(f"round {number}  {corpus.name:<9}{phase:<11}{subject.name:<10}{rate:>16}")

    def _restored(self, subject: Subject, corpus: Corpus, tree: Path) -> Cost:
        """Restore into an empty folder, and compare: a fast restore of other bytes is none.

        Raises:
            IntegrityFailure: what came back is not what went in.
        """
        target = self._new_folder("back")
        try:
            cost = subject.restore(corpus.name, tree, target)
            compared = compare_trees(os.fsencode(tree), os.fsencode(subject.found_at(tree, target)))
            wrong = [d for d in compared.differences if subject is self._holdfast or _is_loss(d.what)]
            if wrong or not compared.files:
                raise IntegrityFailure(
                    f"{subject.name} restored something else than was backed up",
                    why=f"{os.fsdecode(wrong[0].path)}: {wrong[0].what}" if wrong else "nothing came back",
                )
            return cost
        finally:
            _emptied(target)


def _emptied(tree: Path) -> None:
    """Give a tree's room back, but none of its inodes: those go when the whole benchmark's folder does.

    A filesystem may look at every inode that was freed lately before it gives out another one (ext4
    without a journal does, for minutes): a thousand files deleted here would be a fifth of a second for
    whoever makes a thousand files next, whether that is a restore of Holdfast's or of a peer's.
    """
    for folder, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.truncate(path, 0)


def _make_even(tree: Path) -> None:
    """The same start for everybody: nothing waits to be written, and there is memory for the step."""
    os.sync()
    touch_memory(bytes_of(tree))


def _is_loss(what: str) -> bool:
    """Peers need not keep what only Holdfast promises to keep, such as a folder's times."""
    return what in ("other content", "is missing") or " bytes became " in what


def _wait_settled(tree: Path) -> None:
    """Until every file was last touched so long ago that its time can be believed."""
    newest = max(max(p.stat().st_mtime_ns, p.stat().st_ctime_ns) for p in tree.rglob("*") if p.is_file())
    wait_until(lambda: SYSTEM.now_ns() - newest > _SETTLED_NS, 10.0)
