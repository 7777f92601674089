"""However many connections come, a server keeps those that are at work, and goes on taking new ones."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from holdfast.protocol import http_crowd, http_front, http_fronts
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer, read_body
from holdfast.protocol.http_crowd import Crowd, connections_for, take_descriptors
from holdfast.protocol.limits import (
    CONNECTIONS_MAX,
    CONNECTIONS_MIN,
    DESCRIPTORS_RESERVED,
    MIB,
    NODES_MAX,
    STALLED_S,
    STRANGERS_PART,
)
from holdfast.protocol.messages.uploads import Done
from holdfast.protocol.serving import ListenAddress, Server

LONG_BYTES = 30 * MIB
MOST = 8
"""Two of them may be strangers while others rest, and two aiohttp's."""
KINDS = ["came", "works", "is_awaited", "rests", "left"]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 7), st.integers(0, 3)), max_size=60)


@given(STEPS)
def test_who_goes_for_a_newcomer(steps: list[tuple[str, int, int]]) -> None:
    crowd: Crowd[int] = Crowd(MOST)
    since: dict[int, tuple[str, int, float]] = {}
    now = 0.0
    for at, (step, one, later) in enumerate(steps):
        now += later * STALLED_S / 2
        if (one in since) == (step == "came"):
            continue  # it comes once, and does nothing before
        crowd.is_awaited(one, now) if step == "is_awaited" else getattr(crowd, step)(one)
        since[one] = (step, at, now)
        if step == "left":
            del since[one]
    assert sorted(crowd) == sorted(since) and len(crowd) == len(since)

    def oldest(kind: str) -> list[int]:
        return [one for _, one in sorted((at, one) for one, (of, at, _) in since.items() if of == kind)]

    strangers, resting, awaited = oldest("came"), oldest("rests"), oldest("is_awaited")
    order = strangers + resting if len(strangers) > MOST // STRANGERS_PART else resting + strangers
    stalled = [one for one in awaited[:1] if now - since[one][2] >= STALLED_S]
    assert crowd.least_needed(now) == ((order + stalled)[0] if order + stalled else None)


def test_each_node_of_a_cluster_may_have_its_connection() -> None:
    assert CONNECTIONS_MAX > NODES_MAX


@given(st.integers(0, 1 << 20))
def test_stores_and_logs_keep_descriptors_of_their_own(descriptors: int) -> None:
    taken = connections_for(descriptors)
    assert CONNECTIONS_MIN <= taken <= CONNECTIONS_MAX
    assert taken == CONNECTIONS_MIN or descriptors - taken >= min(DESCRIPTORS_RESERVED, descriptors // 2)


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


def test_where_more_descriptors_are_forbidden_a_process_goes_on_with_those_it_has(
    few_descriptors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "setrlimit", forbidden)
    taken = take_descriptors()
    monkeypatch.undo()
    assert taken == connections_for(512)


# Real connections


class Crowded:
    """A server that takes eight connections; ``go`` lets its slow requests end."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = 0
        self.port = 0
        self.server: Any = None

    def routes(self) -> Routes:
        made = Routes()
        made.add_post("/quick", self.quick)
        made.add_post("/slow", self.slow)
        made.add_post("/long", self.long)
        return made

    async def quick(self, request: Request) -> Answer:
        await read_body(request, 100)
        return msgpack_answer(Done())

    async def slow(self, request: Request) -> Answer:
        await read_body(request, 100)
        self.begun += 1
        await self.go.wait()
        return msgpack_answer(Done())

    async def long(self, request: Request) -> Answer:
        return Answer([bytes(MIB)] * (LONG_BYTES // MIB))

    async def connect(self) -> Caller:
        return Caller(*await asyncio.open_connection("127.0.0.1", self.port))


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def ask(self, path: bytes, version: bytes = b"1.1", length: int = 0) -> None:
        head = b"POST %s HTTP/%s\r\nHost: h\r\nContent-Length: %d\r\n\r\n"
        self.writer.write(head % (path, version, length))

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

    async def answered_after(self, taken: int) -> bool:
        """Does the rest of a long answer come?"""
        head = LONG_BYTES - taken  # and the few bytes of its head
        return len(await self.reader.readexactly(head)) == head

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
    crowded.server, crowded.port = server, (await server.start()).port
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
        assert [await each.is_closed() for each in resting] == [False, True, *[False] * (MOST - 3)]
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
        assert closed == [False, False, *[True] * (MOST - 2)]
        odd[0].writer.close()
        await odd[0].writer.wait_closed()
        assert await (await crowded.connect()).asked()
        again = await crowded.connect()
        again.ask(b"/nowhere")
        assert (await again.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404"), (
            "its place was free again"
        )

    with_a_crowd(work)


def test_what_aiohttp_has_closed_takes_no_place() -> None:
    async def work(crowded: Crowded) -> None:
        odd = [await crowded.connect() for _ in range(2)]
        for each in odd:
            each.ask(b"/nowhere", version=b"1.0")
            await each.answered()
            assert await each.is_closed()
        ours = [await crowded.connect() for _ in range(MOST)]
        for each in ours:
            assert await each.asked()

    with_a_crowd(work)


def test_a_newcomer_has_a_moment_to_ask_where_all_others_rest() -> None:
    """Not: it is the only stranger, and so the next one to go."""

    async def work(crowded: Crowded) -> None:
        resting = [await crowded.connect() for _ in range(MOST)]
        for each in resting:
            assert await each.asked()
        newcomer = await crowded.connect()
        others = [await crowded.connect() for _ in range(MOST // STRANGERS_PART)]
        assert await newcomer.asked()
        assert [await each.is_closed() for each in others] == [False] * len(others)

    with_a_crowd(work)


def test_bodies_that_do_not_come_keep_nobody_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_crowd, "STALLED_S", 0.0)
    monkeypatch.setattr(http_front, "PROGRESS_NOTED_S", 0.0)

    async def work(crowded: Crowded) -> None:
        first, second, *others = [await crowded.connect() for _ in range(MOST)]
        for each in (first, second, *others):
            each.ask(b"/quick", length=10)
        while len(crowded.server._fronts.open._awaited) < MOST:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0)
        first.writer.write(b"12345")
        await first.writer.drain()
        await asyncio.sleep(0.05)
        assert await (await crowded.connect()).asked()
        assert [await each.is_closed() for each in (first, second)] == [False, True], (
            "who sends is not stalled"
        )
        first.writer.write(b"67890")
        assert await first.answered()

    with_a_crowd(work)


def test_answers_that_nobody_takes_keep_nobody_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_crowd, "STALLED_S", 0.0)

    async def work(crowded: Crowded) -> None:
        callers = [await crowded.connect() for _ in range(MOST)]
        for each in callers:
            each.ask(b"/long")
        while len(crowded.server._fronts.open._awaited) < MOST:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        # The kernel has taken some of each by now; whether anybody takes more is seen at the next look.
        assert not await (await crowded.connect()).asked()
        await callers[0].reader.readexactly(10 * MIB)
        await asyncio.sleep(0.1)
        assert await (await crowded.connect()).asked()
        assert await callers[0].answered_after(10 * MIB), "who takes its answer gets all of it"
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await callers[1].reader.readexactly(LONG_BYTES)
        # Those that went are counted no more, though their answers ended only then.
        await asyncio.sleep(0.1)
        left = [each for each in callers[2:] if not each.reader.at_eof()]
        assert len(crowded.server._fronts.open) <= 2 + len(left)
        assert not crowded.server._fronts.open._working

    with_a_crowd(work)


def test_what_is_left_of_a_refused_body_is_awaited_like_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_crowd, "STALLED_S", 0.0)

    async def work(crowded: Crowded) -> None:
        for each in [await crowded.connect() for _ in range(MOST)]:
            each.ask(b"/quick", length=101)  # more than it takes
            assert (await each.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 400")
        assert await (await crowded.connect()).asked()

    with_a_crowd(work)


def test_who_goes_on_sending_a_refused_body_is_not_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_crowd, "STALLED_S", 0.0)
    monkeypatch.setattr(http_front, "PROGRESS_NOTED_S", 0.0)

    async def work(crowded: Crowded) -> None:
        first, second, *others = [await crowded.connect() for _ in range(MOST)]
        for each in (first, second, *others):
            each.ask(b"/quick", length=101)
            assert (await each.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 400")
            await each.reader.read(10_000)  # what it is told
        first.writer.write(bytes(50))
        await first.writer.drain()
        await asyncio.sleep(0.05)
        assert await (await crowded.connect()).asked()
        assert [await each.is_closed() for each in (first, second)] == [False, True]
        first.writer.write(bytes(51))
        assert await first.asked(), "it goes on once its body is through"

    with_a_crowd(work)


def test_who_has_sent_its_body_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_crowd, "STALLED_S", 0.0)

    async def work(crowded: Crowded) -> None:
        busy = [await crowded.connect() for _ in range(MOST)]
        for each in busy:
            each.ask(b"/slow", length=3)
        while len(crowded.server._fronts.open._awaited) < MOST:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0)
        for each in busy:
            each.writer.write(b"abc")
        while crowded.begun < MOST:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0)
        assert not await (await crowded.connect()).asked()
        crowded.go.set()
        assert all([await each.answered() for each in busy])

    with_a_crowd(work)


class Told:
    """A connection that only notes that it was ended."""

    def __init__(self, *, closing: bool = False) -> None:
        self.aborted = 0
        self.closing = closing

    def abort(self) -> None:
        self.aborted += 1

    def is_closing(self) -> bool:
        return self.closing

    def has_taken(self) -> bool:
        return False


async def test_two_newcomers_at_once_take_two_places() -> None:
    fronts: Any = http_fronts.Fronts(Routes(), asyncio.Protocol, 2)
    there = [Told(), Told()]
    for each in there:
        fronts.open.came(each)
    assert fronts.makes_room()
    fronts.open.came(Told())
    assert fronts.makes_room()
    assert [each.aborted for each in there] == [1, 1]


async def test_a_connection_of_aiohttp_that_ends_slowly_ends_now_when_its_place_is_needed() -> None:
    """It keeps its descriptor as long as nobody reads its answer."""
    fronts: Any = http_fronts.Fronts(Routes(), asyncio.Protocol, 4)
    slow, fine = Told(closing=True), Told()
    fronts._handed_over = {slow}
    assert fronts.hand_over(fine) is not None
    assert (slow.aborted, fine.aborted) == (1, 0)
    assert fronts.hand_over(Told()) is None


def test_aiohttps_connections_count_with_the_others() -> None:
    async def work(crowded: Crowded) -> None:
        odd = [await crowded.connect() for _ in range(2)]
        for each in odd:
            each.ask(b"/nowhere")
            await each.answered()
        ours = [await crowded.connect() for _ in range(MOST)]
        assert [await each.is_closed() for each in ours] == [True, True, *[False] * (MOST - 2)]
        assert len(crowded.server._fronts.open) + len(crowded.server._fronts._handed_over) == MOST
        assert not any([await each.is_closed() for each in odd]), "they are aiohttp's to close"

    with_a_crowd(work)


def test_that_it_is_crowded_is_said_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Log:
        def warning(self, what: str, **more: object) -> None:
            said.append(what)

    monkeypatch.setattr(http_fronts, "_log", Log())

    async def work(crowded: Crowded) -> None:
        silent = [await crowded.connect() for _ in range(4 * MOST)]
        assert await (await crowded.connect()).asked()
        assert len(said) == 1 and len(silent) == 4 * MOST

    with_a_crowd(work)
