"""However many connections come, a server keeps those that are at work, and goes on taking new ones."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer, read_body
from holdfast.protocol.http_crowd import Crowd, connections_for, take_descriptors
from holdfast.protocol.limits import CONNECTIONS_MAX, CONNECTIONS_MIN, DESCRIPTORS_RESERVED
from holdfast.protocol.messages.uploads import Done
from holdfast.protocol.serving import ListenAddress, Server

MOST = 6
STEPS = st.lists(st.tuples(st.sampled_from(["came", "asks", "rests", "left"]), st.integers(0, 5)))


@given(STEPS)
def test_who_goes_is_the_oldest_stranger_or_else_who_rested_longest(steps: list[tuple[str, int]]) -> None:
    crowd: Crowd[int] = Crowd()
    since: dict[int, tuple[str, int]] = {}
    for at, (step, one) in enumerate(steps):
        if (one in since) == (step == "came"):
            continue  # it comes once, and does nothing before
        getattr(crowd, step)(one)
        since[one] = (step, at)
        if step == "left":
            del since[one]
    assert sorted(crowd) == sorted(since) and len(crowd) == len(since)
    waiting = sorted((kind != "came", at, one) for one, (kind, at) in since.items() if kind != "asks")
    assert crowd.least_needed() == (waiting[0][2] if waiting else None)


@given(st.integers(0, 1 << 20))
def test_stores_and_logs_keep_descriptors_of_their_own(descriptors: int) -> None:
    taken = connections_for(descriptors)
    assert CONNECTIONS_MIN <= taken <= CONNECTIONS_MAX
    assert taken == CONNECTIONS_MIN or taken + DESCRIPTORS_RESERVED <= descriptors


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_process_takes_the_descriptors_that_it_may(few_descriptors: int) -> None:
    taken = take_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == few_descriptors, "what root decided stays"
    assert soft == min(few_descriptors, CONNECTIONS_MAX + DESCRIPTORS_RESERVED)
    assert taken == connections_for(soft) > connections_for(512)


# Real connections


class Crowded:
    """A server that takes six connections; ``go`` lets its slow requests end."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = 0
        self.port = 0

    def routes(self) -> Routes:
        made = Routes()
        made.add_post("/quick", self.quick)
        made.add_post("/slow", self.slow)
        return made

    async def quick(self, request: Request) -> Answer:
        await read_body(request, 100)
        return msgpack_answer(Done())

    async def slow(self, request: Request) -> Answer:
        self.begun += 1
        await self.go.wait()
        return msgpack_answer(Done())

    async def connect(self) -> Caller:
        return Caller(*await asyncio.open_connection("127.0.0.1", self.port))


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def ask(self, path: bytes, version: bytes = b"1.1") -> None:
        self.writer.write(b"POST %s HTTP/%s\r\nHost: h\r\nContent-Length: 0\r\n\r\n" % (path, version))

    async def answered(self) -> bool:
        """Is what was asked answered, or is the connection gone?"""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            await self.reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
        except (ConnectionError, asyncio.IncompleteReadError):
            return False
        return head.startswith(b"HTTP/1.1 200")

    async def asked(self, path: bytes = b"/quick") -> bool:
        self.ask(path)
        return await self.answered()

    async def is_closed(self) -> bool:
        try:
            async with asyncio.timeout(0.05):
                return await self.reader.read(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True


@asynccontextmanager
async def _served() -> AsyncIterator[Crowded]:
    crowded = Crowded()
    server = Server(crowded.routes(), ListenAddress("127.0.0.1", 0), connections_max=MOST)
    crowded.port = (await server.start()).port
    try:
        async with asyncio.timeout(30):
            yield crowded
    finally:
        crowded.go.set()
        await server.stop()


def with_a_crowd(work: Callable[[Crowded], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with _served() as crowded:
            await work(crowded)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def test_those_that_never_ask_do_not_keep_anybody_away() -> None:
    async def work(crowded: Crowded) -> None:
        one = await crowded.connect()
        assert await one.asked()
        silent = [await crowded.connect() for _ in range(3 * MOST)]
        assert await one.asked(), "who asked before is not given up for them"
        assert await (await crowded.connect()).asked()
        closed = [await each.is_closed() for each in silent]
        assert closed == sorted(closed, reverse=True) and sum(closed) == 3 * MOST - MOST + 2, (
            "the oldest went"
        )

    with_a_crowd(work)


def test_who_rested_longest_goes_and_who_is_at_work_does_not() -> None:
    async def work(crowded: Crowded) -> None:
        at_work, *resting = [await crowded.connect() for _ in range(MOST)]
        at_work.ask(b"/slow")
        for each in resting:
            assert await each.asked()
        assert await resting[0].asked(), "so the second one has rested longest"
        assert await (await crowded.connect()).asked()
        assert [await each.is_closed() for each in resting] == [False, True, False, False, False]
        crowded.go.set()
        assert await at_work.answered()

    with_a_crowd(work)


def test_where_all_are_at_work_a_newcomer_is_turned_away_and_later_it_is_not() -> None:
    async def work(crowded: Crowded) -> None:
        busy = [await crowded.connect() for _ in range(MOST)]
        for each in busy:
            each.ask(b"/slow")
        while crowded.begun < MOST:  # noqa: ASYNC110 - seen by a server in this loop, sooner or later
            await asyncio.sleep(0)
        assert not await (await crowded.connect()).asked()
        crowded.go.set()
        assert all([await each.answered() for each in busy])
        assert await (await crowded.connect()).asked()

    with_a_crowd(work)


def test_connections_that_only_aiohttp_knows_take_a_part_and_no_more() -> None:
    async def work(crowded: Crowded) -> None:
        odd = [await crowded.connect() for _ in range(MOST)]
        for each in odd:
            each.ask(b"/nowhere")  # a path that nobody serves
            await each.answered()
        closed = [await each.is_closed() for each in odd]
        assert closed == [False, *[True] * (MOST - 1)]
        odd[0].writer.close()
        await odd[0].writer.wait_closed()
        assert await (await crowded.connect()).asked()
        again = await crowded.connect()
        again.ask(b"/nowhere")
        assert (await again.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404"), (
            "its place was free again"
        )

    with_a_crowd(work)
