"""Who witnesses an account's heads, who does so no more, and what is known of them without asking anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import structlog

from holdfast.protocol.accounts import Witness
from holdfast.protocol.ids import AccountId, NodeId
from holdfast.protocol.witnessing import (
    Willing,
    choose_witnesses,
    witness_count,
)

if TYPE_CHECKING:
    from holdfast.coordinator.service.desk import Desk

__all__ = ["Witnessing", "given_up", "proposed", "standing_nodes"]

_log = structlog.get_logger()


@dataclass(slots=True)
class Witnessing:
    """What is known of witnesses without asking anybody. All of it can be found out again.

    Attributes:
        turns: one head of an account at a time.
        dirty: accounts whose witnesses may lack something; last: the last one that had its turn.
        forked: (account, node): a witness that keeps a head which was never agreed, and can follow no more.
        tasks: given out, and not waited for any more.
        look_s: when every account is looked at next.
    """

    turns: WeakValueDictionary[AccountId, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    dirty: set[AccountId] = field(default_factory=set)
    last: bytes = b""
    forked: set[tuple[AccountId, NodeId]] = field(default_factory=set)
    tasks: set[asyncio.Task[object]] = field(default_factory=set)
    look_s: float = float("-inf")

    def following(self, most: int) -> list[AccountId]:
        """The next accounts whose witnesses are seen to, all of them in turn.

        Else those that cannot be completed now, since a witness of theirs is away, would keep others waiting.
        """
        later = sorted(account for account in self.dirty if bytes(account) > self.last)
        chosen = [*later, *sorted(self.dirty.difference(later))][:most]
        self.last = bytes(chosen[-1]) if chosen else b""
        return chosen

    def leave(self, task: asyncio.Task[object]) -> None:
        """Let it go on, without waiting for it."""
        self.tasks.add(task)
        task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[object]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("giving a head to a witness came to grief", exc_info=task.exception())

    async def end(self) -> None:
        """Nothing is given out any more."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def turn(self, account: AccountId) -> asyncio.Lock:
        """Held while a head of this account is taken, given out and settled."""
        return self.turns.setdefault(account, asyncio.Lock())


def given_up(desk: Desk, witnesses: Collection[Witness]) -> frozenset[NodeId]:
    """Those that do not count as witnesses any more: lost for good, known to lie, or let go.

    See protocol.witnessing. Nodes that were removed are not among the living any more.
    """
    return frozenset(each.node for each in witnesses) - standing_nodes(desk)


def standing_nodes(desk: Desk) -> frozenset[NodeId]:
    """All that count, where they are witnesses."""
    gone = ("lost", "distrusted", "removed")
    return frozenset(node for node, row in desk.live.nodes.items() if row.state not in gone)


def proposed(desk: Desk, account: AccountId, before: Collection[Witness]) -> list[Witness]:
    """Who shall witness the account's next head."""
    live, usual = desk.live, desk.live.usual_profile()
    nodes = [
        Willing(node, row.key, row.zone, live.state(node) == "up")
        for node, row in live.nodes.items()
        if row.state == "joined" and (account, node) not in desk.witnessing.forked
    ]
    count = witness_count(usual.m if usual is not None else 1)
    return choose_witnesses(account, nodes, {each.node for each in before}, count)
