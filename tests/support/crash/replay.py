"""Runs a recorded program once, and gives the states that power cuts during it may leave."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from support.crash.disk import Disk, Leftover
from support.crash.write_log import Created, Event, MadeFolder, Noted, Written, read_log

__all__ = ["CrashState", "Recorded", "number_of_states", "record", "seed_of_states"]

MAPPED = ("lock.mdb", "reading", "catalogue.sqlite-shm")
"""Files that are written through memory, which no call shows; all may be lost."""


@dataclass(frozen=True, slots=True)
class CrashState:
    """What one power cut left, and what the program had said by then.

    Attributes:
        position: the cut came before this event; with ``seed``, this state again.
        acknowledged: number of the last command that was done; -1: none.
        begun: number of the last command that had begun.
    """

    position: int
    seed: int
    left: Leftover
    acknowledged: int
    begun: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """A program's log."""

    root: Path
    events: list[Event]

    def value_after(self, number: int) -> str | None:
        """What the program said once command ``number`` was done."""
        for event in self.events:
            if isinstance(event, Noted) and event.kind == "done" and event.number == number:
                return event.value
        return None

    def allowed(self, state: CrashState) -> list[str | None]:
        """What it may say then: all that was acknowledged, and of what had begun all or nothing."""
        return [self.value_after(number) for number in range(state.acknowledged, state.begun + 1)]

    def replayed(self) -> Leftover:
        """The files as they should be without any power cut."""
        disk = Disk()
        disk.feed(self.events)
        return disk.as_it_is()

    def writes(self) -> list[Written]:
        """All that was written, in order."""
        return [event for event in self.events if isinstance(event, Written)]

    def first_done(self) -> int:
        """Where the program first said that something is done."""
        return next(
            at for at, event in enumerate(self.events) if isinstance(event, Noted) and event.kind == "done"
        )

    def first_written(self) -> int:
        """Just behind the first write: nothing was synced yet."""
        return 1 + next(at for at, event in enumerate(self.events) if isinstance(event, Written))

    def position_of(self, kind: type[Created | MadeFolder], path: str) -> int:
        """Where something first came to be."""
        return next(
            at for at, event in enumerate(self.events) if isinstance(event, kind) and event.path == path
        )

    def states(self, count: int, seed: int, among: tuple[int, int] | None = None) -> Iterator[CrashState]:
        """``count`` states at positions spread over the log, or over a part of it (first, last)."""
        random, (first, last) = Random(seed), among or (0, len(self.events))
        positions = sorted(random.randint(first, last) for _ in range(count))
        disk, fed, acknowledged, begun = Disk(), 0, -1, -1
        for number, position in enumerate(positions):
            fresh = self.events[fed:position]
            disk.feed(fresh)
            fed = position
            for event in fresh:
                if isinstance(event, Noted) and event.kind == "done":
                    acknowledged, begun = event.number, max(begun, event.number)
                elif isinstance(event, Noted) and event.kind == "begin":
                    begun = event.number
            of_it = seed * 1_000_003 + number
            yield CrashState(position, of_it, disk.after_power_cut(Random(of_it)), acknowledged, begun)


def record(
    module: str, folder: Path, *arguments: object, environment: dict[str, str] | None = None
) -> Recorded:
    """Run ``python -m module ROOT LOG ...`` in a process of its own, on an empty root."""
    root, log = folder / "recorded", folder / "log"
    root.mkdir()
    subprocess.run(
        [sys.executable, "-m", module, str(root), str(log), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **(environment or {})},
        check=True,
        timeout=120,
    )
    return Recorded(root, read_log(log))


def number_of_states(usual: int) -> int:
    """More of them with ``make soak``."""
    return usual * 20 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else usual


def seed_of_states() -> int:
    """The same each time; with ``make soak`` another each time."""
    return int.from_bytes(os.urandom(4), "big") if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 1


def check_each(states: Iterator[CrashState], folder: Path, check: Callable[[Path, CrashState], None]) -> int:
    """Lay out each state and check it; gives how many there were. A failure names position and seed."""
    count = 0
    for state in states:
        root = folder / f"state-{count}"
        state.left.write(root)
        try:
            check(root, state)
        except BaseException as error:
            error.add_note(f"power cut before event {state.position}, state seed {state.seed}: see {root}")
            raise
        count += 1
    return count
