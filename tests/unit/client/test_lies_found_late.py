"""Shards that were taken unproven and turn out to be wrong: nothing else is lost with them.

One slow or late node beside one that lies is no reason to give a chunk up whose shards are there.
"""

from __future__ import annotations

import asyncio

import pytest
from support.few_chunks import FIRST, SEALED, A, B, C, D, FewChunks

from holdfast.protocol.errors import Unreachable
from holdfast.protocol.ids import NodeId


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.client.download._LAG_S", 0.05)


async def test_a_slow_node_that_was_given_up_for_a_liar_is_asked_again() -> None:
    slow = FewChunks([[A], [B], [C]], {A: lambda: asyncio.sleep(0.5)}, lies={(C, FIRST)})
    assert await slow.fetch_first() == SEALED[FIRST]
    assert slow.asked == [A, B, C, A] and slow.reported == [(2, C, "wrong")]


@pytest.mark.parametrize("liar", [A, D])
async def test_of_two_who_hold_a_slot_the_one_that_lies_spoils_nothing(liar: NodeId) -> None:
    """Slot 0 is being moved from A to D, and A answers after D; C is away."""

    async def is_away() -> None:
        raise Unreachable("it is away")

    both = FewChunks([[A, D], [B], [C]], {C: is_away}, lies={(liar, FIRST)})
    both.waits[A] = both.answered[D].wait
    assert await both.fetch_first() == SEALED[FIRST]
