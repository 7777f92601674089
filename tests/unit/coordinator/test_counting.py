"""Counts that take long: in turn, once for all who wait for the same, and no longer than the coordinator."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.coordinator.service.counting import InTurn
from holdfast.protocol.errors import HoldfastError


async def test_one_at_a_time_and_each_gets_its_own_answer() -> None:
    turns, running, most = InTurn(), 0, 0

    async def work(answer: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return answer

    asked = [number % 4 for number in range(40)]
    answers = await asyncio.gather(*(turns.run(which, lambda w=which: work(w)) for which in asked))
    assert answers == asked and most == 1


async def test_whoever_asks_while_it_is_done_gets_what_is_there_then() -> None:
    turns, there, begun, go_on = InTurn(), 1, asyncio.Event(), asyncio.Event()

    async def look() -> int:
        seen = there
        begun.set()
        await go_on.wait()
        return seen

    first = asyncio.create_task(turns.run("all", look))
    await begun.wait()
    there = 2
    later = [asyncio.create_task(turns.run("all", look)) for _ in range(3)]
    await asyncio.sleep(0)
    go_on.set()
    assert (await first, await asyncio.gather(*later)) == (1, [2, 2, 2])


async def test_what_goes_wrong_is_told_to_all_who_wait_and_the_next_one_goes_on() -> None:
    turns = InTurn()

    async def fails() -> int:
        raise HoldfastError("the catalogue's database failed")

    async def works() -> int:
        return 7

    told = await asyncio.gather(*(turns.run("all", fails) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in told] == [HoldfastError] * 3
    assert await turns.run("all", works) == 7


async def test_nothing_of_it_outlives_the_coordinator() -> None:
    turns, before = InTurn(), asyncio.all_tasks()

    async def hangs() -> None:
        await asyncio.Event().wait()

    asking = [asyncio.create_task(turns.run(what, hangs)) for what in ("one", "other")]
    await asyncio.sleep(0)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    assert asyncio.all_tasks() - before, "a thread that counts cannot be ended by who asked"
    await turns.end()
    assert not asyncio.all_tasks() - before
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.0):
            await turns.run("one", hangs)
    await turns.end()
