"""What a failed call means: nothing happened, unknown, or the very refusal the other side sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from holdfast.protocol import signing
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.errors import (
    BadRequest,
    HeadMoved,
    HoldfastError,
    NoRoom,
    OutcomeUnknown,
    Unreachable,
)
from holdfast.protocol.handling import Answer, Handler, Request, Routes, msgpack_answer, read_body
from holdfast.protocol.ids import ClusterId
from holdfast.protocol.messages.uploads import Done
from holdfast.protocol.requests import AUTH_HEADER, Gate, Signer, parse_auth
from holdfast.protocol.serving import ListenAddress, Server
from holdfast.protocol.transport import Transport, body_digest, frame, split_frame

CLUSTER = ClusterId(b"c" * 32)
KEY = signing.generate_signing_key(b"k" * 32)
SIGNER = Signer("device", b"a" * 32, b"d" * 16, KEY, CLUSTER)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    routes = Routes()
    routes.add_post("/v1/x", handler)
    server = Server(routes, ListenAddress.parse("127.0.0.1:0"))
    bound = await server.start()
    try:
        yield f"http://{bound}"
    finally:
        await server.stop()


async def call(url: str, transport: Transport, **options: object) -> Done:
    return await transport.call("POST", url, "/v1/x", Done(), answer=Done, **options)  # type: ignore[arg-type]


async def test_buffers_arrive_as_one_body_in_order() -> None:
    got: list[bytes] = []

    async def keep(request: Request) -> Answer:
        got.append(await read_body(request, 10_000_000))
        return msgpack_answer(Done())

    parts = [b"one", memoryview(b"-two-"), b"x" * 3_000_000]
    async with serving(keep) as url, Transport() as transport:
        await transport.send("POST", url, "/v1/x", parts, signer=None, receiver=b"", digest=body_digest(b""))
    assert got == [b"".join(parts)]


async def test_a_refusal_arrives_as_the_error_it_was() -> None:
    async def refuse(request: Request) -> Answer:
        raise HeadMoved("the head moved", seq=7)

    async with serving(refuse) as url, Transport() as transport:
        with pytest.raises(HeadMoved) as told:
            await call(url, transport)
    assert told.value.details == {"seq": 7}


@pytest.mark.parametrize(("reads", "kind"), [(False, OutcomeUnknown), (True, HoldfastError)])
async def test_an_unforeseen_error_is_not_told_in_detail_and_may_have_come_after_the_change(
    reads: bool, kind: type[HoldfastError]
) -> None:
    async def break_down(request: Request) -> Answer:
        raise KeyError("a secret detail")

    async with serving(break_down) as url, Transport() as transport:
        with pytest.raises(HoldfastError) as told:
            await call(url, transport, reads=reads)
    assert "secret" not in str(told.value) and "did not foresee" in str(told.value)
    assert type(told.value) is kind


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", BadRequest),  # a head that is none
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnone", BadRequest),  # a body that is no message
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\x80!", BadRequest),  # longer than it says
        # A proxy's, whose server is away:
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\nhtml", Unreachable),
    ],
)
@pytest.mark.parametrize("reads", [False, True])
async def test_an_answer_that_cannot_be_read_says_nothing_of_a_change(
    answer: bytes, read: type[HoldfastError], reads: bool
) -> None:
    async def garble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(garble, "127.0.0.1", 0) as server, Transport() as transport:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(HoldfastError) as told:
            await call(f"http://127.0.0.1:{port}", transport, reads=reads)
    assert type(told.value) is (read if reads else OutcomeUnknown)


async def test_a_refusal_that_says_what_it_is_stays_that_whatever_its_status() -> None:
    async def refuse(request: Request) -> Answer:
        raise NoRoom("the disk is full")

    async with serving(refuse) as url, Transport() as transport:
        with pytest.raises(NoRoom):
            await call(url, transport)
    assert NoRoom.http_status >= 500


async def test_a_bare_refusal_of_a_change_is_no_lost_answer() -> None:
    """Another server's, with 4xx: it did not take the request at all."""

    async def refuse(request: Request) -> Answer:
        return Answer([b"no such page"], status=404)

    async with serving(refuse) as url, Transport() as transport:
        with pytest.raises(HoldfastError) as told:
            await call(url, transport)
    assert type(told.value) is HoldfastError and "404" in str(told.value)


async def test_no_listener_means_nothing_happened() -> None:
    async def never(request: Request) -> Answer:
        raise AssertionError

    async with serving(never) as url:
        pass
    async with Transport() as transport:
        with pytest.raises(Unreachable):
            await call(url, transport)


@pytest.mark.parametrize(("reads", "kind"), [(False, OutcomeUnknown), (True, Unreachable)])
async def test_a_lost_answer_is_unknown_unless_it_only_read(reads: bool, kind: type[HoldfastError]) -> None:
    async def hang_up(request: Request) -> Answer:
        raise ConnectionResetError

    async with serving(hang_up) as url, Transport() as transport:
        with pytest.raises(kind):
            await call(url, transport, reads=reads)


@pytest.mark.parametrize(("reads", "kind"), [(False, OutcomeUnknown), (True, Unreachable)])
async def test_a_deadline_ends_a_silent_call(reads: bool, kind: type[HoldfastError]) -> None:
    release = asyncio.Event()

    async def stall(request: Request) -> Answer:
        await release.wait()
        return msgpack_answer(Done())

    async with serving(stall) as url, Transport() as transport:
        with pytest.raises(kind):
            await call(url, transport, reads=reads, timeout_s=0.2)
        release.set()


async def test_a_clock_that_is_off_is_mended_by_the_server_s_time() -> None:
    server_time = FixedSource(wall_ns=2_000_000_000_000_000_000)
    gate = Gate(b"r", CLUSTER, started_ms=0)
    tries = 0

    async def check(request: Request) -> Answer:
        nonlocal tries
        tries += 1
        body = await read_body(request, 1000)
        auth = parse_auth(request.header(AUTH_HEADER))
        gate.check(
            auth,
            signing.public_key(KEY),
            request.method,
            request.target,
            body_digest(body),
            now_ms=server_time.now_ms(),
        )
        return msgpack_answer(Done())

    async with serving(check) as url, Transport(source=FixedSource()) as transport:
        await call(url, transport, signer=SIGNER, receiver=b"r")
        assert tries == 2
        await call(url, transport, signer=SIGNER, receiver=b"r")
        assert tries == 3, "the offset is remembered"


async def test_a_body_beyond_the_bound_is_refused_before_it_is_read() -> None:
    async def small(request: Request) -> Answer:
        await read_body(request, 10)
        return msgpack_answer(Done())

    async with serving(small) as url, Transport() as transport:
        with pytest.raises(BadRequest, match="too long"):
            await transport.send(
                "POST", url, "/v1/x", [b"x" * 11], signer=None, receiver=b"", digest=body_digest(b"")
            )


def test_a_frame_splits_where_it_was_joined() -> None:
    header, rest = split_frame(b"".join(frame(b"header", [b"one", b"two"])))
    assert (bytes(header), bytes(rest)) == (b"header", b"onetwo")


@pytest.mark.parametrize("body", [b"", b"\0\0\0", b"\0\0\0\x05four", b"\xff\xff\xff\xffx"])
def test_a_frame_that_does_not_hold_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        split_frame(body)


@pytest.mark.parametrize(
    "text", ["0.0.0.0:1", "10.0.0.1:80", "example.org:80", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000"]
)
def test_nothing_listens_beyond_loopback(text: str) -> None:
    with pytest.raises(BadRequest):
        ListenAddress.parse(text)
