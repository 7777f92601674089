"""Nodes that did not give their shards are waited for: a little while, all together, and not in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.few_chunks import FIRST, SEALED, SECOND, A, B, C, FewChunks

from holdfast.client.awaited_nodes import AwaitedNodes
from holdfast.client.limits import READ_AGAIN_PAUSE_S, READ_AGAIN_REST_S, READ_AGAIN_WITHIN_S
from holdfast.client.read_batches import read_batches
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.errors import HoldfastError, IntegrityFailure, TooFewShards, Unreachable
from holdfast.protocol.ids import NodeId
from holdfast.protocol.messages.cluster import MapNode


class Away:
    """Does not answer so often; then it does."""

    def __init__(self, times: int) -> None:
        self.left = times

    async def __call__(self) -> None:
        if self.left:
            self.left -= 1
            raise Unreachable("its connection was reset")


def with_two_away(first: int, second: int, **more: Any) -> FewChunks:
    """One shard is there, and it takes two."""
    return FewChunks([[A], [B], [C]], {A: Away(first), B: Away(second)}, **more)


def soon(within_s: float = 30.0, rest_s: float = 60.0) -> AwaitedNodes:
    return AwaitedNodes(pause_s=0.01, within_s=within_s, rest_s=rest_s)


async def test_a_read_goes_on_when_nodes_are_back_a_moment_later() -> None:
    world = with_two_away(1, 2)
    assert await world.fetch_first(world.downloader(soon())) == SEALED[FIRST]
    assert world.asked == [A, B, C, A]


async def test_they_are_asked_again_and_again_and_who_has_given_its_shard_is_not() -> None:
    world = with_two_away(7, 9)
    assert await world.fetch_first(world.downloader(soon())) == SEALED[FIRST]
    assert (world.asked.count(A), world.asked.count(B), world.asked.count(C)) == (8, 7, 1)


async def test_who_stays_away_is_waited_for_once_and_not_for_every_chunk() -> None:
    world = with_two_away(1000, 1000)
    downloader = world.downloader(soon(within_s=0.1))
    assert isinstance(await world.fetch_first(downloader), TooFewShards)
    assert 1 < world.asked.count(A) < 20
    for _ in range(3):
        world.asked.clear()
        assert isinstance(await world.fetch_first(downloader), TooFewShards)
        assert sorted(world.asked) == [A, B, C]


async def test_after_a_rest_somebody_is_waited_for_again() -> None:
    world = with_two_away(1000, 1000)
    downloader = world.downloader(soon(within_s=0.05, rest_s=0.05))
    assert isinstance(await world.fetch_first(downloader), TooFewShards)
    await asyncio.sleep(0.1)
    world.waits.update({A: Away(1), B: Away(1)})
    assert await world.fetch_first(downloader) == SEALED[FIRST]


async def test_who_came_is_a_reason_to_wait_for_the_next_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, slept = FixedSource(), 0.0
    awaited = AwaitedNodes(clock)

    async def sleep(seconds: float) -> None:
        nonlocal slept
        slept += seconds
        clock.advance(seconds)

    async def in_vain() -> float:
        nonlocal slept
        slept = 0.0
        since_s = clock.monotonic()
        while await awaited.wait(since_s):
            pass
        return slept

    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert READ_AGAIN_WITHIN_S <= await in_vain() < READ_AGAIN_WITHIN_S + READ_AGAIN_PAUSE_S
    assert await in_vain() == 0.0
    awaited.helped()
    assert await in_vain() >= READ_AGAIN_WITHIN_S
    clock.advance(READ_AGAIN_REST_S)
    assert await in_vain() >= READ_AGAIN_WITHIN_S


async def test_nobody_waits_for_longer_however_long_each_try_takes() -> None:
    """A node that gives its shards one by one, and then hangs, makes a round longer than the rest is."""
    clock, tries = FixedSource(), 0
    awaited = AwaitedNodes(clock, pause_s=0.0)
    since_s = clock.monotonic()
    while await awaited.wait(since_s):
        tries += 1
        clock.advance(READ_AGAIN_WITHIN_S + READ_AGAIN_REST_S + 1)
    assert tries == 1


async def test_a_read_that_had_to_wait_and_got_its_chunk_says_that_it_helped() -> None:
    world, awaited = with_two_away(2, 2), soon(within_s=60.0)
    assert await world.fetch_first(world.downloader(awaited)) == SEALED[FIRST]
    assert awaited._until_s == float("-inf")


@pytest.mark.parametrize("down", [[A, B], [A, B, C], [A, C]])
async def test_where_too_few_may_be_back_nobody_is_waited_for(down: list[NodeId]) -> None:
    """Those that the coordinator says are down are not; and B's shard alone would not be enough."""

    async def is_away() -> None:
        raise Unreachable("it is away")

    world = with_two_away(1, 1, down=down)
    if down == [A, C]:
        world.waits[C] = is_away
    told = await world.fetch_first(world.downloader(AwaitedNodes(pause_s=60.0)))
    assert isinstance(told, TooFewShards)
    assert set(told.details["nodes"]) >= {str(A), str(B)}


async def test_a_chunk_that_is_wrong_as_a_whole_is_not_waited_for() -> None:
    """Its shards are what the catalogue says, and make another chunk: nobody's return would change that."""
    world = with_two_away(0, 0)
    located = await world.locate([FIRST])
    ((reading,),) = read_batches([FIRST], located)
    reading.integrity = IntegrityFailure("another chunk")
    away: dict[NodeId, HoldfastError] = {C: Unreachable("it is away")}
    assert not world.downloader(soon())._may_be_had(reading, located.groups[0], away)
    reading.integrity = None
    reading.shards[0] = memoryview(b"one")
    assert world.downloader(soon())._may_be_had(reading, located.groups[0], away)


async def test_a_chunk_that_was_lied_about_and_one_that_waits_are_both_asked_for_again() -> None:
    """Of the first C gives a wrong shard; for the second one A and B are waited for."""
    world = with_two_away(0, 1, lies={(C, FIRST)}, lacks={(A, SECOND)})
    assert await world.fetch(world.downloader(soon()), FIRST, SECOND) == SEALED
    assert world.reported.count((2, C, "wrong")) == 1


async def test_a_node_that_is_back_and_has_nothing_is_not_asked_again() -> None:
    world = with_two_away(1, 1, lacks={(A, FIRST), (B, FIRST)})
    assert isinstance(await world.fetch_first(world.downloader(soon())), TooFewShards)
    assert world.asked == [A, B, C, A, B]


async def test_a_node_that_serves_elsewhere_by_then_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    world = with_two_away(0, 0)
    read, nodes = world.read, world.nodes

    async def served_elsewhere(node: MapNode, *rest: Any) -> Any:
        if node.id in (A, B) and not node.url.endswith("/moved"):
            raise Unreachable("nobody listens there")
        return await read(node, *rest)

    async def all_nodes() -> dict[NodeId, MapNode]:
        found = await nodes([A, B, C], 0)
        return {node: MapNode(node, known.key, f"{known.url}/moved", "") for node, known in found.items()}

    monkeypatch.setattr(world, "read", served_elsewhere)
    monkeypatch.setattr(world, "all_nodes", all_nodes)
    assert await world.fetch_first(world.downloader(soon())) == SEALED[FIRST]


@pytest.mark.parametrize("how", ["hangs", "refuses"])
async def test_where_the_coordinator_does_not_say_where_they_are_they_are_asked_where_they_were(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hangs() -> None:
        await asyncio.Event().wait()

    async def refuses() -> None:
        raise Unreachable("the coordinator does not answer")

    answers: dict[str, Callable[[], Awaitable[None]]] = {"hangs": hangs, "refuses": refuses}
    world = with_two_away(1, 1)
    monkeypatch.setattr(world, "all_nodes", answers[how])
    monkeypatch.setattr("holdfast.client.download.READ_AGAIN_PAUSE_S", 0.05)
    assert await world.fetch_first(world.downloader(soon())) == SEALED[FIRST]
