"""What a handler may rely on, whoever speaks HTTP for it: the front and aiohttp, on both event loops."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop

from holdfast.protocol import handling
from holdfast.protocol import serving as serving_module
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, Conflict
from holdfast.protocol.handling import Answer, BodyReader, Request, Routes, read_body
from holdfast.protocol.messages.cluster import Refusal
from holdfast.protocol.serving import ListenAddress, Server

LIMIT = 50_000_000
LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
# What our own programs never send is served by aiohttp, and so is all that comes after it.
SPEAKERS = {"front": b"", "aiohttp": b"TE: trailers\r\n"}


Run = Callable[[Awaitable[None]], None]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    def on_loop(work: Awaitable[None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(60):
                await work

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(bounded())

    return on_loop


@pytest.fixture(params=SPEAKERS)
def extra(request: pytest.FixtureRequest) -> bytes:
    return SPEAKERS[request.param]


@pytest.fixture(autouse=True)
def _stops_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_module, "SERVER_STOPS_WITHIN_S", 0.2)


class Peer:
    """A raw connection. ``extra``: header lines that go with each request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, extra: bytes) -> None:
        self.reader, self.writer, self.extra = reader, writer, extra

    def head(self, line: bytes, length: int | None, *more: bytes) -> bytes:
        lines = [line + b" HTTP/1.1", b"Host: here", *more]
        if length is not None:
            lines.append(b"Content-Length: %d" % length)
        return b"\r\n".join(lines) + b"\r\n" + self.extra + b"\r\n"

    async def send(self, line: bytes, body: bytes | None = None, *more: bytes) -> None:
        self.writer.write(self.head(line, None if body is None else len(body), *more) + (body or b""))
        await self.writer.drain()

    async def told(self) -> tuple[int, bytes]:
        """(status, body) of one answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().lower().split("\r\n")
        lengths = [line.split(":")[1] for line in lines if line.startswith("content-length:")]
        assert len(lengths) == 1
        return int(first.split()[1]), await self.reader.readexactly(int(lengths[0]))

    async def ask(self, line: bytes, body: bytes | None = None, *more: bytes) -> tuple[int, bytes]:
        await self.send(line, body, *more)
        return await self.told()

    async def refusal(self) -> tuple[int, Refusal]:
        status, body = await self.told()
        return status, decode(body, Refusal)


class Served:
    """A server with these handlers."""

    def __init__(self) -> None:
        self.routes = Routes()
        self.routes.add_post("/echo", self.echo)
        self.routes.add_get("/query", self.query)
        self.routes.add_post("/places/{one}/x/{two}", self.places)
        self.routes.add_put("/parts", self.parts)
        self.routes.add_get("/large", self.large)
        self.routes.add_get("/refuse", self.refuse)
        self.routes.add_get("/stall", self.stall)
        self.routes.add_post("/ends", self.ends)
        self.full: list[int] = []
        self.stalling, self.release = asyncio.Event(), asyncio.Event()
        self.parts_of = [0, 300_000, 1, 1_000_000, 0]
        self.bad: int | None = None
        self.ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def echo(self, request: Request) -> Answer:
        body = await read_body(request, LIMIT)
        return Answer([(request.header("X-Name") or "").encode(), b"|", body])

    async def query(self, request: Request) -> Answer:
        return Answer([f"{request.path} {request.target} {dict(request.query)}".encode()])

    async def places(self, request: Request) -> Answer:
        await read_body(request, LIMIT)
        return Answer([f"{request.places['one']} {request.places['two']}".encode()])

    async def parts(self, request: Request) -> Answer:
        assert request.length is not None
        reader = BodyReader(request, request.length)
        header = await reader.header()
        rooms = [bytearray(length) for length in self.parts_of]

        def then(number: int) -> None:
            self.full.append(number)
            if number == self.bad:
                raise Conflict(f"part {number} is bad")

        await reader.into([memoryview(room) for room in rooms], then)
        assert not reader.left
        return Answer([bytes(header), *(bytes(room[:1]) + b"%d" % len(room) for room in rooms)])

    async def large(self, request: Request) -> Answer:
        answer = Answer([b"a" * 3_000_000, memoryview(b"b" * 5_000_000), b"c"])
        await request.answer(answer)
        return answer

    async def refuse(self, request: Request) -> Answer:
        raise Conflict("no", do="Yes.")

    async def ends(self, request: Request) -> Answer:
        try:
            return Answer([await read_body(request, LIMIT)])
        except BaseException as error:
            self.ended.set_result(error)
            raise

    async def stall(self, request: Request) -> Answer:
        self.stalling.set()
        await self.release.wait()
        return Answer([b"done"])


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Served, Server, Callable[[bytes], Awaitable[Peer]]]]:
    served = Served()
    server = Server(served.routes, ListenAddress("127.0.0.1", 0))
    bound = await server.start()
    peers: list[Peer] = []

    async def peer(extra: bytes) -> Peer:
        peers.append(Peer(*await asyncio.open_connection("127.0.0.1", bound.port), extra))
        return peers[-1]

    try:
        yield served, server, peer
    finally:
        for each in peers:
            each.writer.close()
        await server.stop()


def test_requests_are_answered_one_after_the_other_on_one_connection(run: Run, extra: bytes) -> None:
    async def work() -> None:
        async with serving() as (_, _, connect):
            peer = await connect(extra)
            for size in (0, 1, 16_000, 16_384, 20_000, 3_000_000, 5):
                body = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
                assert await peer.ask(b"POST /echo", body, b"x-nAmE: ada") == (200, b"ada|" + body)
            assert (await peer.ask(b"POST /places/a1/x/b-2", b"body"))[1] == b"a1 b-2"
            assert (await peer.ask(b"GET /query?since=5&to=a"))[1] == (
                b"/query /query?since=5&to=a {'since': '5', 'to': 'a'}"
            )
            assert (await peer.ask(b"GET /query?a=1&a=2"))[1] == b"/query /query?a=1&a=2 {'a': '1'}"

    run(work())


def test_requests_that_come_before_their_turn_wait_for_it(run: Run, extra: bytes) -> None:
    async def work() -> None:
        async with serving() as (_, _, connect):
            peer = await connect(extra)
            bodies = [b"%d" % number * 997 for number in range(40)]
            for body in bodies:
                peer.writer.write(peer.head(b"POST /echo", len(body)) + body)
            for body in bodies:
                assert await peer.told() == (200, b"|" + body)

    run(work())


def test_a_body_is_received_part_by_part(run: Run, extra: bytes) -> None:
    async def work() -> None:
        async with serving() as (served, _, connect):
            peer = await connect(extra)
            body = b"\0\0\0\x03hdr" + b"p" * 300_000 + b"q" + b"r" * 1_000_000
            for _ in range(3):
                served.full.clear()
                assert await peer.ask(b"PUT /parts", body) == (200, b"hdr0p300000q1r10000000")
                assert served.full == [0, 1, 2, 3, 4]

    run(work())


def test_what_is_found_wrong_with_a_part_is_told_and_the_rest_is_dropped(run: Run, extra: bytes) -> None:
    async def work() -> None:
        async with serving() as (served, _, connect):
            served.bad = 1
            peer = await connect(extra)
            await peer.send(b"PUT /parts", b"\0\0\0\x03hdr" + b"p" * 1_300_001)
            status, refusal = await peer.refusal()
            assert (status, refusal.error, refusal.what) == (409, "conflict", "part 1 is bad")
            assert served.full == [0, 1]

    run(work())


def test_a_refusal_is_read_though_the_body_goes_on(run: Run, extra: bytes) -> None:
    async def work() -> None:
        async with serving() as (_, _, connect):
            peer = await connect(extra)
            peer.writer.write(peer.head(b"POST /echo", LIMIT + 1))
            status, refusal = await peer.refusal()
            assert status == 400 and "too long" in refusal.what
            peer.writer.write(b"x" * 100_000)  # it is taken, or the connection is closed

    run(work())


def test_the_last_refusal_of_a_connection_is_read_though_the_body_goes_on(run: Run, extra: bytes) -> None:
    async def work() -> None:
        async with serving() as (_, _, connect):
            peer = await connect(extra)
            body = b"x" * 10_000_000
            peer.writer.write(peer.head(b"GET /refuse", len(body), b"Connection: close"))
            await asyncio.sleep(0.05)
            peer.writer.write(body)
            await peer.writer.drain()
            assert (await peer.refusal())[0] == 409
            assert await peer.reader.read() == b""

    run(work())


def test_a_body_beyond_what_it_said_is_refused(run: Run, extra: bytes) -> None:
    async def work() -> None:
        async with serving() as (served, _, connect):
            peer = await connect(extra)
            served.parts_of = [10]
            await peer.send(b"PUT /parts", b"\0\0\0\x03hdr" + b"p" * 9)
            status, refusal = await peer.refusal()
            assert status == 400 and "ended before" in refusal.what

    run(work())


@pytest.mark.parametrize("reset", [False, True])
def test_whose_peer_vanishes_is_told_that_the_body_ended(run: Run, extra: bytes, reset: bool) -> None:
    async def work() -> None:
        async with serving() as (served, _, connect):
            peer = await connect(extra)
            peer.writer.write(peer.head(b"POST /ends", 100_000) + b"x" * 50_000)
            await asyncio.sleep(0.05)
            if reset:
                linger = struct.pack("ii", 1, 0)
                peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            peer.writer.transport.abort()
            error = await served.ended
            assert isinstance(error, BadRequest) and "ended before" in error.what

    run(work())


def test_a_body_that_stalls_is_let_go(run: Run, extra: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handling, "BODY_GRACE_S", 0.1)

    async def work() -> None:
        async with serving() as (_, _, connect):
            peer = await connect(extra)
            peer.writer.write(peer.head(b"POST /echo", 100_000) + b"x" * 50_000)
            status, refusal = await peer.refusal()
            assert status == 400 and "in time" in refusal.what

    run(work())


def test_errors_are_typed(run: Run, extra: bytes) -> None:
    async def work() -> None:
        async with serving() as (_, _, connect):
            peer = await connect(extra)
            await peer.send(b"GET /refuse")
            status, refusal = await peer.refusal()
            assert (status, refusal.error, refusal.do) == (409, "conflict", "Yes.")
            for line in (b"GET /nothing", b"DELETE /echo"):
                await peer.send(line)
                status, refusal = await peer.refusal()
                assert status in (404, 405) and refusal.what == line.decode() + " is not served here"
            assert (await peer.ask(b"POST /echo", b"x"))[1] == b"|x"

    run(work())


def test_a_large_answer_arrives_whole(run: Run, extra: bytes) -> None:
    async def work() -> None:
        async with serving() as (_, _, connect):
            peer = await connect(extra)
            for _ in range(2):
                status, body = await peer.ask(b"GET /large")
                assert status == 200 and body == b"a" * 3_000_000 + b"b" * 5_000_000 + b"c"

    run(work())


def test_a_reader_that_does_not_read_is_cut_off(
    run: Run, extra: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handling, "BODY_GRACE_S", 0.1)
    monkeypatch.setattr(handling, "BODY_BYTES_PER_S_MIN", 10**12)

    async def work() -> None:
        async with serving() as (_, _, connect):
            peer = await connect(extra)
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(8):
                await peer.send(b"GET /large")
            await asyncio.sleep(0.5)
            peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                for _ in range(8):
                    await peer.told()

    run(work())


def test_a_last_request_is_answered_and_the_connection_closed(run: Run, extra: bytes) -> None:
    async def work() -> None:
        async with serving() as (_, _, connect):
            peer = await connect(extra)
            assert (await peer.ask(b"POST /echo", b"x", b"Connection: close"))[1] == b"|x"
            assert await peer.reader.read() == b""

    run(work())


async def stops_in_order(served: Served, server: Server, busy: Peer, idle: Peer) -> None:
    """Who rests is let go while a request under way has its time, and its answer."""
    assert (await idle.ask(b"POST /echo", b"x"))[1] == b"|x"
    await busy.send(b"GET /stall")
    await served.stalling.wait()
    stopping = asyncio.create_task(server.stop())
    assert await idle.reader.read() == b""
    served.release.set()
    assert await busy.told() == (200, b"done")
    await stopping


def test_a_server_that_stops_lets_requests_under_way_end(run: Run, extra: bytes) -> None:
    async def work() -> None:
        async with serving() as (served, server, connect):
            busy, idle = await connect(extra), await connect(extra)
            await stops_in_order(served, server, busy, idle)

    run(work())


def test_a_server_that_stops_has_both_speakers_stop_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_module, "SERVER_STOPS_WITHIN_S", 5)

    async def work() -> None:
        async with serving() as (served, server, connect):
            busy, idle = await connect(SPEAKERS["front"]), await connect(SPEAKERS["aiohttp"])
            await stops_in_order(served, server, busy, idle)

    run(work())


def test_a_server_that_stops_gives_up_what_does_not_end(run: Run, extra: bytes) -> None:
    async def work() -> None:
        async with serving() as (served, server, connect):
            busy = await connect(extra)
            await busy.send(b"GET /stall")
            await served.stalling.wait()
            await server.stop()
            assert await busy.reader.read() == b""

    run(work())
