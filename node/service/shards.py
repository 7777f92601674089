"""The node's HTTP shell: receive, admit, verify, write or read, answer.

Bodies in flight are bounded together; hashing, record building and reading run
in a small pool of threads (BLAKE3 lets go of the GIL), writing in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from holdfast.node.admission import Admitted, check_shard, pull_keys, read_keys, records_of
from holdfast.node.limits import (
    BODY_BYTES_MAX,
    IN_FLIGHT_BYTES_MAX,
    READ_ANSWER_BYTES_MAX,
    READ_TOGETHER_ENTRIES,
    WORKER_THREADS,
)
from holdfast.node.service.door import Door
from holdfast.node.store import Damaged, Found, Put, ShardKey
from holdfast.node.writer import Writer
from holdfast.protocol.byte_gate import ByteGate
from holdfast.protocol.clock import Source
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import BadRequest, Refused
from holdfast.protocol.failpoints import reached
from holdfast.protocol.handling import Answer, BodyReader, Request, Routes, msgpack_answer, read_body
from holdfast.protocol.limits import DELETION_ENTRIES_MAX, LARGE_BODY_BYTES
from holdfast.protocol.messages.nodes import (
    DeletionAnswer,
    DeletionOrder,
    NodeInfo,
    PutAnswer,
    PutHeader,
    ReadAnswer,
    ReadHeader,
    ReadResult,
)
from holdfast.protocol.messages.repair import PullHeader
from holdfast.protocol.receipts import Receipt, ReceiptEntry, encode_receipt
from holdfast.protocol.signing import Signed, sign, verify
from holdfast.protocol.transport import frame

__all__ = ["ShardHandlers"]

T = TypeVar("T")


class ShardHandlers:
    """Serves one store under one identity.

    Args:
        running_ms: the store's running clock, for deletion holds.
    """

    def __init__(
        self, door: Door, writer: Writer, *, running_ms: Callable[[], int], source: Source, program: str
    ) -> None:
        self._door = door
        self._identity = door.identity
        self._writer = writer
        self._running_ms = running_ms
        self._source = source
        self._program = program
        self._bytes = ByteGate(IN_FLIGHT_BYTES_MAX)
        self.pool = ThreadPoolExecutor(WORKER_THREADS, thread_name_prefix="shards")
        self.full = False
        self.met_damaged: Callable[[list[ShardKey]], None] = lambda keys: None
        """Told, in the event loop, which damaged shards a read met."""

    def routes(self, router: Routes) -> None:
        """Add the paths."""
        router.add_get("/v1/node", self.info)
        router.add_put("/v1/shards", self.put)
        router.add_post("/v1/shards/read", self.read)
        router.add_post("/v1/shards/pull", self.pull)
        router.add_post("/v1/shards/delete", self.delete)
        router.add_get("/metrics", self.metrics)

    def close(self) -> None:
        """Let the worker threads go."""
        self.pool.shutdown()

    @property
    def state(self) -> str:
        """ "ok", "full" or "failed", as heartbeats tell it."""
        if self._writer.failed is not None:
            return "failed"
        return "full" if self.full else "ok"

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    async def put(self, request: Request) -> Answer:
        """PUT /v1/shards: durable, then the receipt."""
        self._writer.refuse_while_held()
        length = request.length
        if length is None:
            raise BadRequest("a batch of shards must say its length")
        if length > BODY_BYTES_MAX:
            raise BadRequest(f"a batch of {length} bytes is too long", why=f"the bound is {BODY_BYTES_MAX}")
        async with self._bytes.hold(length):
            admitted, puts = await self._receive(request, length)
            reached("node.put.admitted")
            counter = await self._writer.put(puts)
            answer = PutAnswer(receipt=self._receipt(admitted, puts, counter))
            reached("node.put.acknowledging")
            return msgpack_answer(answer)

    async def _receive(self, request: Request, length: int) -> tuple[Admitted, list[Put]]:
        """Who asks is settled before any shard is received; each then goes straight behind its record."""
        body = BodyReader(request, length)
        header = await body.header()
        admitted = self._door.device(request, memoryview(header), "write")
        self._door.admission.spend(admitted, body.left)
        records = records_of(admitted, decode(bytes(header), PutHeader))
        if sum(record.stripe.shard_bytes for record in records) != body.left:
            raise BadRequest("the shards' bytes are not as long as their entries say")
        puts = [Put.in_place(record) for record in records]
        # Checked here, not in a thread: each is still in the processor's cache, and a hop costs as much.
        await body.into([put.room() for put in puts], lambda number: check_shard(puts[number]))
        return admitted, puts

    def _receipt(self, admitted: Admitted, puts: list[Put], counter: int) -> Signed:
        ticket = admitted.ticket
        payload = encode_receipt(
            Receipt(
                1,
                self._identity.node,
                ticket.account,
                ticket.upload,
                ticket.term,
                ticket.group,
                ticket.group_version,
                self._source.now_ms(),
                self._identity.store,
                counter,
                [
                    ReceiptEntry(put.record.chunk, put.record.generation, put.record.slot, put.record.digest)
                    for put in puts
                ],
            )
        )
        return Signed(payload, sign(self._identity.key, "receipt", self._identity.cluster, payload))

    async def read(self, request: Request) -> Answer:
        """POST /v1/shards/read: each shard verified, damaged ones never sent."""
        body = await read_body(request, LARGE_BODY_BYTES)
        admitted = self._door.device(request, memoryview(body), "read")
        keys = read_keys(admitted, decode(body, ReadHeader))
        return await self._answer(request, keys, lambda count: self._door.admission.spend(admitted, count))

    async def pull(self, request: Request) -> Answer:
        """POST /v1/shards/pull: a peer repairs; what it gets is verified like any read."""
        order, body = await self._door.peer(request)
        return await self._answer(request, pull_keys(order, decode(body, PullHeader)), lambda _: None)

    async def _answer(self, request: Request, keys: list[ShardKey], spend: Callable[[int], None]) -> Answer:
        # What an answer may hold is not known before reading: count the most it can be.
        async with self._bytes.hold(READ_ANSWER_BYTES_MAX):
            results, shards = await self._off_loop(lambda: self._gather(keys))
            damaged = [key for key, told in zip(keys, results, strict=False) if told.status == "damaged"]
            if damaged:
                self.met_damaged(damaged)
            spend(sum(len(shard) for shard in shards))
            answer = Answer(frame(encode(ReadAnswer(results=results)), shards))
            await request.answer(answer)
            return answer

    def _gather(self, keys: list[ShardKey]) -> tuple[list[ReadResult], list[bytes]]:
        """Results in order until the answer is as long as it may be."""
        results: list[ReadResult] = []
        shards: list[bytes] = []
        size = 0
        for start in range(0, len(keys), READ_TOGETHER_ENTRIES):
            for outcome in self._writer.store.read(keys[start : start + READ_TOGETHER_ENTRIES]):
                if not isinstance(outcome, Found):
                    damaged = isinstance(outcome, Damaged)
                    results.append(ReadResult("damaged" if damaged else "absent", b"", 0))
                    continue
                if size and size + len(outcome.shard) > READ_ANSWER_BYTES_MAX:
                    return results, shards
                size += len(outcome.shard)
                shards.append(outcome.shard)
                results.append(ReadResult("ok", outcome.header, len(outcome.shard)))
        return results, shards

    async def delete(self, request: Request) -> Answer:
        """POST /v1/shards/delete: an order of the coordinator; marks now, erases after the hold."""
        signed = decode(await read_body(request, LARGE_BODY_BYTES), Signed)
        coordinator = self._door.coordinator_key()
        verify(coordinator, signed.signature, "deletion-order", self._identity.cluster, signed.payload)
        order = decode(signed.payload, DeletionOrder)
        if order.node != self._identity.node:
            raise Refused("this order is for another node")
        if order.term < self._door.admission.term:
            raise Refused(f"this order is of term {order.term}, which is over")
        if len(order.entries) > DELETION_ENTRIES_MAX or order.hold_s < 0:
            raise BadRequest("a deletion order is out of bounds")
        keys = [ShardKey(e.group, e.slot, e.account, e.chunk, e.generation) for e in order.entries]
        due_ms = self._running_ms() + order.hold_s * 1000
        marked, absent = await self._writer.run(lambda store: store.mark(order.number, keys, due_ms))
        return msgpack_answer(DeletionAnswer(number=order.number, marked=marked, absent=absent))

    async def info(self, request: Request) -> Answer:
        """GET /v1/node: who answers here."""
        return msgpack_answer(
            NodeInfo(
                cluster=self._identity.cluster,
                node=self._identity.node,
                key=self._identity.public,
                store=self._identity.store,
                program=self._program,
                state=self.state,
            )
        )

    async def metrics(self, request: Request) -> Answer:
        """GET /metrics: what Prometheus scrapes."""
        from prometheus_client import CollectorRegistry, Gauge, generate_latest

        stats = self._writer.store.stats()
        registry = CollectorRegistry()
        for name, what, value in (
            ("shards", "Shards stored", stats.shards),
            ("used_bytes", "Bytes of stored records", stats.used_bytes),
            ("capacity_bytes", "Bytes of records accepted", self._writer.store.capacity_bytes),
            ("commits", "Durable commits since the store was made", stats.counter),
            ("marked", "Shards marked for deletion", stats.marked),
            ("damaged_reads", "Reads that found a damaged shard since the start", stats.damaged),
            ("quarantined", "Damaged shards kept aside", stats.quarantined),
            ("findings", "Bad shards that the coordinator has not taken note of", stats.findings),
            ("failed", "1 when the store has stopped", int(self._writer.failed is not None)),
        ):
            Gauge(f"holdfast_node_{name}", what, registry=registry).set(value)
        return Answer([generate_latest(registry)], content_type="text/plain")
