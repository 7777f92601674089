"""Nodes that may be back in a moment: how long a read waits for them when it lacks shards.

A node that fell silent just now may answer in the next moment: its connections were reset, it was killed and
is being started again, the clock it judges requests by was set. One that the coordinator counts as down is
not waited for. All reads of a client wait together, as long as it helps: where nobody has come back within
the time, none is waited for again for a while, or a restore from a cluster that lost too much would wait for
each of its chunks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from holdfast.client.limits import READ_AGAIN_PAUSE_S, READ_AGAIN_REST_S, READ_AGAIN_WITHIN_S
from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.ids import NodeId

__all__ = ["AwaitedNodes"]


class AwaitedNodes:
    """What is known of nodes that do not give their shards, and since when they are waited for.

    Args:
        pause_s: before they are asked again. within_s: how long they are waited for.
        rest_s: how long nobody is, after that was in vain.
    """

    def __init__(
        self,
        source: Source = SYSTEM,
        *,
        pause_s: float = READ_AGAIN_PAUSE_S,
        within_s: float = READ_AGAIN_WITHIN_S,
        rest_s: float = READ_AGAIN_REST_S,
    ) -> None:
        self._source = source
        self._pause_s, self._within_s, self._rest_s = pause_s, within_s, rest_s
        self._down: frozenset[NodeId] = frozenset()
        self._until_s = float("-inf")

    def told_down(self, nodes: Collection[NodeId]) -> None:
        """These are down, as the coordinator says now."""
        self._down = frozenset(nodes)

    def may_be_back(self, node: NodeId) -> bool:
        """Is it worth asking again, that did not answer?"""
        return node not in self._down

    async def wait(self, since_s: float) -> bool:
        """Wait a moment before they are asked again; False: that has been in vain for long enough.

        Args:
            since_s: when whoever asks had to wait first, on the steady clock: nobody waits for longer.
        """
        now_s = self._source.monotonic()
        if now_s >= self._until_s + self._rest_s:
            self._until_s = now_s + self._within_s
        if now_s >= min(self._until_s, since_s + self._within_s):
            return False
        await asyncio.sleep(self._pause_s)
        return True

    def helped(self) -> None:
        """Somebody was waited for, and came: the next one is waited for as long."""
        self._until_s = float("-inf")
