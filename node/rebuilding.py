"""Bringing back one slot's shards: pull from peers, prove every chunk by its id, store, sign.

For each stripe the cheapest proof is tried first: what this node has itself; a
copy from another holder of the same slot, which must fit the catalogue's stripe
digest; else k shards of other slots, decoded, where the chunk's id decides. What
cannot be had now is said so, with every source that did not have what it should.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from holdfast.node.limits import PULL_ROUNDS_MAX, PULL_TIMEOUT_S
from holdfast.node.membership import Identity
from holdfast.node.store import Damaged, Found, Put, ShardKey
from holdfast.node.writer import Writer
from holdfast.protocol import erasure
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import HoldfastError, IntegrityFailure, NoRoom
from holdfast.protocol.failpoints import reached
from holdfast.protocol.ids import Digest, NodeId
from holdfast.protocol.limits import SHARD_BATCH_ENTRIES_MAX
from holdfast.protocol.messages.repair import (
    PullEntry,
    PullHeader,
    PullOrder,
    PullSource,
    Rebuild,
    RebuildEntry,
    RebuiltEntry,
    WrongShard,
)
from holdfast.protocol.requests import Signer
from holdfast.protocol.stripe_reading import Reading, finish, open_read_answer, take_answer
from holdfast.protocol.stripes import ShardRecord, StripeHeader, digest_of
from holdfast.protocol.transport import Transport, body_digest

__all__ = ["Outcome", "Rebuilder"]

T = TypeVar("T")
_log = structlog.get_logger()
_NO_STRIPE = Digest(bytes(32))


@dataclass(slots=True)
class Outcome:
    """What came of one rebuild; ``entries`` in the order asked."""

    entries: list[RebuiltEntry]
    wrong: list[WrongShard] = field(default_factory=list)
    pulled_bytes: int = 0
    stored_bytes: int = 0


class Rebuilder:
    """Rebuilds shards on this node. One for the process; calls may overlap.

    Args:
        pool: where hashing and coding run.
    """

    def __init__(
        self, identity: Identity, writer: Writer, transport: Transport, pool: ThreadPoolExecutor
    ) -> None:
        self._identity = identity
        self._writer = writer
        self._transport = transport
        self._pool = pool
        self._signer = Signer("node", b"", identity.node, identity.key, identity.cluster)

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def rebuild(self, asked: Rebuild, order: PullOrder) -> Outcome:
        """Store what is asked, durably; see :class:`RebuiltEntry` for what may become of each stripe."""
        work = _Work(asked, order)
        own = [work.own_key(entry) for entry in asked.entries]
        await self._off_loop(lambda: self._look_here(work, own))
        await self._keep(work, own)
        await self._pull(work)
        reached("node.rebuild.pulled")
        puts = await self._off_loop(work.make)
        await self._store(work, puts)
        reached("node.rebuild.stored")
        return work.outcome()

    def _look_here(self, work: _Work, own: Sequence[ShardKey]) -> None:
        """What lies here already counts when it is the stripe the catalogue names."""
        for number, outcome in enumerate(self._writer.store.read(own)):
            if isinstance(outcome, Found):
                record = ShardRecord.unpack_header(outcome.header)
                if work.fits(number, record.stripe):
                    work.done[number] = RebuiltEntry("ok", record.stripe.stripe_digest)
            elif isinstance(outcome, Damaged):
                work.damaged_here.append(own[number])

    async def _keep(self, work: _Work, own: Sequence[ShardKey]) -> None:
        """What lies here may be marked, left over from when this node held the slot before: not any more."""
        here = sorted(work.done)
        if not here:
            return
        there = await self._writer.run(lambda store: store.keep([own[number] for number in here]))
        for number, is_there in zip(here, there, strict=True):
            if not is_there:  # erased since it was read
                del work.done[number]

    async def _pull(self, work: _Work) -> None:
        """Rounds of pulls until every stripe is there or no source is left."""
        for _ in range(PULL_ROUNDS_MAX):
            asked = work.plan_round()
            if not asked:
                return
            await asyncio.gather(*(self._ask(work, source, numbers) for source, numbers in asked.items()))

    async def _ask(self, work: _Work, source: PullSource, numbers: list[int]) -> None:
        """One slot's shards from one node; answers may come in several parts."""
        ticket = encode(work.asked.pull)
        left = numbers
        while left:
            portion = left[:SHARD_BATCH_ENTRIES_MAX]
            entries = [work.asked.entries[number] for number in portion]
            raw = encode(
                PullHeader(
                    entries=[PullEntry(e.account, e.chunk, e.generation, source.slot) for e in entries]
                )
            )
            try:
                body = await self._transport.send(
                    "POST",
                    source.url,
                    "/v1/shards/pull",
                    [raw],
                    signer=self._signer,
                    receiver=source.node,
                    digest=body_digest(raw, ticket),
                    ticket=ticket,
                    reads=True,
                    timeout_s=PULL_TIMEOUT_S,
                )
                answer, shards = open_read_answer(body, len(portion))
            except HoldfastError as error:
                work.silent.add(source.node)
                _log.info("a source does not answer", node=source.node.short, why=error.what)
                return
            work.pulled_bytes += sum(len(shard) for shard in shards)
            covered = left[: len(answer.results)]
            readings = [work.readings[number] for number in covered]
            wrong = await self._off_loop(
                lambda r=readings, a=answer, s=shards: take_answer(r, source.slot, a.results, s)  # type: ignore[misc]
            )
            number_of = {id(reading): number for reading, number in zip(readings, covered, strict=True)}
            work.wrong.extend(
                WrongShard(number_of[id(reading)], source.slot, source.node, kind)
                for reading, kind, _ in wrong
            )
            left = left[len(answer.results) :]

    async def _store(self, work: _Work, puts: dict[int, Put]) -> None:
        """Make the shards durable; one that does not fit takes no other with it."""
        if work.damaged_here:
            damaged = work.damaged_here
            await self._writer.run(lambda store: store.quarantine(damaged))
        if not puts:
            return
        try:
            await self._writer.put(list(puts.values()))
        except NoRoom:
            for number in puts:
                work.done[number] = RebuiltEntry("full", _NO_STRIPE)
            return
        except HoldfastError as error:
            if isinstance(error, IntegrityFailure) or len(puts) > 1:
                await self._store_singly(work, puts)
                return
            raise
        for number, put in puts.items():
            work.stored(number, put)

    async def _store_singly(self, work: _Work, puts: dict[int, Put]) -> None:
        """A batch is stored whole or not at all: find the one that does not go in."""
        for number, put in puts.items():
            try:
                await self._writer.put([put])
            except HoldfastError as error:
                _log.warning("a rebuilt shard was not stored", chunk=put.record.chunk.short, why=str(error))
                work.done[number] = RebuiltEntry("short", _NO_STRIPE)
            else:
                work.stored(number, put)


class _Work:
    """One rebuild under way. Numbers are places in the request."""

    def __init__(self, asked: Rebuild, order: PullOrder) -> None:
        self.asked = asked
        self.from_group = order.group
        self.same_group = order.group == asked.group
        self.readings = [self._reading(entry) for entry in asked.entries]
        self.done: dict[int, RebuiltEntry] = {}
        self.damaged_here: list[ShardKey] = []
        self.silent: set[NodeId] = set()
        self.wrong: list[WrongShard] = []
        self.pulled_bytes = 0
        self.stored_bytes = 0

    def _reading(self, entry: RebuildEntry) -> Reading:
        return Reading(
            entry.chunk,
            self.from_group,
            entry.generation,
            entry.sealed_bytes,
            entry.stripe,
            self.asked.from_profile,
            frozenset(entry.missing),
        )

    def own_key(self, entry: RebuildEntry) -> ShardKey:
        """Where the entry's shard lies on this node."""
        return ShardKey(self.asked.group, self.asked.slot, entry.account, entry.chunk, entry.generation)

    def fits(self, number: int, stripe: StripeHeader) -> bool:
        """Is a stored record's stripe the one asked for?"""
        entry = self.asked.entries[number]
        if stripe.profile != self.asked.profile or stripe.sealed_bytes != entry.sealed_bytes:
            return False
        return not self.same_group or stripe.stripe_digest == entry.stripe

    def _is_copied(self, number: int) -> bool:
        """Did the very shard come from another holder of the slot?"""
        return self.same_group and self.readings[number].has_slot(self.asked.slot)

    def plan_round(self) -> dict[PullSource, list[int]]:
        """Whom to ask for which stripes now; empty when nothing more can be asked.

        A copy of the slot itself comes first, alone: it costs a k-th of decoding.
        """
        planned: dict[tuple[int, NodeId, str], list[int]] = defaultdict(list)
        for number, reading in enumerate(self.readings):
            if number in self.done or self._is_copied(number) or reading.has_enough:
                continue
            sources = [
                source
                for source in self.asked.sources
                if source.node not in self.silent and not reading.tried_source(source.slot, source.node)
            ]
            copies = [s for s in sources if self.same_group and s.slot == self.asked.slot]
            lacking = reading.profile.k - reading.good_count
            others = sorted(
                (s for s in sources if not reading.has_slot(s.slot) and s not in copies),
                key=lambda s: (s.slot in reading.missing, s.slot),
            )
            for source in copies[:1] or others[:lacking]:
                reading.tried.add((source.slot, source.node))
                planned[(source.slot, source.node, source.url)].append(number)
        return {PullSource(*source): numbers for source, numbers in planned.items()}

    def make(self) -> dict[int, Put]:
        """The shards to store, by number; the rest is noted as short or wrong. Decodes and hashes."""
        puts: dict[int, Put] = {}
        for number, reading in enumerate(self.readings):
            if number in self.done:
                continue
            if self._is_copied(number):
                assert reading.header is not None
                puts[number] = self._put(number, reading.header, reading.shards[self.asked.slot])
            elif not reading.has_enough:
                self.done[number] = RebuiltEntry("short", _NO_STRIPE)
            elif (put := self._encoded(number, reading)) is not None:
                puts[number] = put
            else:
                self.done[number] = RebuiltEntry("wrong", _NO_STRIPE)
            reading.shards.clear()
        return puts

    def _put(self, number: int, stripe: StripeHeader, shard: bytes | memoryview) -> Put:
        entry, asked = self.asked.entries[number], self.asked
        record = ShardRecord(entry.account, entry.chunk, entry.generation, asked.group, asked.slot, stripe)
        return Put(record, shard)

    def _encoded(self, number: int, reading: Reading) -> Put | None:
        """The slot's shard of a chunk that its id proves; None when it does not, or its stripe lies."""
        (sealed,) = finish([reading])
        if sealed is None:
            return None
        profile, slot = self.asked.profile, self.asked.slot
        shards = erasure.encode(profile, sealed)
        if self.same_group:
            assert reading.header is not None
            if digest_of(shards[slot]) != reading.header.digest(slot):
                return None  # the stripe digest was made from other shards than the chunk's
            return self._put(number, reading.header, shards[slot])
        digests = b"".join(digest_of(shard) for shard in shards)
        return self._put(number, StripeHeader(profile, len(sealed), digests), shards[slot])

    def stored(self, number: int, put: Put) -> None:
        """It is durable."""
        self.stored_bytes += len(put.shard)
        self.done[number] = RebuiltEntry("ok", put.record.stripe.stripe_digest)

    def outcome(self) -> Outcome:
        """What came of it."""
        entries = [self.done[number] for number in range(len(self.readings))]
        return Outcome(entries, self.wrong, self.pulled_bytes, self.stored_bytes)
