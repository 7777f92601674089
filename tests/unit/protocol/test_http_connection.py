"""The client's side of HTTP: what a server may answer, and what a hostile or dying one cannot do to us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from holdfast.protocol.errors import BadRequest
from holdfast.protocol.http_connection import (
    Answer,
    BadAnswer,
    ConnectFailed,
    Connection,
    Lost,
    Silent,
    connect,
    request_head,
)

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@asynccontextmanager
async def connected(talk: Talk) -> AsyncIterator[Connection]:
    """A connection to a server that talks as told, once."""

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    connection = await connect(host, port, None)
    try:
        yield connection
    finally:
        connection.close()
        server.close()


async def ask(connection: Connection, *, most: int = 1000, idle_s: float = 10.0) -> Answer:
    head = request_head("POST", "/x", "h", {}, 3)
    return await connection.ask(head, [b"a", memoryview(b"bc")], body_bytes_max=most, idle_s=idle_s)


def saying(*parts: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"abc")
        for part in parts:
            writer.write(part)
            await writer.drain()
        await reader.read()

    return talk


@pytest.mark.parametrize("cut", range(1, len(OK)))
async def test_an_answer_may_come_in_any_two_parts(cut: int) -> None:
    async with connected(saying(OK[:cut], OK[cut:])) as connection:
        answer = await ask(connection)
    assert (answer.status, bytes(answer.body)) == (200, b"hello")


async def test_one_connection_serves_many_requests() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in range(3):
            await reader.readuntil(b"abc")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
        await reader.read()

    async with connected(talk) as connection:
        assert [bytes((await ask(connection)).body) for _ in range(3)] == [b"0", b"1", b"2"]
        assert connection.is_open


def test_a_large_body_arrives_whole_on_the_loop_that_production_uses() -> None:
    content = bytes(range(256)) * 40_000

    async def exchange() -> bytes:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content)
        async with connected(saying(head, content)) as connection:
            return bytes((await ask(connection, most=len(content))).body)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(exchange()) == content


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/2 200\r\nContent-Length: 5\r\n\r\nhello",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"x" * 20_000,
    ],
)
async def test_whatever_else_is_said_is_refused_and_the_connection_given_up(said: bytes) -> None:
    async with connected(saying(said)) as connection:
        with pytest.raises(BadAnswer):
            await ask(connection)
        assert not connection.is_open


@given(said=st.binary(max_size=200))
def test_no_bytes_at_all_confuse_the_reader(said: bytes) -> None:
    """Whatever comes gives an answer or one of three errors, and never a wait without end."""

    async def exchange() -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"abc")
            writer.write(b"HTTP/1.1 " + said)
            writer.write_eof()

        async with connected(talk) as connection:
            try:
                await ask(connection)
            except (BadAnswer, Lost, Silent):
                assert not connection.is_open

    asyncio.run(asyncio.wait_for(exchange(), 30))


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 200", OK[:-1]])
async def test_a_server_that_hangs_up_early_gave_no_answer(before: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"abc")
        writer.write(before)

    async with connected(talk) as connection:
        with pytest.raises(Lost):
            await ask(connection)


async def test_silence_ends_the_call_though_nobody_hangs_up() -> None:
    async with connected(saying(OK[:-1])) as connection:
        with pytest.raises(Silent):
            await ask(connection, idle_s=0.05)
        assert not connection.is_open


async def test_a_closing_server_is_not_asked_again() -> None:
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
    async with connected(saying(closing)) as connection:
        assert bytes((await ask(connection)).body) == b"hello"
        assert not connection.is_open
        with pytest.raises(Lost):
            await ask(connection)


async def test_a_cancelled_call_gives_its_connection_up() -> None:
    """Its answer may still come, and must not be taken for the next request's."""
    asked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"abc")
        asked.set()
        await reader.read()

    async with connected(talk) as connection:
        call = asyncio.create_task(ask(connection))
        await asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not connection.is_open


async def test_what_nobody_asked_for_ends_the_connection() -> None:
    hung_up = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        with suppress(ConnectionError):
            await reader.read()
        hung_up.set()

    async with connected(talk) as connection:
        await asyncio.wait_for(hung_up.wait(), 10)
        assert not connection.is_open


async def test_nobody_there_means_nothing_was_sent() -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()
    with pytest.raises(ConnectFailed, match="refused"):
        await connect(host, port, None)


@pytest.mark.parametrize("target", ["/a b", "x", "/a\r\nEvil: 1", "/\x00", "/ä"])
def test_nothing_smuggles_a_line_into_a_request(target: str) -> None:
    with pytest.raises(BadRequest):
        request_head("GET", target, "h", {}, None)
    with pytest.raises(BadRequest):
        request_head("GET", "/", "h", {"Holdfast-Auth": f"v{target[2:] or chr(10)}\n"}, None)
