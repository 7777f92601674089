"""Nodes that did not give their shards are waited for: a little while, all together, and not in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support.one_chunk import SEALED, A, B, C, OneChunk

from holdfast.client.awaited_nodes import AwaitedNodes
from holdfast.client.limits import READ_AGAIN_PAUSE_S, READ_AGAIN_REST_S, READ_AGAIN_WITHIN_S
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.errors import TooFewShards, Unreachable
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


def with_two_away(first: int, second: int, down: list[NodeId] | None = None) -> OneChunk:
    """One shard is there, and it takes two."""
    return OneChunk([[A], [B], [C]], set(), {A: Away(first), B: Away(second)}, down or [])


def soon(within_s: float = 30.0, rest_s: float = 60.0) -> AwaitedNodes:
    return AwaitedNodes(pause_s=0.01, within_s=within_s, rest_s=rest_s)


async def test_a_read_goes_on_when_nodes_are_back_a_moment_later() -> None:
    world = with_two_away(1, 2)
    assert await world.fetch(world.downloader(soon())) == SEALED
    assert world.asked == [A, B, C, A]


async def test_they_are_asked_again_and_again_and_who_has_given_its_shard_is_not() -> None:
    world = with_two_away(7, 9)
    assert await world.fetch(world.downloader(soon())) == SEALED
    assert (world.asked.count(A), world.asked.count(B), world.asked.count(C)) == (8, 7, 1)


async def test_who_stays_away_is_waited_for_once_and_not_for_every_chunk() -> None:
    world = with_two_away(1000, 1000)
    downloader = world.downloader(soon(within_s=0.1))
    assert isinstance(await world.fetch(downloader), TooFewShards)
    assert 1 < world.asked.count(A) < 20
    for _ in range(3):
        world.asked.clear()
        assert isinstance(await world.fetch(downloader), TooFewShards)
        assert sorted(world.asked) == [A, B, C]


async def test_after_a_rest_somebody_is_waited_for_again() -> None:
    world = with_two_away(1000, 1000)
    downloader = world.downloader(soon(within_s=0.05, rest_s=0.05))
    assert isinstance(await world.fetch(downloader), TooFewShards)
    await asyncio.sleep(0.1)
    world.waits.update({A: Away(1), B: Away(1)})
    assert await world.fetch(downloader) == SEALED


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
        while await awaited.wait():
            pass
        return slept

    monkeypatch.setattr(asyncio, "sleep", sleep)
    assert READ_AGAIN_WITHIN_S <= await in_vain() < READ_AGAIN_WITHIN_S + READ_AGAIN_PAUSE_S
    assert await in_vain() == 0.0
    awaited.helped()
    assert await in_vain() >= READ_AGAIN_WITHIN_S
    clock.advance(READ_AGAIN_REST_S)
    assert await in_vain() >= READ_AGAIN_WITHIN_S


async def test_a_read_that_had_to_wait_and_got_its_chunk_says_that_it_helped() -> None:
    world, awaited = with_two_away(2, 2), soon(within_s=60.0)
    assert await world.fetch(world.downloader(awaited)) == SEALED
    assert awaited._until_s == float("-inf")


@pytest.mark.parametrize("down", [[A, B], [A, B, C], [A, C]])
async def test_where_too_few_may_be_back_nobody_is_waited_for(down: list[NodeId]) -> None:
    """Those that the coordinator says are down are not; and B's shard alone would not be enough."""

    async def is_away() -> None:
        raise Unreachable("it is away")

    world = with_two_away(1, 1, down)
    if down == [A, C]:
        world.waits[C] = is_away
    told = await world.fetch(world.downloader(AwaitedNodes(pause_s=60.0)))
    assert isinstance(told, TooFewShards)
    assert set(told.details["nodes"]) >= {str(A), str(B)}


async def test_a_liar_found_out_while_nodes_are_away_loses_nothing() -> None:
    """C lies; A and B are there when they are asked again."""
    world = with_two_away(1, 0)
    world.liars.add(C)
    assert await world.fetch(world.downloader(soon())) == SEALED
    assert world.reported == [(2, C, "wrong")]


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
    assert await world.fetch(world.downloader(soon())) == SEALED


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
    assert await world.fetch(world.downloader(soon())) == SEALED
