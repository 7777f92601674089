"""The uploader: sealed chunks become stripes on nodes and rows in the catalogue.

A batch goes: claim -> (what is said to be stored is proven by our own bytes) ->
encode and hash in a thread -> one PUT per node, all slots at once -> receipts
checked -> commit. Several batches are under way; bytes in flight are bounded.
A batch short of its write quorum names the failing nodes, gets other groups from
the coordinator, and is encoded anew for them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Self

from msgspec import Struct

from holdfast.client.leases import Leases, OpenUpload
from holdfast.client.limits import (
    BATCH_SEALED_BYTES,
    BATCHES_IN_FLIGHT_MAX,
    ENCODED_AT_ONCE_BYTES_MAX,
    HELD_SEALED_BYTES_MAX,
    LATE_RECEIPT_WAIT_S,
    PUT_TIMEOUT_S,
    SENT_AT_ONCE_BYTES_MAX,
)
from holdfast.client.link import Link
from holdfast.client.node_calls import HttpNodeCalls, NodeCalls
from holdfast.client.recent_chunks import RecentChunks
from holdfast.client.sealing import SealedChunk
from holdfast.client.stripe_batch import StripeBatch, check_receipt, encode_batch, proves_stored
from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.errors import (
    GroupMoved,
    HoldfastError,
    NoQuorum,
    NoRoom,
    TicketExpired,
    Unreachable,
)
from holdfast.protocol.failpoints import reached
from holdfast.protocol.ids import ChunkId, NodeId, UploadId
from holdfast.protocol.limits import CLAIM_CHUNKS_MAX
from holdfast.protocol.messages.uploads import Commit, Lease
from holdfast.protocol.signing import Signed

__all__ = ["UploadStats", "Uploader"]

_MAKE_ROOM = "Ask the operator for more room or nodes ('holdfast admin status' shows how full they are)."
_START_NODES = "Start the nodes named ('holdfast status' shows which are down), then run the command again."
_SEEN_MAX = 262_144
_BATCH_TRIES_MAX = 6
_LATE_WAIT_S = 3.0
_Claiming = asyncio.Future[dict[ChunkId, bytes]]
"""What has to be committed, and the generations replaced: see Uploader._claimed."""


class UploadStats(Struct):
    """What an upload has done so far; bytes are sealed bytes."""

    chunks: int = 0
    new_chunks: int = 0
    new_bytes: int = 0
    wire_bytes: int = 0
    missing_slots: int = 0


class _Room:
    """Bytes in flight: waits while there is no room; one batch always fits."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.used = 0
        self._changed = asyncio.Condition()

    async def take(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.used == 0 or self.used + count <= self._most)
            self.used += count

    async def give(self, count: int) -> None:
        async with self._changed:
            self.used -= count
            self._changed.notify_all()


async def _cancelled(tasks: Collection[asyncio.Task[None]]) -> None:
    """Let nothing of them go on."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Uploader:
    """One upload: an async context manager, and a ChunkSink.

    Args:
        link: a link signed by the account's device.
        expected_bytes: sealed bytes to reserve against the quota.
        calls: how nodes are called.
        open_upload: how it is opened, where not by itself.
        recent: what the client stored lately. Where it is given, what is small and comes last is sent without
            waiting for the claim, and not committed, but held for the head (:attr:`held`).
    """

    def __init__(
        self,
        link: Link,
        *,
        source: Source = SYSTEM,
        expected_bytes: int = 0,
        calls: NodeCalls | None = None,
        open_upload: OpenUpload | None = None,
        recent: RecentChunks | None = None,
    ) -> None:
        self._link = link
        self._expected_bytes = expected_bytes
        self._calls: NodeCalls = calls or HttpNodeCalls(link.transport, link.signer)
        self.upload = UploadId(source.random_bytes(16))
        self._leases = Leases(link, self.upload, source)
        self.stats = UploadStats()
        self.head_seq = 0
        self._seen: OrderedDict[ChunkId, None] = OrderedDict()
        self._room = _Room(BATCH_SEALED_BYTES * BATCHES_IN_FLIGHT_MAX)
        self._batches: set[asyncio.Task[None]] = set()
        self._late: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._open_upload = open_upload
        self._recent = recent
        self._holds_last = recent is not None
        self._is_last = False
        self._held: tuple[StripeBatch, list[SealedChunk], list[Signed]] | None = None
        self._is_over = False

    async def __aenter__(self) -> Self:
        try:
            self.head_seq = await self._leases.open(self._expected_bytes, self._open_upload)
        except NoQuorum:
            await self._end()  # it is open, and whoever opened it gives up
            raise
        reached("client.upload.opened")
        self._keeping = asyncio.create_task(self._leases.keep_alive())
        return self

    async def __aexit__(self, *_: object) -> None:
        running = [task for task in (self._keeping, *self._batches, *self._late) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if not self._is_over:
            await self._end()

    async def _end(self) -> None:
        # Nobody waits for this: an upload that is not ended expires by itself.
        with suppress(HoldfastError):
            await self._link.end_upload(self.upload)

    # ChunkSink

    async def put(self, batch: Sequence[SealedChunk]) -> None:
        """See ChunkSink.put."""
        self._raise_first()
        fresh = [chunk for chunk in batch if self._first_time(chunk.chunk_id)]
        self.stats.chunks += len(batch)
        if not fresh:
            return
        size = sum(len(chunk.sealed) for chunk in fresh)
        await self._room.take(size)
        self._raise_first()
        task = asyncio.create_task(self._run(fresh, size))
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)

    async def settle(self) -> None:
        """See ChunkSink.settle; what is :attr:`held` is durable on its nodes, and not committed."""
        self._is_last = True
        while self._batches:
            await asyncio.wait(set(self._batches))
        self._raise_first()
        if self._late:
            await asyncio.wait(set(self._late))

    async def reused(self, chunks: Sequence[ChunkId]) -> set[ChunkId]:
        """Claim chunks reused from older snapshots; gives those that are not stored any more."""
        gone: set[ChunkId] = set()
        for start in range(0, len(chunks), CLAIM_CHUNKS_MAX):
            portion = chunks[start : start + CLAIM_CHUNKS_MAX]
            answer = await self._link.claim(self.upload, portion)
            gone.update(chunk for chunk, stored in zip(portion, answer.stored, strict=True) if stored is None)
        return gone

    def _first_time(self, chunk: ChunkId) -> bool:
        if chunk in self._seen:
            return False
        self._seen[chunk] = None
        if len(self._seen) > _SEEN_MAX:
            self._seen.popitem(last=False)
        return True

    def _raise_first(self) -> None:
        if self._error is not None:
            raise self._error

    # One batch

    async def _run(self, chunks: list[SealedChunk], size: int) -> None:
        try:
            await self._store(chunks)
        except Exception as error:
            self._error = self._error or error
        finally:
            await self._room.give(size)

    async def _store(self, chunks: list[SealedChunk]) -> None:
        claiming = asyncio.create_task(self._claimed(chunks))
        try:
            sending = chunks
            if not self._is_sent_at_once(chunks):
                replaces = await claiming
                sending = [chunk for chunk in chunks if chunk.chunk_id in replaces]
            if sending:
                await self._send_to_any(sending, claiming)
            replaces = await claiming
        finally:
            claiming.cancel()
            await asyncio.gather(claiming, return_exceptions=True)
        if self._recent is not None:
            self._recent.add(chunk.chunk_id for chunk in chunks)
        new = [chunk for chunk in chunks if chunk.chunk_id in replaces]
        self.stats.new_chunks += len(new)
        self.stats.new_bytes += sum(len(chunk.sealed) for chunk in new)

    def _is_sent_at_once(self, chunks: list[SealedChunk]) -> bool:
        """So little that the claim is not waited for. What turns out to be stored is sent in vain, once."""
        return (
            self._recent is not None
            and sum(len(chunk.sealed) for chunk in chunks) <= SENT_AT_ONCE_BYTES_MAX
            and not self._recent.has_any(chunk.chunk_id for chunk in chunks)
        )

    async def _claimed(self, chunks: list[SealedChunk]) -> dict[ChunkId, bytes]:
        """What is not stored, or not as our own bytes prove, and what generation each takes the place of."""
        claimed = await self._link.claim(self.upload, [chunk.chunk_id for chunk in chunks])
        stored = [
            (chunk, told) for chunk, told in zip(chunks, claimed.stored, strict=True) if told is not None
        ]
        replaces: dict[ChunkId, bytes] = {
            chunk.chunk_id: told.replaces
            for chunk, told in zip(chunks, claimed.send, strict=True)
            if told is not None
        }
        wrong = await asyncio.to_thread(proves_stored, stored) if stored else {}
        return replaces | wrong

    async def _send_to_any(self, sending: list[SealedChunk], claiming: _Claiming) -> None:
        for attempt in range(1, _BATCH_TRIES_MAX + 1):
            try:
                await self._send(sending, claiming, await self._leases.next())
                break
            except (NoQuorum, GroupMoved, TicketExpired) as error:
                if attempt == _BATCH_TRIES_MAX:
                    raise
                await self._leases.renew(after=error)

    async def _send(self, chunks: list[SealedChunk], claiming: _Claiming, lease: Lease) -> None:
        """Store a batch in one group and commit what of it is not stored already.

        Raises:
            NoQuorum: too few nodes took it. GroupMoved, TicketExpired: fresh leases are needed.
        """
        if sum(len(chunk.sealed) for chunk in chunks) <= ENCODED_AT_ONCE_BYTES_MAX:
            batch = encode_batch(lease, chunks)
            nodes = await self._link.nodes(lease.members, self._leases.epoch)
        else:
            batch, nodes = await asyncio.gather(
                asyncio.to_thread(encode_batch, lease, chunks),
                self._link.nodes(lease.members, self._leases.epoch),
            )
        receipts: list[Signed] = []
        errors: dict[NodeId, HoldfastError] = {}

        async def store(slot: int) -> None:
            node = lease.members[slot]
            try:
                if node not in nodes:
                    raise Unreachable(f"node {node.short} is not on the cluster map")
                receipt = await self._calls.put(
                    nodes[node], lease.ticket, batch.headers[slot], batch.shards[slot], PUT_TIMEOUT_S
                )
                check_receipt(receipt, batch, slot, nodes[node], self._link.cluster, self.upload)
                self.stats.wire_bytes += sum(len(shard) for shard in batch.shards[slot])
                receipts.append(receipt)
            except HoldfastError as error:
                errors[node] = error.bare()
                self._leases.blame(node, error)

        slots = [slot for slot in range(lease.profile.n) if not self._leases.is_failing(lease.members[slot])]
        tasks = {slot: asyncio.create_task(store(slot)) for slot in slots}
        try:
            await self._until_quorum(tasks, receipts, lease)
            committing = batch.committing(await claiming)
        except BaseException:
            await _cancelled(tasks.values())
            raise
        if not committing.commit:  # all of it is stored: it was sent in vain, whoever took it
            await _cancelled(tasks.values())
            return
        if len(receipts) < lease.profile.write_quorum:
            self._raise_short(lease, errors)
        early = list(receipts)
        reached("client.put.acknowledged")
        if self._may_hold(chunks, lease, early):
            self._held = (committing, chunks, early)
            return
        answer = await self._link.commit(self.upload, Commit(chunks=committing.commit, receipts=early))
        reached("client.commit.answered")
        self.stats.missing_slots += sum(chunk.missing for chunk in answer.chunks)
        waiting = {slot: task for slot, task in tasks.items() if not task.done()}
        if waiting or len(receipts) > len(early):
            late = asyncio.create_task(self._finish_late(committing, waiting, receipts, len(early), lease))
            self._late.add(late)
            late.add_done_callback(self._late.discard)

    # What comes last

    def _may_hold(self, chunks: list[SealedChunk], lease: Lease, receipts: list[Signed]) -> bool:
        """The last batch, whole on every node, and so small that nobody minds sending it again."""
        size = sum(len(chunk.sealed) for chunk in chunks)
        is_whole = len(receipts) == lease.profile.n
        is_alone = self._is_last and len(self._batches) == 1 and self._held is None
        return self._holds_last and is_alone and is_whole and size <= HELD_SEALED_BYTES_MAX

    @property
    def held(self) -> Commit | None:
        """See heads.HeldCommit: the last batch, once everything else has settled."""
        return Commit(chunks=self._held[0].commit, receipts=self._held[2]) if self._held is not None else None

    async def commit_held(self) -> None:
        """See heads.HeldCommit."""
        if self._held is None:
            return
        self._holds_last = False
        (batch, chunks, receipts), self._held = self._held, None
        try:
            await self._link.commit(self.upload, Commit(chunks=batch.commit, receipts=receipts))
        except (NoQuorum, GroupMoved, TicketExpired) as error:
            await self._leases.renew(after=error)
            claimed: asyncio.Future[dict[ChunkId, bytes]] = asyncio.get_running_loop().create_future()
            claimed.set_result({chunk.chunk: chunk.replaces for chunk in batch.commit})
            await self._send_to_any(chunks, claimed)

    def ended_with_head(self) -> None:
        """See heads.HeldCommit."""
        self._held, self._is_over = None, True

    async def _until_quorum(
        self, tasks: dict[int, asyncio.Task[None]], receipts: list[Signed], lease: Lease
    ) -> None:
        """Wait for all slots; once the quorum is there, only briefly for the others."""
        pending = set(tasks.values())
        while pending and len(receipts) < lease.profile.write_quorum:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            await asyncio.wait(pending, timeout=LATE_RECEIPT_WAIT_S)

    def _raise_short(self, lease: Lease, errors: dict[NodeId, HoldfastError]) -> None:
        for error in errors.values():
            if isinstance(error, GroupMoved | TicketExpired):
                raise error
        named = ", ".join(sorted(node.short for node in errors))
        reasons = {error.what for error in errors.values()}
        full = any(isinstance(error, NoRoom) for error in errors.values())
        raise NoQuorum(
            f"group {lease.group} took fewer than {lease.profile.write_quorum} of {lease.profile.n} shards",
            why=f"nodes {named} failed: {'; '.join(sorted(reasons))}"
            if errors
            else "its nodes do not answer",
            do=_MAKE_ROOM if full else _START_NODES,
            nodes=[str(node) for node in errors],
        )

    async def _finish_late(
        self,
        batch: StripeBatch,
        waiting: dict[int, asyncio.Task[None]],
        receipts: list[Signed],
        told: int,
        lease: Lease,
    ) -> None:
        """Give slow nodes a little longer; tell the coordinator of receipts that came late."""
        if waiting:
            _, pending = await asyncio.wait(waiting.values(), timeout=_LATE_WAIT_S)
            for slot, task in waiting.items():
                if task in pending:
                    task.cancel()
                    node = lease.members[slot]
                    self._leases.blame(node, Unreachable(f"node {node.short} is too slow"))
            await asyncio.gather(*waiting.values(), return_exceptions=True)
        if len(receipts) > told:
            with suppress(HoldfastError):  # only a bonus: the slots stay noted as missing
                answer = await self._link.commit(self.upload, Commit(chunks=batch.commit, receipts=receipts))
                before = (lease.profile.n - told) * len(batch.commit)
                self.stats.missing_slots -= before - sum(chunk.missing for chunk in answer.chunks)
