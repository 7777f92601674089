"""One comparison of a node with the catalogue, from its sums down to the shards that differ."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from holdfast.coordinator.adopting import FoundShard
from holdfast.coordinator.catalogue import inventories, strays
from holdfast.coordinator.catalogue.engine import batched
from holdfast.coordinator.catalogue.erasures import set_unreconciled
from holdfast.coordinator.catalogue.inventories import SortedOut
from holdfast.coordinator.catalogue.nodes import NodeRow
from holdfast.coordinator.comparing import compare
from holdfast.coordinator.erasing import away_nodes
from holdfast.coordinator.limits import (
    COMPARE_CALL_TIMEOUT_S,
    COMPARE_MUST_AT_ONCE,
    COMPARE_REST,
    COMPARE_ROWS_AT_ONCE,
    COMPARE_SLOTS_MAX,
    COUNTED_BYTES_MAX,
    GROUP_MAX,
)
from holdfast.protocol.errors import BadRequest, Conflict, IntegrityFailure
from holdfast.protocol.inventories import POSITION_BYTES, Sum, position, position_parts
from holdfast.protocol.limits import INVENTORY_KEYS_MAX, STRIPE_SHARDS_MAX
from holdfast.protocol.messages.inventory import (
    HeadersRead,
    KeysRead,
    RangesRead,
    ReadHeaders,
    ReadKeys,
    ReadRanges,
    ReadSums,
    SumsRead,
)
from holdfast.protocol.messages.nodes import DeletionEntry
from holdfast.protocol.stripes import ShardRecord

if TYPE_CHECKING:
    from holdfast.coordinator.service.desk import Desk

__all__ = ["Told", "Walk"]

T = TypeVar("T")
_log = structlog.get_logger()
Slot = tuple[int, int]


@dataclass(slots=True)
class Told:
    """What came of it: shards the node has, noted as gone, given up, kept for now, and strays."""

    shards: int = 0
    gone: int = 0
    freed: int = 0
    kept: int = 0
    strays: int = 0


class Walk:
    """Compares one node. Everything it decides is durable at once; it may end anywhere.

    Args:
        is_hurried: others wait for it: no rest between questions.

    Raises (from :meth:`compare`):
        HoldfastError: the node does not answer, or not as it must.
    """

    def __init__(self, desk: Desk, node: NodeRow, *, is_hurried: bool) -> None:
        self._desk = desk
        self._node = node
        self._is_hurried = is_hurried
        self._told = Told()

    async def compare(self) -> Told:
        """All slots: those that the node holds, and those that it has shards of."""
        sums = await self._sums()
        if self._desk.reconciling.is_old:
            counts = {slot: there.count for slot, there in sums.items()}
            self._desk.reconciling.counts[self._node.id] = counts
        groups = self._desk.live.groups.values()
        held = {(g.id, g.members.index(self._node.id)) for g in groups if self._node.id in g.members}
        for slot in sorted(held | sums.keys()):
            if slot in self._desk.live.moves:
                continue  # whatever lies there is proven by the filling, or a source for it
            await self._compare_slot(slot, sums.get(slot, Sum()))
        return self._told

    async def _ask(self, target: str, message: Any, answer: type[T]) -> T:
        began_s = self._desk.source.monotonic()
        told = await self._desk.calls.ask(
            self._node, "POST", target, message, answer, timeout_s=COMPARE_CALL_TIMEOUT_S
        )
        if not self._is_hurried:
            await asyncio.sleep(COMPARE_REST * (self._desk.source.monotonic() - began_s))
        return told

    async def _sums(self) -> dict[Slot, Sum]:
        found: dict[Slot, Sum] = {}
        after = b""
        while True:
            told = await self._ask("/v1/inventory/sums", ReadSums(after=after), SumsRead)
            if told.store != self._node.store:
                raise Conflict(f"node {self._node.id.short} answers from another store than it reports")
            for part in told.slots:
                in_bounds = 0 <= part.group <= GROUP_MAX and 0 <= part.slot < STRIPE_SHARDS_MAX
                if not in_bounds or not 0 <= part.shards <= COUNTED_BYTES_MAX:
                    raise BadRequest("a node tells of a slot that no group can have, or of too many shards")
                total = found.setdefault((part.group, part.slot), Sum())
                if len(found) > COMPARE_SLOTS_MAX:
                    raise BadRequest("a node tells of more slots than a cluster has")
                total.join(Sum(count=part.shards, digest=part.sum))
                self._told.shards += part.shards
            if not told.next:
                return found
            if told.next <= after:
                raise BadRequest("an inventory goes round in circles")
            after = told.next

    async def _compare_slot(self, slot: Slot, there: Sum) -> None:
        catalogue, node = self._desk.catalogue, self._node.id
        expected = await catalogue.read(lambda c: inventories.expected_sum(c, node, *slot))
        if expected is None:
            if there.count and slot not in self._desk.live.moves:
                await self._list_over(slot)
        elif expected.sum != there:
            await self._compare_ranges(slot, expected.version)

    async def _list_over(self, slot: Slot) -> None:
        """Everything in a slot that the node does not hold (any more)."""
        after = b""
        while True:
            told = await self._ask("/v1/inventory/keys", ReadKeys(**_bounds(slot, after, b"")), KeysRead)
            there = _split(told.positions)
            await self._sort_out(slot, after, there)
            if told.is_end:
                return
            after = _on(after, there)

    async def _compare_ranges(self, slot: Slot, version: int) -> None:
        """Range by range, as the node cuts them; then what must lie behind the last one."""
        group, number = slot
        after, is_end = b"", False
        while not is_end:
            told = await self._ask(
                "/v1/inventory/ranges", ReadRanges(group=group, slot=number, after=after), RangesRead
            )
            for part in told.ranges:
                there = Sum(count=part.shards, digest=part.sum)
                await self._compare_span(slot, version, after, part.until, there)
                after = _on(after, [part.until])
            is_end = told.is_end
            if not told.ranges and not is_end:
                raise BadRequest("an inventory does not get on")
        await self._compare_span(slot, version, after, b"", None)

    async def _compare_span(
        self, slot: Slot, version: int, after: bytes, until: bytes, there: Sum | None
    ) -> None:
        """A range of the node's; in portions, should much more belong there. ``there``: the node's sum."""
        at = after
        while True:
            must = await self._must(slot, at, until, COMPARE_MUST_AT_ONCE)
            is_whole = len(must) < COMPARE_MUST_AT_ONCE
            if is_whole and at == after and Sum(must) == there:
                return
            stop = until if is_whole else must[-1]
            await self._compare_range(slot, version, at, stop, must)
            if is_whole:
                return
            at = stop

    async def _must(self, slot: Slot, after: bytes, until: bytes, most: int) -> list[bytes]:
        """What must lie in a range."""
        return await self._desk.catalogue.read(
            lambda c: inventories.expected_positions(c, *slot, after, until, most)
        )

    async def _compare_range(
        self, slot: Slot, version: int, after: bytes, until: bytes, must: list[bytes]
    ) -> None:
        """What lies there is listed after what must: nothing can be on its way in between.

        Each portion is worked off as it comes: whatever a node lists, one portion is in memory.
        """
        at = after
        while True:
            told = await self._ask("/v1/inventory/keys", ReadKeys(**_bounds(slot, at, until)), KeysRead)
            there = _split(told.positions)
            behind = at if told.is_end else _on(at, there)
            here = len(must) if told.is_end else bisect_right(must, behind)
            gone, over = compare(must[:here], there)
            must = must[here:]
            for some in batched(gone, COMPARE_ROWS_AT_ONCE):
                self._told.gone += await self._desk.catalogue.write(
                    lambda c, s=some: inventories.note_absent(c, self._node.id, *slot, version, s)  # type: ignore[misc]
                )
            if over:
                await self._sort_out(slot, at, over)
            if told.is_end:
                return
            at = behind

    async def _sort_out(self, slot: Slot, after: bytes, over: list[bytes]) -> None:
        desk, hold_s = self._desk, int(self._desk.sweeping.hold_s)
        for some in batched(over, COMPARE_ROWS_AT_ONCE):
            entries = [_entry(slot, packed) for packed in some]
            done: SortedOut = await desk.catalogue.write(
                lambda c, e=entries: inventories.sort_out(c, self._node.id, e, away_nodes(desk), hold_s)  # type: ignore[misc]
            )
            self._told.freed += done.freed
            self._told.kept += done.kept
            if done.strays:
                await self._note_strays(slot, after, some[-1], done.strays)
            after = some[-1]

    async def _note_strays(
        self, slot: Slot, after: bytes, until: bytes, found: Iterable[DeletionEntry]
    ) -> None:
        """Their record headers, kept until all nodes were looked at."""
        wanted = {position(entry.account, entry.chunk, entry.generation) for entry in found}
        shards: list[FoundShard] = []
        while True:
            told = await self._ask(
                "/v1/inventory/headers", ReadHeaders(**_bounds(slot, after, until)), HeadersRead
            )
            shards += filter(
                lambda shard: position(shard.account, shard.chunk, shard.generation) in wanted,
                (FoundShard.of(self._node.id, _record(slot, header)) for header in told.headers),
            )
            if not told.next:
                break
            after = _on(after, [told.next])
        self._told.strays += len(shards)
        is_readable = await self._desk.catalogue.write(
            lambda c: strays.note_strays(c, self._node.id, shards) and _is_old(c)
        )
        if is_readable and not self._desk.reconciling.is_old:
            _log.warning("nodes have stripes that the catalogue does not know: it is older than they are")


def _is_old(connection: Any) -> bool:
    """Whole stripes that no upload of this catalogue stored: it is an old copy of itself."""
    set_unreconciled(connection, True)
    return True


def _record(slot: Slot, header: bytes) -> ShardRecord:
    record = ShardRecord.unpack_header(header)
    if (record.group, record.slot) != slot:
        raise IntegrityFailure("a node tells the header of another slot's record")
    return record


def _entry(slot: Slot, packed: bytes) -> DeletionEntry:
    account, chunk, generation = position_parts(packed)
    return DeletionEntry(slot[0], slot[1], account, chunk, generation)


def _bounds(slot: Slot, after: bytes, until: bytes) -> dict[str, Any]:
    return {"group": slot[0], "slot": slot[1], "after": after, "until": until}


def _split(joined: bytes) -> list[bytes]:
    """Positions that were sent joined; raises BadRequest."""
    if len(joined) % POSITION_BYTES or len(joined) > INVENTORY_KEYS_MAX * POSITION_BYTES:
        raise BadRequest("positions are sent whole, and no more of them than asked for")
    return [joined[at : at + POSITION_BYTES] for at in range(0, len(joined), POSITION_BYTES)]


def _on(after: bytes, told: list[bytes]) -> bytes:
    """Where to go on behind; raises BadRequest when that is not further on."""
    if not told or len(told[-1]) != POSITION_BYTES or told[-1] <= after:
        raise BadRequest("an inventory does not get on")
    return told[-1]
