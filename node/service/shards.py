"""The node's HTTP shell: receive, admit, verify, write or read, answer.

Bodies in flight are bounded together; hashing, record building and reading run
in a small pool of threads (BLAKE3 lets go of the GIL), writing in one.
"""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from aiohttp import web

from holdfast.node.admission import Admission, Admitted, puts_of, read_keys
from holdfast.node.limits import (
    BODY_BYTES_MAX,
    IN_FLIGHT_BYTES_MAX,
    READ_ANSWER_BYTES_MAX,
    READ_TOGETHER_ENTRIES,
    WORKER_THREADS,
)
from holdfast.node.membership import Identity
from holdfast.node.store import Damaged, Found, Put, ShardKey
from holdfast.node.writer import Writer
from holdfast.protocol.clock import Source
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import BadRequest, Refused
from holdfast.protocol.ids import PublicKey
from holdfast.protocol.limits import DELETION_ENTRIES_MAX, MESSAGE_BYTES_MAX
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
from holdfast.protocol.receipts import Receipt, ReceiptEntry, encode_receipt
from holdfast.protocol.requests import AUTH_HEADER, TICKET_HEADER, Auth, Gate, parse_auth
from holdfast.protocol.serving import errors_middleware, msgpack_answer, read_body, send_buffers
from holdfast.protocol.signing import Signed, sign, verify
from holdfast.protocol.tickets import Verb
from holdfast.protocol.transport import body_digest, frame, split_frame

__all__ = ["NodeService"]

T = TypeVar("T")


class _ByteGate:
    """A weighted semaphore, first come first served."""

    def __init__(self, room_bytes: int) -> None:
        self._room = room_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        if self._waiting or self._room < count:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((count, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give(count)
                else:
                    self._waiting.remove((count, turn))
                raise
        else:
            self._room -= count
        try:
            yield
        finally:
            self._give(count)

    def _give(self, count: int) -> None:
        self._room += count
        while self._waiting and self._waiting[0][0] <= self._room:
            wanted, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._room -= wanted
                turn.set_result(None)


class NodeService:
    """Serves one store under one identity.

    Args:
        coordinator: gives the coordinator's public key now, for deletion orders.
        running_ms: the store's running clock, for deletion holds.
    """

    def __init__(
        self,
        identity: Identity,
        writer: Writer,
        admission: Admission,
        *,
        coordinator: Callable[[], PublicKey | None],
        running_ms: Callable[[], int],
        source: Source,
        program: str,
    ) -> None:
        self._identity = identity
        self._writer = writer
        self._admission = admission
        self._coordinator = coordinator
        self._running_ms = running_ms
        self._source = source
        self._program = program
        self._gate = Gate(identity.node, identity.cluster, source.now_ms())
        self._bytes = _ByteGate(IN_FLIGHT_BYTES_MAX)
        self._pool = ThreadPoolExecutor(WORKER_THREADS, thread_name_prefix="shards")
        self.full = False

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(middlewares=[errors_middleware], client_max_size=BODY_BYTES_MAX)
        app.router.add_get("/v1/node", self.info)
        app.router.add_put("/v1/shards", self.put)
        app.router.add_post("/v1/shards/read", self.read)
        app.router.add_post("/v1/shards/delete", self.delete)
        app.router.add_get("/metrics", self.metrics)
        return app

    def close(self) -> None:
        """Let the worker threads go."""
        self._pool.shutdown()

    @property
    def state(self) -> str:
        """ "ok", "full" or "failed", as heartbeats tell it."""
        if self._writer.failed is not None:
            return "failed"
        return "full" if self.full else "ok"

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _admit(self, request: web.Request, header: memoryview, verb: Verb) -> Admitted:
        """Ticket and signature of a request; the header's bytes are what the signature covers."""
        auth: Auth = parse_auth(request.headers.get(AUTH_HEADER))
        sent = request.headers.get(TICKET_HEADER)
        if not sent:
            raise Refused(f"this needs a ticket in the {TICKET_HEADER} header")
        try:
            signed = base64.b64decode(sent, altchars=b"-_", validate=True)
        except ValueError:
            raise BadRequest(f"the {TICKET_HEADER} header is not base64") from None
        now_ms = self._source.now_ms()
        admitted = self._admission.admit(signed, auth, verb, now_ms)
        self._gate.check(
            auth,
            admitted.ticket.device_key,
            request.method,
            request.raw_path,
            body_digest(header, signed),
            now_ms=now_ms,
        )
        return admitted

    async def put(self, request: web.Request) -> web.Response:
        """PUT /v1/shards: durable, then the receipt."""
        length = request.content_length
        if length is None:
            raise BadRequest("a batch of shards must say its length")
        if length > BODY_BYTES_MAX:
            raise BadRequest(f"a batch of {length} bytes is too long", why=f"the bound is {BODY_BYTES_MAX}")
        async with self._bytes.hold(length):
            body = await read_body(request, BODY_BYTES_MAX)
            raw_header, shards = split_frame(body)
            admitted = self._admit(request, raw_header, "write")
            self._admission.spend(admitted, len(shards))
            puts = await self._off_loop(lambda: puts_of(admitted, decode(raw_header, PutHeader), shards))
            counter = await self._writer.put(puts)
            return msgpack_answer(PutAnswer(receipt=self._receipt(admitted, puts, counter)))

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

    async def read(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/shards/read: each shard verified, damaged ones never sent."""
        body = await read_body(request, MESSAGE_BYTES_MAX)
        admitted = self._admit(request, memoryview(body), "read")
        keys = read_keys(admitted, decode(body, ReadHeader))
        # What an answer may hold is not known before reading: count the most it can be.
        async with self._bytes.hold(READ_ANSWER_BYTES_MAX):
            results, shards = await self._off_loop(lambda: self._gather(keys))
            self._admission.spend(admitted, sum(len(shard) for shard in shards))
            header = encode(ReadAnswer(results=results))
            return await send_buffers(request, frame(header, shards))

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

    async def delete(self, request: web.Request) -> web.Response:
        """POST /v1/shards/delete: an order of the coordinator; marks now, erases after the hold."""
        signed = decode(await read_body(request, MESSAGE_BYTES_MAX), Signed)
        coordinator = self._coordinator()
        if coordinator is None:
            raise Refused("this node has not met its coordinator yet")
        verify(coordinator, signed.signature, "deletion-order", self._identity.cluster, signed.payload)
        order = decode(signed.payload, DeletionOrder)
        if order.node != self._identity.node:
            raise Refused("this order is for another node")
        if order.term < self._admission.term:
            raise Refused(f"this order is of term {order.term}, which is over")
        if len(order.entries) > DELETION_ENTRIES_MAX or order.hold_s < 0:
            raise BadRequest("a deletion order is out of bounds")
        keys = [ShardKey(e.group, e.slot, e.account, e.chunk, e.generation) for e in order.entries]
        due_ms = self._running_ms() + order.hold_s * 1000
        marked, absent = await self._writer.run(lambda store: store.mark(order.number, keys, due_ms))
        return msgpack_answer(DeletionAnswer(number=order.number, marked=marked, absent=absent))

    async def info(self, request: web.Request) -> web.Response:
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

    async def metrics(self, request: web.Request) -> web.Response:
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
            ("failed", "1 when the store has stopped", int(self._writer.failed is not None)),
        ):
            Gauge(f"holdfast_node_{name}", what, registry=registry).set(value)
        return web.Response(body=generate_latest(registry), content_type="text/plain")
