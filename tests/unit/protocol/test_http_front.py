"""The front: what it takes, what it leaves to aiohttp, and bytes that come in any portions."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.protocol import http_front
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.handling import Answer, BodyReader, Request, Routes, read_body
from holdfast.protocol.http_front import Front
from holdfast.protocol.http_fronts import Fronts
from holdfast.protocol.limits import REQUEST_HEAD_BYTES_MAX
from holdfast.protocol.serving import ListenAddress, Server

# Bytes in any portions, over a transport of our own


class Wire(asyncio.Transport):
    """A transport that keeps what is written; takes what is given as recv_into would."""

    def __init__(self) -> None:
        super().__init__()
        self.out = bytearray()
        self.closing = False
        self.reading = True
        self.protocol: Any = None

    def write(self, data: Any) -> None:
        self.out += data

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.out += data

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class Other(asyncio.Protocol):
    """Stands for aiohttp: keeps what it is given."""

    def __init__(self) -> None:
        self.got = bytearray()

    def data_received(self, data: bytes) -> None:
        self.got += data


async def give(front: Front, wire: Wire, portion: bytes) -> None:
    """As much as it takes at a time; lets others run while it takes nothing."""
    while portion:
        for _ in range(100):
            if wire.reading or wire.closing:
                break
            await asyncio.sleep(0)
        if wire.closing:
            return
        assert wire.reading, "it never went on reading"
        if isinstance(wire.protocol, Other):
            wire.protocol.data_received(portion)
            return
        room = front.get_buffer(-1)
        assert len(room), "a transport that reads needs room"
        count = min(len(room), len(portion))
        room[:count] = portion[:count]
        portion = portion[count:]
        front.buffer_updated(count)


def routes_that_echo() -> Routes:
    async def echo(request: Request) -> Answer:
        return Answer([await read_body(request, 100_000)])

    async def parts(request: Request) -> Answer:
        assert request.length is not None
        reader = BodyReader(request, request.length)
        header = await reader.header()
        rooms = [bytearray(number) for number in header]

        def bad(number: int) -> None:
            if rooms[number][:1] == b"!":
                raise BadRequest("bad")

        await reader.into([memoryview(room) for room in rooms], bad)
        return Answer([b"".join(rooms)])

    async def refuse(request: Request) -> Answer:
        raise BadRequest("refused")

    async def unwritable(request: Request) -> Answer:
        return Answer([cast(bytes, "no bytes")])

    routes = Routes()
    routes.add_post("/echo", echo)
    routes.add_post("/unwritable", unwritable)
    routes.add_put("/parts", parts)
    routes.add_post("/refuse", refuse)
    return routes


def framed(parts: list[bytes]) -> bytes:
    return len(parts).to_bytes(4, "big") + bytes(len(part) for part in parts) + b"".join(parts)


A_PART = st.binary(max_size=255)
REQUESTS = st.one_of(
    st.tuples(st.just(b"POST /echo"), st.binary(max_size=300)),
    st.tuples(st.just(b"POST /echo"), st.integers(15_000, 40_000).map(lambda count: b"e" * count)),
    st.tuples(st.just(b"PUT /parts"), st.lists(A_PART, max_size=90).map(framed)),
    st.tuples(st.just(b"POST /refuse"), st.integers(0, 20_000).map(lambda count: b"r" * count)),
)


class Sated(Other):
    """Has had enough with the first bytes, as aiohttp with many requests that came together."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self.wire = wire

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.wire.pause_reading()


def test_who_is_handed_a_connection_may_pause_it_at_once() -> None:
    async def work() -> None:
        wire = Wire()
        front = Fronts(Routes(), lambda: Sated(wire))()
        wire.protocol = front
        front.connection_made(wire)
        await give(front, wire, b"GET /nobody HTTP/1.1\r\nHost: h\r\n\r\n")
        assert isinstance(wire.protocol, Sated) and wire.protocol.got
        assert not wire.reading

    asyncio.run(work())


def test_a_connection_that_comes_while_the_server_stops_is_closed() -> None:
    async def work() -> None:
        fronts, wire = Fronts(routes_that_echo(), Other), Wire()
        front = fronts()  # accepted; asyncio says so in a later turn of its loop
        await fronts.stop(1)
        front.connection_made(wire)
        assert wire.closing
        front.connection_lost(None)
        assert not fronts.open

    asyncio.run(work())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(REQUESTS, min_size=1, max_size=6),
    st.lists(st.integers(1, 20_000), max_size=60),
    st.booleans(),
)
def test_portions_make_no_difference(
    requests: list[tuple[bytes, bytes]], cuts: list[int], hand_over: bool
) -> None:
    stream = b"".join(
        line + b" HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        for line, body in requests
    )
    beyond = b"GET /nobody HTTP/1.1\r\nHost: h\r\n\r\n and the rest"
    if hand_over:
        stream += beyond

    async def work() -> tuple[bytes, bytes]:
        other = Other()

        def is_done() -> bool:
            answered = wire.out.count(b"HTTP/1.1 ") == len(requests)
            return answered and (not hand_over or other.got == beyond)

        fronts = Fronts(routes_that_echo(), lambda: other)
        front, wire = fronts(), Wire()
        wire.protocol = front
        front.connection_made(wire)
        rest = stream
        for cut in cuts:
            await give(front, wire, rest[:cut])
            rest = rest[cut:]
        await give(front, wire, rest)
        async with asyncio.timeout(10):
            while not is_done():  # noqa: ASYNC110 - each turn of the loop is the handlers'
                await asyncio.sleep(0)
        assert not wire.closing
        front.connection_lost(None)
        assert not fronts.open
        return bytes(wire.out), bytes(other.got)

    out, handed = asyncio.run(work())
    assert handed == (beyond if hand_over else b"")
    answers = []
    while out:
        head, _, out = out.partition(b"\r\n\r\n")
        length = int(head.rpartition(b": ")[2])
        answers.append((int(head.split()[1]), out[:length]))
        out = out[length:]
    assert len(answers) == len(requests)
    for (line, body), (status, told) in zip(requests, answers, strict=True):
        if line == b"POST /echo":
            assert (status, told) == (200, body)
        elif line == b"PUT /parts":
            lengths = body[4 : 4 + body[3]]
            parts = [body[4 + body[3] + sum(lengths[:i]) :][: lengths[i]] for i in range(len(lengths))]
            bad = any(part[:1] == b"!" for part in parts)
            assert status == (400 if bad else 200)
            assert bad or told == b"".join(parts)
        else:
            assert status == 400


# Real connections


def on_uvloop(work: Callable[[Server, int], Awaitable[None]]) -> None:
    async def bounded() -> None:
        server = Server(routes_that_echo(), ListenAddress("127.0.0.1", 0))
        bound = await server.start()
        try:
            async with asyncio.timeout(30):
                await work(server, bound.port)
        finally:
            await server.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def plain(body: bytes) -> bytes:
    return b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    "beyond",
    [
        b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /echo HTTP/1.0\r\nHost: h\r\n\r\n",
        b"BREW /pot HTTP/1.1\r\nHost: h\r\n\r\n",
        b"HEAD /echo HTTP/1.1\r\nHost: h\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET /echo HTTP/1.1\nHost: h\n\n",
        b"POST /echo HTTP/1.1\r\nHost: h\r\nX: " + b"x" * REQUEST_HEAD_BYTES_MAX + b"\r\n\r\n",
    ],
)
def test_a_connection_is_handed_over_whole(beyond: bytes) -> None:
    """aiohttp says what is wrong; what was asked before was answered before."""

    async def work(server: Server, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(plain(b"first") + plain(b"second") + beyond)
        assert (await reader.readuntil(b"first")).startswith(b"HTTP/1.1 200")
        assert (await reader.readuntil(b"second")).startswith(b"HTTP/1.1 200")
        head = await reader.readuntil(b"\r\n\r\n")
        assert 400 <= int(head.split()[1]) < 500
        assert b"aiohttp" in head
        writer.close()

    on_uvloop(work)


def test_aiohttp_goes_on_with_a_connection_that_it_was_given() -> None:
    async def work(server: Server, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(b"y" * 100_000)
        await reader.readuntil(b"y" * 100_000)
        writer.write(plain(b"after it"))
        await reader.readuntil(b"after it")
        writer.close()

    on_uvloop(work)


def test_a_body_whose_request_got_no_answer_is_not_taken_for_a_request() -> None:
    async def work(server: Server, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        body = plain(b"hidden")
        writer.write(b"POST /unwritable HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body))
        await asyncio.sleep(0.1)
        writer.write(body)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"hidden")
        writer.close()

    on_uvloop(work)


def test_what_is_given_up_is_through_when_the_server_has_stopped() -> None:
    async def work() -> None:
        began, ended = asyncio.Event(), []

        async def slow(request: Request) -> Answer:
            try:
                began.set()
                await asyncio.sleep(60)
            finally:
                for turn in range(5):  # what it does with a store, which is closed after the server
                    await asyncio.sleep(0)
                    ended.append(turn)
            raise AssertionError

        routes = Routes()
        routes.add_post("/slow", slow)
        fronts, wire = Fronts(routes, Other), Wire()
        wire.protocol = front = fronts()
        front.connection_made(wire)
        await give(front, wire, b"POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
        await began.wait()
        await fronts.stop(0.05)
        assert wire.closing and len(ended) == 5

    asyncio.run(work())


@pytest.mark.parametrize("begun", [b"", b"POST /echo HTTP/1.1\r\nHost"])
def test_who_rests_too_long_is_let_go(begun: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_front, "FRONT_IDLE_S", 0.2)

    async def work(server: Server, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(plain(b"x") + begun)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"never")
        writer.close()

    on_uvloop(work)


def test_what_is_left_of_a_refused_body_is_waited_for_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_front, "UNWANTED_BODY_S", 0.2)

    async def work(server: Server, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST /refuse HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n"
        writer.write(head)
        await reader.readuntil(b"refused")
        writer.write(b"x" * 200_000 + plain(b"goes on"))
        await reader.readuntil(b"goes on")
        writer.write(head)
        await reader.readuntil(b"refused")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readuntil(b"never")
        writer.close()

    on_uvloop(work)


def test_a_peer_that_vanishes_leaves_nothing_behind() -> None:
    async def work(server: Server, port: int) -> None:
        for sent in (b"", b"POST /ec", plain(b"x" * 90_000)[:-1], plain(b"x" * 100), b"\x16\x03\x01\x02\0"):
            with socket.create_connection(("127.0.0.1", port)) as peer:
                peer.sendall(sent)
        while server._fronts.open:  # noqa: ASYNC110 - it is seen, sooner or later
            await asyncio.sleep(0.01)

    on_uvloop(work)
