"""A node over real HTTP: what it admits, what it proves, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.node_service import (
    CLUSTER,
    COORDINATOR,
    UPLOAD,
    Device,
    RunningNode,
    running_node,
    stripes,
    unsigned,
)

from holdfast.node.limits import READ_ANSWER_BYTES_MAX
from holdfast.protocol import handling
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import (
    BadRequest,
    Conflict,
    HoldfastError,
    IntegrityFailure,
    NoRoom,
    Refused,
    StoreFailed,
    TicketExpired,
    Unreachable,
)
from holdfast.protocol.ids import AccountId, NodeId
from holdfast.protocol.limits import LARGE_BODY_BYTES, SEALED_BYTES_MAX, SHARD_BATCH_ENTRIES_MAX
from holdfast.protocol.messages.nodes import (
    DeletionAnswer,
    DeletionEntry,
    DeletionOrder,
    NodeInfo,
    PutEntry,
    PutHeader,
    ReadEntry,
    ReadHeader,
)
from holdfast.protocol.requests import AUTH_HEADER, TICKET_HEADER
from holdfast.protocol.signing import Signed, generate_signing_key, sign
from holdfast.protocol.transport import Transport, body_digest, frame


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[RunningNode]:
    async with running_node(tmp_path / "store") as running:
        yield running


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    async with Transport() as made:
        yield made


@pytest.fixture
def ada(node: RunningNode, transport: Transport) -> Device:
    return Device(node.node, transport)


@pytest.fixture
def eve(node: RunningNode, transport: Transport) -> Device:
    return Device(node.node, transport, b"eve")


async def test_a_batch_goes_in_with_one_receipt_and_comes_back(ada: Device, node: RunningNode) -> None:
    batch = stripes(20)
    receipt = await ada.put(batch)
    assert (receipt.node, receipt.upload, receipt.group, receipt.group_version) == (
        node.node.id,
        UPLOAD,
        7,
        3,
    )
    assert [(e.chunk, e.slot, e.generation) for e in receipt.entries] == [(s.chunk, 0, UPLOAD) for s in batch]
    answer, shards = await ada.read(batch)
    assert [result.status for result in answer.results] == ["ok"] * 20
    assert [bytes(shard) for shard in shards] == [bytes(stripe.shards[0]) for stripe in batch]


async def test_sending_again_gives_the_same_receipt_but_for_its_time(ada: Device) -> None:
    batch = stripes(3)
    first, second = await ada.put(batch), await ada.put(batch)
    assert first.entries == second.entries


async def test_other_bytes_for_the_same_chunk_are_a_conflict(ada: Device) -> None:
    (one,), (two,) = stripes(1), stripes(1, seed=b"other")
    await ada.put([one])
    forged = PutHeader(slot=0, entries=[PutEntry(one.chunk, len(two.sealed), two.digests)])
    with pytest.raises(Conflict):
        await ada.put([], header=forged, shards=[two.shards[0]])
    _, (shard,) = await ada.read([one])
    assert bytes(shard) == bytes(one.shards[0])


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"verb": "read"}, Refused),
        ({"expires_ms": 1}, TicketExpired),
        ({"expires_ms": 10**15}, Refused),
        ({"term": 0}, Refused),
        ({"members": [NodeId(bytes([i]) * NodeId.SIZE) for i in range(6)]}, Refused),
        ({"budget_bytes": 10}, Refused),
        ({"account": AccountId(b"x" * 32)}, Refused),
        ({"device_key": b"k" * 32}, Refused),
        ({"members": [NodeId(b"m" * NodeId.SIZE)]}, BadRequest),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_ticket_that_does_not_fit_writes_nothing(
    ada: Device, node: RunningNode, changed: dict[str, Any], error: type[HoldfastError]
) -> None:
    with pytest.raises(error):
        await ada.put(stripes(1), ticket=ada.ticket("write", **changed))
    assert node.writer.store.stats().shards == 0


async def test_a_ticket_that_somebody_else_signed_or_that_was_changed_is_refused(ada: Device) -> None:
    with pytest.raises(Refused):
        await ada.put(stripes(1), ticket=ada.ticket("write", pen=generate_signing_key(b"e" * 32)))
    good = decode(ada.ticket("write"), Signed)
    longer = encode(Signed(good.payload.replace(b"ada", b"eve") + b"", bytes(64)))  # type: ignore[arg-type]
    with pytest.raises(Refused):
        await ada.put(stripes(1), ticket=longer)


async def test_a_ticket_cannot_be_used_by_another_device(ada: Device, eve: Device) -> None:
    with pytest.raises(Refused):
        await eve.put(stripes(1), ticket=ada.ticket("write"))
    batch = stripes(1)
    await ada.put(batch)
    with pytest.raises(Refused):
        await eve.read(batch, ticket=ada.ticket("read"))


async def test_another_account_s_shard_cannot_be_told_from_one_that_is_not_there(
    ada: Device, eve: Device
) -> None:
    batch = stripes(2)
    await ada.put(batch)
    theirs, shards = await eve.read(batch)
    nobodys, _ = await eve.read(stripes(2, seed=b"nowhere"))
    assert theirs == nobodys and not shards
    assert {result.status for result in theirs.results} == {"absent"}


async def test_the_budget_of_a_ticket_counts_over_all_its_requests(ada: Device) -> None:
    ticket = ada.ticket("write", budget_bytes=1000)
    first, second = stripes(2, 2000), stripes(3, 2000, b"more")
    await ada.put(first, ticket=ticket)
    with pytest.raises(Refused, match="budget"):
        await ada.put(second, ticket=ticket)


@pytest.mark.parametrize("what", ["digest", "short", "long", "slot", "twice", "none", "too many", "size"])
async def test_a_batch_that_does_not_prove_itself_writes_nothing(
    ada: Device, node: RunningNode, what: str
) -> None:
    batch = stripes(3)
    entries = [stripe.entry for stripe in batch]
    shards = [bytes(stripe.shards[0]) for stripe in batch]
    slot, expected = 0, BadRequest
    if what == "digest":
        shards[1], expected = b"x" + shards[1][1:], IntegrityFailure
    elif what == "short":
        shards[2] = shards[2][:-1]
    elif what == "long":
        shards[2] += b"x"
    elif what == "slot":
        slot, expected = 1, Refused
    elif what == "twice":
        entries, shards = [*entries, entries[0]], [*shards, shards[0]]
    elif what == "none":
        entries, shards = [], []
    elif what == "too many":
        entries = [PutEntry(entries[0].chunk, 1, entries[0].digests)] * (SHARD_BATCH_ENTRIES_MAX + 1)
    elif what == "size":
        entries[0] = PutEntry(entries[0].chunk, 2**31, entries[0].digests)
    with pytest.raises(expected):
        await ada.put([], header=PutHeader(slot=slot, entries=entries), shards=shards)
    assert node.writer.store.stats().shards == 0


async def test_a_request_that_is_not_signed_or_repeated_is_refused(ada: Device, node: RunningNode) -> None:
    (stripe,) = stripes(1)
    raw = encode(PutHeader(slot=0, entries=[stripe.entry]))
    ticket = ada.ticket("write")
    with pytest.raises(HoldfastError):
        await unsigned(ada.transport, node.node, "PUT", "/v1/shards", frame(raw, [stripe.shards[0]]))
    assert node.writer.store.stats().shards == 0

    class Same:
        """A source whose nonce never changes: every request is a replay of the first."""

        now_ms = staticmethod(SYSTEM.now_ms)
        now_ns = staticmethod(SYSTEM.now_ns)
        monotonic = staticmethod(SYSTEM.monotonic)

        def random_bytes(self, count: int) -> bytes:
            return bytes(count)

    async with Transport(source=Same()) as repeating:  # type: ignore[arg-type]
        for attempt in range(2):
            sending = repeating.send(
                "PUT",
                node.node.url,
                "/v1/shards",
                frame(raw, [stripe.shards[0]]),
                signer=ada.signer,
                receiver=node.node.id,
                digest=body_digest(raw, ticket),
                ticket=ticket,
            )
            if attempt == 0:
                await sending
            else:
                with pytest.raises(Refused):
                    await sending


async def test_a_read_longer_than_an_answer_may_be_comes_in_parts(ada: Device) -> None:
    batch = stripes(15, SEALED_BYTES_MAX - 100)
    for stripe in batch:
        await ada.put([stripe])
    answer, shards = await ada.read(batch)
    assert sum(map(len, shards)) > READ_ANSWER_BYTES_MAX // 2
    assert len(answer.results) < len(batch)
    assert sum(map(len, shards)) <= READ_ANSWER_BYTES_MAX
    assert [bytes(s) for s in shards] == [bytes(t.shards[0]) for t in batch[: len(shards)]]


async def test_absent_and_out_of_range_are_told_apart(ada: Device) -> None:
    batch = stripes(2)
    await ada.put(batch[:1])
    answer, _ = await ada.read(batch)
    assert [result.status for result in answer.results] == ["ok", "absent"]
    with pytest.raises(BadRequest):
        await ada.read(batch, slot=6)


async def test_a_full_node_says_no_room_and_goes_on_reading(tmp_path: Path, transport: Transport) -> None:
    async with running_node(tmp_path / "small", capacity_bytes=1_000_000) as node:
        ada = Device(node.node, transport)
        stored, refused = [], None
        for number in range(20):
            batch = stripes(1, 400_000, b"%d" % number)
            try:
                await ada.put(batch)
            except NoRoom as error:
                refused = error
                break
            stored += batch
        assert refused is not None and refused.do
        answer, _ = await ada.read(stored)
        assert {result.status for result in answer.results} == {"ok"}


async def test_a_store_that_failed_is_a_typed_error_and_its_state_is_told(
    ada: Device, node: RunningNode, transport: Transport
) -> None:
    node.writer.failed = "the disk is gone"
    with pytest.raises(StoreFailed):
        await ada.put(stripes(1))
    info = await transport.call("GET", node.node.url, "/v1/node", answer=NodeInfo)
    assert info.state == "failed"


class TestBodies:
    """Raw sockets: what a hostile or broken peer sends."""

    async def send(self, node: RunningNode, head: bytes, body: bytes = b"", *, eof: bool = False) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        try:
            writer.write(head + b"\r\n\r\n" + body)
            await writer.drain()
            if eof:
                writer.write_eof()
            async with asyncio.timeout(10):
                return await reader.read(100_000)
        finally:
            writer.close()

    async def test_a_body_that_is_too_long_is_refused_before_it_is_read(self, node: RunningNode) -> None:
        told = await self.send(node, b"PUT /v1/shards HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999")
        assert b"400" in told.split(b"\r\n")[0] and b"too long" in told

    @pytest.mark.parametrize("path", ["/v1/shards/read", "/v1/shards/delete"])
    async def test_a_message_that_is_too_long_is_refused_before_it_is_read(
        self, node: RunningNode, path: str
    ) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ".encode()
        told = await self.send(node, head + b"%d" % (LARGE_BODY_BYTES + 1))
        assert b"400" in told.split(b"\r\n")[0] and b"%d" % LARGE_BODY_BYTES in told
        told = await self.send(node, head + b"%d" % LARGE_BODY_BYTES, bytes(LARGE_BODY_BYTES))
        assert b"%d" % LARGE_BODY_BYTES not in told and told.startswith(b"HTTP/1.1 4")

    async def test_a_body_without_a_length_is_refused(self, node: RunningNode) -> None:
        for path in (b"PUT /v1/shards", b"POST /v1/shards/read"):
            told = await self.send(
                node, path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"
            )
            assert b"400" in told.split(b"\r\n")[0] and b"length" in told

    async def test_a_body_that_stalls_is_let_go(
        self, node: RunningNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(handling, "BODY_GRACE_S", 0.1)
        told = await self.send(
            node, b"PUT /v1/shards HTTP/1.1\r\nHost: x\r\nContent-Length: 1000", b"\0\0\0\x64only this"
        )
        assert b"400" in told.split(b"\r\n")[0] and b"in time" in told

    async def test_a_body_that_is_cut_off_leaves_nothing_and_frees_its_room(
        self, node: RunningNode, ada: Device
    ) -> None:
        for _ in range(8):
            await self.send(
                node, b"PUT /v1/shards HTTP/1.1\r\nHost: x\r\nContent-Length: 40000000", b"x" * 999, eof=True
            )
        await ada.put(stripes(1))
        assert node.writer.store.stats().shards == 1

    async def test_a_reader_that_does_not_read_is_cut_off(
        self, node: RunningNode, ada: Device, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = stripes(4, 4_000_000)
        for stripe in batch:
            await ada.put([stripe])
        monkeypatch.setattr(handling, "BODY_GRACE_S", 0.3)
        monkeypatch.setattr(handling, "BODY_BYTES_PER_S_MIN", 10**9)
        raw = encode(ReadHeader(entries=[ReadEntry(stripe.chunk, UPLOAD, 0) for stripe in batch] * 3))
        ticket, nonce = ada.ticket("read"), SYSTEM.random_bytes(16)
        digest = body_digest(raw, ticket)
        auth = ada.signer.sign(
            node.node.id, "POST", "/v1/shards/read", digest, time_ms=SYSTEM.now_ms(), nonce=nonce
        )
        room = node.service._bytes._room
        # A small receive buffer, and nobody who reads from it.
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", node.port))
            head = b"POST /v1/shards/read HTTP/1.1\r\nHost: x\r\nContent-Length: %d" % len(raw)
            for name, value in ((AUTH_HEADER, encode(auth)), (TICKET_HEADER, ticket)):
                head += b"\r\n%s: %s" % (name.encode(), base64.urlsafe_b64encode(value))
            deaf.sendall(head + b"\r\n\r\n" + raw)
            async with asyncio.timeout(20):
                while node.service._bytes._room == room:  # noqa: ASYNC110 - it takes its room
                    await asyncio.sleep(0)
                while node.service._bytes._room != room:  # noqa: ASYNC110 - and is let go
                    await asyncio.sleep(0.01)
        assert (await ada.read(batch[:1]))[0].results[0].status == "ok"


class TestDeletion:
    def order(
        self, running: RunningNode, number: int, batch: list[Any], ada: Device, **changed: Any
    ) -> bytes:
        values: dict[str, Any] = {
            "version": 1, "node": running.node.id, "term": 1, "number": number, "hold_s": 0,
            "entries": [DeletionEntry(7, 0, ada.account, s.chunk, UPLOAD) for s in batch], **changed,
        }  # fmt: skip
        payload = encode(DeletionOrder(**values))
        return encode(Signed(payload, sign(COORDINATOR, "deletion-order", CLUSTER, payload)))

    async def send(self, node: RunningNode, transport: Transport, raw: bytes) -> DeletionAnswer:
        answer = await unsigned(transport, node.node, "POST", "/v1/shards/delete", [raw])
        return decode(answer, DeletionAnswer)

    async def test_the_coordinator_s_order_marks_and_does_not_erase_at_once(
        self, ada: Device, node: RunningNode, transport: Transport
    ) -> None:
        batch = stripes(3)
        await ada.put(batch[:2])
        told = await self.send(node, transport, self.order(node, 1, batch, ada))
        assert (told.marked, told.absent) == (2, 1)
        answer, _ = await ada.read(batch[:2])
        assert {result.status for result in answer.results} == {"ok"}

    async def test_what_an_order_marks_stays_for_as_long_as_it_says(
        self, ada: Device, node: RunningNode, transport: Transport
    ) -> None:
        batch = stripes(2)
        await ada.put(batch)
        await self.send(node, transport, self.order(node, 1, batch, ada, hold_s=100))
        assert await node.writer.run(lambda store: store.erase_due(99_999, 10)) == 0
        answer, _ = await ada.read(batch)
        assert {result.status for result in answer.results} == {"ok"}
        assert await node.writer.run(lambda store: store.erase_due(100_000, 10)) == 2

    @pytest.mark.parametrize(
        "changed", [{"node": NodeId(b"x" * NodeId.SIZE)}, {"term": 0}, {"hold_s": -1}], ids=str
    )
    async def test_an_order_that_does_not_fit_is_refused(
        self, ada: Device, node: RunningNode, transport: Transport, changed: dict[str, Any]
    ) -> None:
        batch = stripes(1)
        await ada.put(batch)
        with pytest.raises((Refused, BadRequest)):
            await self.send(node, transport, self.order(node, 1, batch, ada, **changed))
        assert node.writer.store.stats().marked == 0

    async def test_an_order_signed_by_anybody_else_is_refused(
        self, ada: Device, node: RunningNode, transport: Transport
    ) -> None:
        signed = decode(self.order(node, 1, [], ada), Signed)
        forged = Signed(signed.payload, sign(ada.key, "deletion-order", CLUSTER, signed.payload))
        with pytest.raises(Refused):
            await self.send(node, transport, encode(forged))


async def test_a_node_that_is_gone_is_unreachable_not_a_hang(tmp_path: Path, transport: Transport) -> None:
    async with running_node(tmp_path / "gone") as node:
        ada = Device(node.node, transport)
    with pytest.raises(Unreachable):
        await ada.read(stripes(1))


async def test_metrics_are_what_prometheus_reads(node: RunningNode, ada: Device) -> None:
    await ada.put(stripes(2))
    told = bytes(await unsigned(ada.transport, node.node, "GET", "/metrics")).decode()
    assert "holdfast_node_shards 2.0" in told
