"""How a cluster stands while it is broken: the catalogue joined with the stores, again and again.

It is looked at in a process of its own, which a damaged store may kill; what that process
remembers (which chunks and heads it has seen) begins anew then.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from holdfast.cluster.chaos.allowances import Orphans
from holdfast.cluster.joining import Joined, join
from holdfast.cluster.surveying import node_of
from holdfast.coordinator.catalogue.looking import CatalogueLook, look_at_catalogue
from holdfast.node.store import ShardKey
from holdfast.node.store_lmdb_looking import StoreLook, look_at_store
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.ids import NodeId

__all__ = ["Look", "Sampler"]

_NAMED_MAX = 5


@dataclass(slots=True)
class Look:
    """How things stood at one moment.

    Attributes:
        stripes: of live chunks; ``short``, ``unreadable``: of them.
        fewest, fewest_k, fewest_n: good shards, k and n of the stripe with the fewest spare ones.
        committed: chunks seen for the first time.
        below_quorum: of them, those that were on fewer nodes than the write quorum; in words.
        crowded: groups that break the placement rules; in words.
        head_trouble: heads that changed or went; in words.
        unnoted, orphans: see cluster.joining.
        collectable: orphans of uploads that have ended; overdue: of them, those seen for longer than their
            grace; in words.
        sealed_bytes: of all live chunks.
        layouts: (k, numbers of the nodes with a good shard) of the stripes, those alike once.
        unread: nodes whose stores could not be looked at, and why.
        trouble: why there is no look at all, or "".
    """

    stripes: int = 0
    short: int = 0
    unreadable: int = 0
    fewest: int | None = None
    fewest_k: int = 0
    fewest_n: int = 0
    committed: int = 0
    below_quorum: list[str] = field(default_factory=list)
    crowded: list[str] = field(default_factory=list)
    head_trouble: list[str] = field(default_factory=list)
    unnoted: int = 0
    unnoted_named: list[str] = field(default_factory=list)
    orphans: int = 0
    collectable: int = 0
    overdue: list[str] = field(default_factory=list)
    heads: int = 0
    sealed_bytes: int = 0
    layouts: frozenset[tuple[int, frozenset[int]]] = frozenset()
    unread: dict[int, str] = field(default_factory=dict)
    trouble: str = ""

    def survives(self, without: Collection[int]) -> bool:
        """Would every stripe still have k shards if these nodes went, too?"""
        gone = frozenset(without)
        return all(len(holders - gone) >= k for k, holders in self.layouts)


class _Watcher:
    """Lives in the looking process, and remembers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[bytes] | None = None
        self._heads: dict[tuple[bytes, int], bytes] = {}
        self._orphans = Orphans()

    def look(
        self, numbers: Collection[int], away: frozenset[int], excused: frozenset[int], skip: frozenset[int]
    ) -> Look:
        found = Look()
        try:
            catalogue = look_at_catalogue(self._folder / "coordinator" / "catalogue.sqlite")
        except HoldfastError as error:
            return Look(trouble=error.what)
        stores: dict[NodeId, StoreLook] = {}
        number_of: dict[NodeId, int] = {}
        for number in numbers:
            path = self._folder / f"node-{number}"
            try:
                node = node_of(path)
            except HoldfastError:
                continue
            number_of[node] = number
            if number in skip:
                found.unread[number] = "reading it killed who read it"
                continue
            try:
                stores[node] = look_at_store(path / "store")
            except HoldfastError as error:
                found.unread[number] = error.why or error.what
        gone = frozenset(node for node, number in number_of.items() if number in away)
        joined = join(catalogue, stores, away=gone)
        _count(found, joined, number_of)
        self._judge_quorum(found, catalogue, stores, {n for n, at in number_of.items() if at in excused})
        self._judge_heads(found, catalogue)
        self._judge_orphans(found, catalogue, joined, number_of)
        return found

    def live_keys(self, number: int) -> frozenset[bytes]:
        return look_at_store(self._folder / f"node-{number}" / "store").shards

    def _judge_quorum(
        self,
        found: Look,
        catalogue: CatalogueLook,
        stores: dict[NodeId, StoreLook],
        excused: Collection[NodeId],
    ) -> None:
        """Chunks that are new since the last look must be on w nodes, whether these live or not."""
        now = {bytes(row.chunk) + bytes(row.generation): row for row in catalogue.chunks}
        before, self._seen = self._seen, set(now)
        if before is None:
            return
        for name in now.keys() - before:
            row = now[name]
            group = catalogue.groups.get(row.group)
            if group is None or row.state != "live":
                continue
            found.committed += 1
            there = 0
            for slot, holder in enumerate(group.members):
                packed = ShardKey(group.id, slot, row.account, row.chunk, row.generation).pack()
                store_lost = holder in excused or holder not in stores
                there += store_lost or any(packed in store.shards for store in stores.values())
            if there < group.profile.write_quorum:
                found.below_quorum.append(
                    f"chunk {row.chunk.short} was committed with {there} of {group.profile.n} shards, "
                    f"and the write quorum is {group.profile.write_quorum}"
                )

    def _judge_orphans(
        self, found: Look, catalogue: CatalogueLook, joined: Joined, number_of: dict[NodeId, int]
    ) -> None:
        found.collectable, overdue = self._orphans.look(
            joined.orphans, catalogue.ended_uploads, SYSTEM.monotonic()
        )
        found.overdue = [
            f"a shard of chunk {shard.key.chunk.short} on node-{number_of[shard.node]}: {shard.why}"
            for shard in overdue
        ]

    def _judge_heads(self, found: Look, catalogue: CatalogueLook) -> None:
        """The newest number never falls, and no number has two heads; a rebuilt catalogue may keep fewer."""
        now = {(bytes(head.account), head.seq): bytes(head.digest) for head in catalogue.heads}
        found.heads = len(now)
        newest: dict[bytes, int] = {}
        for account, seq in now:
            newest[account] = max(seq, newest.get(account, 0))
        for (account, seq), digest in self._heads.items():
            if seq > newest.get(account, 0):
                found.head_trouble.append(
                    f"head {seq} was there, and {newest.get(account, 0)} is the newest now"
                )
            elif now.get((account, seq), digest) != digest:
                found.head_trouble.append(f"head {seq} is another one now")
        self._heads.update(now)


def _count(found: Look, joined: Joined, number_of: dict[NodeId, int]) -> None:
    fewest = joined.fewest
    found.stripes, found.short = len(joined.stripes), len(joined.short)
    found.unreadable, found.crowded = len(joined.unreadable), joined.crowded
    found.orphans, found.unnoted = len(joined.orphans), len(joined.unnoted)
    found.unnoted_named = [
        f"chunk {shard.key.chunk.short}, slot {shard.key.slot} on node-{number_of.get(shard.node, 0)}"
        for shard in joined.unnoted[:_NAMED_MAX]
    ]
    found.sealed_bytes = sum(stripe.row.sealed_bytes for stripe in joined.stripes)
    if fewest is not None:
        found.fewest = len(fewest.good)
        found.fewest_k, found.fewest_n = fewest.group.profile.k, fewest.group.profile.n
    found.layouts = frozenset(
        (
            stripe.group.profile.k,
            frozenset(number_of.get(stripe.group.members[slot], 0) for slot in stripe.good),
        )
        for stripe in joined.stripes
    )


_watcher: _Watcher | None = None


def _begin(folder: Path) -> None:
    global _watcher
    _watcher = _Watcher(folder)


def _live_keys(number: int) -> frozenset[bytes]:
    assert _watcher is not None
    return _watcher.live_keys(number)


def _look(
    numbers: Collection[int], away: frozenset[int], excused: frozenset[int], skip: frozenset[int]
) -> Look:
    assert _watcher is not None
    return _watcher.look(numbers, away, excused, skip)


class Sampler:
    """Takes looks at a cluster's folder.

    Args:
        folder: a local cluster's.
        beginning: what a process that looks begins with.
    """

    def __init__(self, folder: Path, beginning: Callable[[Path], None] | None = None) -> None:
        self._folder = folder
        self._beginning = beginning or _begin
        self._skip: frozenset[int] = frozenset()
        self._mended: set[int] = set()
        """Since somebody began to find out who kills."""
        self._noting = Lock()
        self._turn = Lock()
        self._pool = self._made()

    def _made(self) -> ProcessPoolExecutor:
        # Not forked: this process has threads.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(
            1, mp_context=context, initializer=self._beginning, initargs=(self._folder,)
        )

    def take(
        self, numbers: Collection[int], *, away: Collection[int] = (), excused: Collection[int] = ()
    ) -> Look:
        """Look now.

        Args:
            numbers: all nodes. away: nodes that a fault keeps away. excused: nodes whose disks lost things.
        """
        with self._turn:
            try:
                return self._pool.submit(
                    _look, tuple(numbers), frozenset(away), frozenset(excused), self._skip
                ).result()
            except BrokenProcessPool:
                self._begin_anew()
                # It was one of those whose disks were broken; which of them kill is found out one by one.
                self._mended.clear()
                killers = {number for number in excused if self._keys(number) is None}
                with self._noting:
                    self._skip |= killers - self._mended
                return Look(trouble="a damaged store killed whoever looked at it")

    def resting(self) -> Lock:
        """Held, nobody looks: no file of any member is open here."""
        return self._turn

    def live_keys(self, number: int) -> frozenset[bytes]:
        """Packed keys of the shards that lie on a node now; none where its store cannot be looked at."""
        with self._turn:
            return self._keys(number) or frozenset()

    def _keys(self, number: int) -> frozenset[bytes] | None:
        """As :meth:`live_keys`; None where looking kills."""
        try:
            return self._pool.submit(_live_keys, number).result()
        except HoldfastError:
            return frozenset()
        except BrokenProcessPool:
            self._begin_anew()
            return None

    def _begin_anew(self) -> None:
        self._pool.shutdown()
        self._pool = self._made()

    def mended(self, numbers: Collection[int]) -> None:
        """The disks of these nodes are good again: whoever looks at them will live."""
        with self._noting:
            self._mended |= frozenset(numbers)
            self._skip -= frozenset(numbers)

    def close(self) -> None:
        """End the looking process."""
        self._pool.shutdown()
