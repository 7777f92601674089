"""The downloader: chunks come back from any k of their n shards, verified at every step.

Chunks are located in batches, asked for in rounds: first k slots per stripe, data
slots first; what fails is asked of other slots at once, what lags while it may still
answer (client/hedging.py); where too few are left, those that did not answer are waited for a little
while (client/awaited_nodes.py). A decoded chunk must hash to its id, which proves every byte of
its shards; when it does not, each shard must be the one that the catalogue's stripe digest
names, and from then on that is looked at as they arrive. Never wrong bytes, never a silent hole.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from msgspec import Struct

from holdfast.client.awaited_nodes import AwaitedNodes
from holdfast.client.chunks_lacking import not_stored, too_few
from holdfast.client.hedging import Hedging
from holdfast.client.limits import FETCHES_IN_FLIGHT_MAX, NODE_REST_S, READ_AGAIN_PAUSE_S, READ_TIMEOUT_S
from holdfast.client.link import Link
from holdfast.client.node_calls import HttpNodeCalls, NodeCalls
from holdfast.client.read_batches import read_batches
from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.ids import ChunkId, NodeId
from holdfast.protocol.limits import REPORTS_MAX, SHARD_BATCH_ENTRIES_MAX
from holdfast.protocol.messages.cluster import MapNode
from holdfast.protocol.messages.nodes import ReadEntry, ReadHeader
from holdfast.protocol.messages.uploads import Located, LocatedGroup, ReportEntry
from holdfast.protocol.stripe_reading import Reading, Sealed, finish, take_answer

__all__ = ["Downloader"]

_log = logging.getLogger(__name__)
_LOCATE_CHUNKS = 1024
_LAG_S = 2.0
"""A read that takes longer is asked of other slots, hedges left or not, while it may still answer."""
_LOOK_S = 0.05
"""How often to look whether a hedge may be made by now."""


class _Ask(Struct, eq=False):
    """One request under way, for those readings whose answers are still to come.

    ``lags``: others are asked meanwhile, it may still answer.
    """

    node: NodeId
    slot: int
    readings: list[Reading]
    task: asyncio.Task[None]
    started: float
    answer_bytes: int
    lags: bool = False


def _shard_bytes(readings: Sequence[Reading]) -> int:
    return sum(reading.profile.shard_bytes(reading.sealed_bytes) for reading in readings)


def _sources(reading: Reading, group: LocatedGroup, nodes: dict[NodeId, MapNode]) -> list[tuple[int, NodeId]]:
    """(slot, node) of every source that was not asked yet for a shard that is not here yet."""
    return [
        (slot, node)
        for slot, holders in enumerate(group.holders)
        for node in holders
        if node in nodes and not reading.tried_source(slot, node) and not reading.has_slot(slot)
    ]


class Downloader:
    """A ChunkSource over one link. Remembers which nodes failed, for a little while."""

    def __init__(
        self,
        link: Link,
        *,
        source: Source = SYSTEM,
        calls: NodeCalls | None = None,
        awaited: AwaitedNodes | None = None,
    ) -> None:
        self._link = link
        self._source = source
        self._calls: NodeCalls = calls or HttpNodeCalls(link.transport, link.signer)
        self._awaited = awaited or AwaitedNodes(source)
        self._resting: dict[NodeId, float] = {}
        self._reports: list[ReportEntry] = []
        self._lied_to = False
        self.hedging = Hedging()
        # Shared by all fetches: what bounds memory is how many batches are in flight together.
        self._slots = asyncio.Semaphore(FETCHES_IN_FLIGHT_MAX)

    async def fetch(self, wanted: Sequence[ChunkId]) -> AsyncIterator[tuple[ChunkId, Sealed | HoldfastError]]:
        """See ChunkSource.fetch."""
        ids = list(dict.fromkeys(wanted))
        done: asyncio.Queue[tuple[ChunkId, Sealed | HoldfastError] | BaseException | None] = asyncio.Queue()
        feeder = asyncio.create_task(self._feed(ids, done))
        try:
            while (found := await done.get()) is not None:
                if isinstance(found, BaseException):
                    try:
                        raise found
                    finally:
                        del found  # or its traceback and this frame would hold each other
                yield found
        finally:
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)
        await self._send_reports()

    async def _feed(
        self,
        ids: list[ChunkId],
        done: asyncio.Queue[tuple[ChunkId, Sealed | HoldfastError] | BaseException | None],
    ) -> None:
        """Locate, and run read batches, a few at a time; ends the queue with None or an error."""
        tasks: set[asyncio.Task[None]] = set()

        async def run(batch: list[Reading], group: LocatedGroup, nodes: dict[NodeId, MapNode]) -> None:
            try:
                for found in await self._read_batch(batch, group, nodes):
                    done.put_nowait(found)
            except Exception as error:
                done.put_nowait(error)
            finally:
                self._slots.release()

        try:
            for start in range(0, len(ids), _LOCATE_CHUNKS):
                portion = ids[start : start + _LOCATE_CHUNKS]
                located, _ = await asyncio.gather(self._link.locate(portion), self._load_map())
                groups = {group.group: group for group in located.groups}
                members = sorted({node for g in located.groups for holders in g.holders for node in holders})
                nodes = await self._link.nodes(members, located.epoch)
                self._note_down(located)
                for chunk, row in zip(portion, located.chunks, strict=True):
                    if row is None:
                        done.put_nowait((chunk, not_stored(chunk)))
                for batch in read_batches(portion, located):
                    await self._slots.acquire()
                    task = asyncio.create_task(run(batch, groups[batch[0].group], nodes))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
            if tasks:
                await asyncio.wait(set(tasks))
            done.put_nowait(None)
        except BaseException as error:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if not isinstance(error, Exception):
                raise
            done.put_nowait(error)

    async def _load_map(self) -> None:
        """Where no map is known yet. What is wrong with it shows when it is needed: one that a successor of
        the coordinator signed is believed when this link has met that one, with what is asked beside it."""
        with suppress(HoldfastError):
            await self._link.nodes([], 0)

    def _note_down(self, located: Located) -> None:
        self._awaited.told_down(located.down)
        for node in located.down:
            self._rest(node)

    def _rest(self, node: NodeId) -> None:
        self._resting[node] = self._source.monotonic() + NODE_REST_S

    def _is_resting(self, node: NodeId) -> bool:
        return self._resting.get(node, 0.0) > self._source.monotonic()

    # One batch

    async def _read_batch(
        self, batch: list[Reading], group: LocatedGroup, nodes: dict[NodeId, MapNode]
    ) -> list[tuple[ChunkId, Sealed | HoldfastError]]:
        """Ask until every chunk is there, or no source is left, nor may be back in a moment."""
        unreachable: dict[NodeId, HoldfastError] = {}
        found: list[tuple[ChunkId, Sealed | HoldfastError]] = []
        waited: set[ChunkId] = set()
        since_s: float | None = None
        while batch:
            await self._gather(batch, group, nodes, unreachable)
            lacking, short = [], []
            for reading, sealed in zip(batch, await asyncio.to_thread(finish, batch), strict=True):
                lied = self._note_lies(reading)
                if sealed is not None:
                    found.append((reading.chunk, sealed))
                    if reading.chunk in waited:
                        self._awaited.helped()
                elif lied:
                    lacking.append(reading)  # there may be other sources
                else:
                    short.append(reading)
            hoped = [reading for reading in short if self._may_be_had(reading, group, unreachable)]
            if hoped and since_s is None:
                since_s = self._source.monotonic()
            if since_s is None or not (hoped and await self._awaited.wait(since_s)):
                hoped = []
            found += [
                (reading.chunk, too_few(reading, group, nodes, unreachable))
                for reading in short
                if reading not in hoped
            ]
            batch = lacking + hoped
            if hoped:
                waited.update(reading.chunk for reading in hoped)
                for reading in batch:
                    reading.tried = {(slot, node) for slot, node in reading.tried if node not in unreachable}
                unreachable.clear()
                nodes = await self._addresses(nodes)
        return found

    async def _addresses(self, nodes: dict[NodeId, MapNode]) -> dict[NodeId, MapNode]:
        """Where these nodes are now: one that was started again may serve at another port."""
        with suppress(HoldfastError, TimeoutError):
            async with asyncio.timeout(READ_AGAIN_PAUSE_S):
                now = await self._link.all_nodes()
                return {node: now.get(node, known) for node, known in nodes.items()}
        return nodes

    def _may_be_had(
        self, reading: Reading, group: LocatedGroup, unreachable: dict[NodeId, HoldfastError]
    ) -> bool:
        """Would there be enough shards, were all back that may be?"""
        hoped = sum(
            not reading.has_slot(slot)
            and any(node in unreachable and self._awaited.may_be_back(node) for node in holders)
            for slot, holders in enumerate(group.holders)
        )
        return hoped > 0 and reading.integrity is None and reading.good_count + hoped >= reading.profile.k

    def _note_lies(self, reading: Reading) -> bool:
        """Were shards found wrong that had been taken unproven? From now on none is."""
        self._reports.extend(
            ReportEntry(reading.chunk, reading.generation, slot, node, "wrong", record[:8192])
            for slot, node, record in reading.lies
        )
        lied = bool(reading.lies)
        self._lied_to |= lied
        reading.lies.clear()
        return lied

    async def _gather(
        self,
        batch: list[Reading],
        group: LocatedGroup,
        nodes: dict[NodeId, MapNode],
        unreachable: dict[NodeId, HoldfastError],
    ) -> None:
        """Ask until every chunk has k shards or no source is left; at once when one fails or lags."""
        asks: set[_Ask] = set()
        try:
            while not all(reading.has_enough for reading in batch):
                hedging = self._note_lagging(asks, group, nodes)
                for (node, slot), readings in self._plan_round(batch, group, nodes, asks).items():
                    self.hedging.asked()
                    if hedging:
                        self.hedging.hedged()
                    work = self._ask(nodes[node], slot, readings, group, unreachable)
                    started = self._source.monotonic()
                    task, size = asyncio.create_task(work), _shard_bytes(readings)
                    asks.add(_Ask(node, slot, readings, task, started, size))
                if not asks:
                    break
                await asyncio.wait(
                    [ask.task for ask in asks],
                    timeout=self._until_lag_s(asks),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                done = {ask for ask in asks if ask.task.done()}
                asks -= done
                for ask in done:
                    ask.task.result()
        finally:
            for ask in asks:
                ask.task.cancel()
                if ask.lags:
                    self._rest(ask.node)  # others were quicker: they are asked first for a while
            await asyncio.gather(*(ask.task for ask in asks), return_exceptions=True)
            for ask in asks:
                for reading in ask.readings:
                    reading.tried.discard((ask.slot, ask.node))  # asked again if others have lied

    def _note_lagging(self, asks: set[_Ask], group: LocatedGroup, nodes: dict[NodeId, MapNode]) -> bool:
        """Mark what lags, as far as hedges are left, and what takes very long anyway. Were there hedges?"""
        now, hedging = self._source.monotonic(), False
        for ask in asks:
            if ask.lags:
                continue
            waited = now - ask.started
            if waited >= _LAG_S:
                ask.lags = True
            elif (
                waited >= self.hedging.lag_s(ask.answer_bytes, _LAG_S)
                and self.hedging.may_hedge()
                and any(_sources(reading, group, nodes) for reading in ask.readings)
            ):
                ask.lags = hedging = True
        return hedging

    def _until_lag_s(self, asks: set[_Ask]) -> float | None:
        """How long to wait at most until something lags; None: until something happens."""
        now = self._source.monotonic()
        due = [
            ask.started
            + (self.hedging.lag_s(ask.answer_bytes, _LAG_S) if self.hedging.may_hedge() else _LAG_S)
            for ask in asks
            if not ask.lags
        ]
        # What lags already but could not be hedged is looked at again when it counts as failed.
        due = [at if at > now else max(now, now + _LOOK_S) for at in due]
        return max(0.0, min(due) - now) if due else None

    def _plan_round(
        self, batch: list[Reading], group: LocatedGroup, nodes: dict[NodeId, MapNode], asks: set[_Ask]
    ) -> dict[tuple[NodeId, int], list[Reading]]:
        """Who to ask for what: for each chunk as many untried slots as it lacks beyond what is on its way.

        Slots noted as missing come last, but they do come: a note is a hint, and may be wrong.
        """
        coming = Counter(reading for ask in asks if not ask.lags for reading in ask.readings)
        asked: dict[tuple[NodeId, int], list[Reading]] = {}
        for reading in batch:
            lacking = reading.profile.k - reading.good_count - coming[reading]
            if lacking <= 0:
                continue
            sources = [
                (slot in reading.missing, self._is_resting(node), slot, node)
                for slot, node in _sources(reading, group, nodes)
            ]
            for _, _, slot, node in sorted(sources)[:lacking]:
                reading.tried.add((slot, node))
                asked.setdefault((node, slot), []).append(reading)
        return asked

    async def _ask(
        self,
        node: MapNode,
        slot: int,
        readings: list[Reading],
        group: LocatedGroup,
        unreachable: dict[NodeId, HoldfastError],
    ) -> None:
        """One slot's shards of a batch from one node; answers may come in several parts."""
        left = readings  # those that are still to come: whoever plans looks at them, too
        while left:
            header = ReadHeader(
                entries=[
                    ReadEntry(reading.chunk, reading.generation, slot)
                    for reading in left[:SHARD_BATCH_ENTRIES_MAX]
                ]
            )
            started = self._source.monotonic()
            try:
                answer, shards = await self._calls.read(node, group.ticket, header, READ_TIMEOUT_S)
            except HoldfastError as error:
                if not self._is_resting(node.id):
                    _log.info("node %s does not give its shards: %s", node.id.short, error.what)
                unreachable[node.id] = error.bare()
                self._rest(node.id)
                return
            now = self._source.monotonic()
            self.hedging.answered(now - started, sum(len(shard) for shard in shards))
            covered = len(answer.results)
            if self._lied_to:
                wrong = await asyncio.to_thread(take_answer, left[:covered], slot, answer.results, shards)
            else:
                wrong = take_answer(left[:covered], slot, answer.results, shards, node.id)
            del left[:covered]
            self._reports.extend(
                ReportEntry(reading.chunk, reading.generation, slot, node.id, kind, record[:8192])
                for reading, kind, record in wrong
            )

    async def _send_reports(self) -> None:
        reports, self._reports = self._reports[:REPORTS_MAX], []
        if reports:
            with suppress(
                HoldfastError
            ):  # telling is a courtesy; the read itself has succeeded or failed already
                await self._link.report(reports)
