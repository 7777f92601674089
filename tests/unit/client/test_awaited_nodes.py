"""Nodes that do not answer are waited for where a chunk needs them: a little while, once, and not in vain."""

from __future__ import annotations

import pytest
from support.one_chunk import SEALED, A, B, C, OneChunk

from holdfast.client.awaited_nodes import AwaitedNodes
from holdfast.protocol.errors import TooFewShards, Unreachable
from holdfast.protocol.ids import NodeId

PAUSES = (0.01, 0.01)


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


async def test_a_read_goes_on_when_nodes_are_back_a_moment_later() -> None:
    world = with_two_away(1, 2)
    assert await world.fetch(world.downloader(AwaitedNodes(PAUSES))) == SEALED
    assert world.asked == [A, B, C, A]


async def test_who_has_given_its_shard_is_not_asked_for_it_again() -> None:
    world = with_two_away(2, 2)
    assert await world.fetch(world.downloader(AwaitedNodes(PAUSES))) == SEALED
    assert world.asked.count(C) == 1


async def test_who_stays_away_is_waited_for_once_and_not_for_every_chunk() -> None:
    world = with_two_away(1000, 1000)
    downloader = world.downloader(AwaitedNodes(PAUSES))
    assert isinstance(await world.fetch(downloader), TooFewShards)
    assert world.asked.count(A) == 1 + len(PAUSES)
    world.asked.clear()
    assert isinstance(await world.fetch(downloader), TooFewShards)
    assert sorted(world.asked) == [A, B, C]


async def test_who_was_there_again_is_waited_for_again() -> None:
    world = with_two_away(3, 3)
    downloader = world.downloader(AwaitedNodes(PAUSES))
    assert isinstance(await world.fetch(downloader), TooFewShards)
    assert await world.fetch(downloader) == SEALED
    world.waits.update({A: Away(1), B: Away(1)})
    assert await world.fetch(downloader) == SEALED


@pytest.mark.parametrize("down", [[A, B], [A, B, C]])
async def test_who_is_down_as_the_coordinator_says_is_not_waited_for(down: list[NodeId]) -> None:
    world = with_two_away(1, 1, down)
    told = await world.fetch(world.downloader(AwaitedNodes((60.0,))))
    assert isinstance(told, TooFewShards)
    assert set(told.details["nodes"]) == {str(A), str(B)}
