"""Threads that commands are handed to: in order, told to whoever waits, and taken back where nobody does."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from holdfast.protocol.threads import Threads


@pytest.fixture
def one() -> Iterator[Threads]:
    made = Threads(1, "one")
    yield made
    made.end()


async def test_each_gets_what_came_of_its_own_command(one: Threads) -> None:
    def half(number: int) -> int:
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number // 2

    told = await asyncio.gather(*(one.run(half, n) for n in range(50)), return_exceptions=True)
    assert [each for each in told if isinstance(each, int)] == list(range(25))
    assert [str(each) for each in told if isinstance(each, ValueError)] == [
        f"{n} is odd" for n in range(1, 50, 2)
    ]


async def test_one_thread_does_them_one_after_the_other_in_their_order(one: Threads) -> None:
    done: list[int] = []
    names: set[str] = set()

    def note(number: int) -> None:
        names.add(threading.current_thread().name)
        done.append(number)

    await asyncio.gather(*(one.run(note, n) for n in range(100)))
    assert done == list(range(100)) and len(names) == 1
    assert threading.current_thread().name not in names


async def test_two_threads_do_two_at_a_time() -> None:
    two, both = Threads(2, "two"), threading.Barrier(2)
    try:
        await asyncio.gather(*(two.run(both.wait, 60.0) for _ in range(2)))
    finally:
        two.end()


async def test_what_was_not_begun_is_taken_back_and_what_was_goes_on(one: Threads) -> None:
    begun, may_end = threading.Event(), threading.Event()
    done: list[int] = []

    def slow(number: int) -> None:
        begun.set()
        assert may_end.wait(60)
        done.append(number)

    first, second = (asyncio.create_task(one.run(slow, n)) for n in (1, 2))
    await asyncio.to_thread(begun.wait)
    first.cancel()
    second.cancel()
    await asyncio.wait({first, second})
    may_end.set()
    await one.run(done.append, 3)
    assert done == [1, 3] and first.cancelled() and second.cancelled()


async def test_at_the_end_what_was_handed_over_is_done_and_nothing_more_is_taken(one: Threads) -> None:
    may_go_on = threading.Event()
    done: list[int] = []

    def wait(_: int) -> None:
        assert may_go_on.wait(60)

    handed = [asyncio.create_task(one.run(wait, 0)), asyncio.create_task(one.run(done.append, 1))]
    await asyncio.sleep(0)
    ending = asyncio.create_task(asyncio.to_thread(one.end))
    may_go_on.set()
    await asyncio.gather(*handed, ending)
    assert done == [1]
    with pytest.raises(RuntimeError, match="ended"):
        await one.run(done.append, 2)


def test_a_loop_that_was_closed_meanwhile_does_not_stop_the_thread(one: Threads) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def slow(_: int) -> None:
        begun.set()
        assert may_end.wait(60)

    async def give_up() -> None:
        asked = asyncio.create_task(one.run(slow, 0))
        await asyncio.to_thread(begun.wait)
        asked.cancel()

    asyncio.run(give_up())
    may_end.set()
    assert asyncio.run(one.run(str, 5)) == "5"


class Body(bytearray):
    """What was asked, so that a test can know when nobody holds it any more."""


async def test_an_error_holds_nothing_when_it_was_told(one: Threads) -> None:
    """A refused request of many megabytes is not kept until the collector of cycles comes by."""

    def refuse(body: Body) -> None:
        raise ValueError(f"{len(body)} bytes are too many")

    gc.collect()
    gc.disable()
    try:
        body = Body(1000)
        asked = weakref.ref(body)
        with pytest.raises(ValueError, match="1000 bytes"):
            await one.run(refuse, body)
        del body
        await one.run(str, 0)  # the thread has let go of what it did before
        assert asked() is None
    finally:
        gc.enable()
