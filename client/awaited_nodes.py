"""Which nodes a read waits for when too few of a chunk's shards are within reach.

A node that fell silent a moment ago may be back in the next: its connections were reset, it is being
started again, the clock it judges requests by was set. One that the coordinator counts as down is not
waited for, nor one that was waited for in vain, until it has answered again: a restore from a cluster
that lost too much says so at once, and waits once for all of it, not once for each chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from holdfast.client.limits import READ_AGAIN_AFTER_S
from holdfast.protocol.ids import NodeId

__all__ = ["AwaitedNodes"]


class AwaitedNodes:
    """What is known of nodes that do not answer.

    Args:
        again_after_s: pauses before they are asked again, one after the other.
    """

    def __init__(self, again_after_s: Sequence[float] = READ_AGAIN_AFTER_S) -> None:
        self._pauses = again_after_s
        self._down: frozenset[NodeId] = frozenset()
        self._in_vain: set[NodeId] = set()

    def told_down(self, nodes: Collection[NodeId]) -> None:
        """These are down, as the coordinator says now."""
        self._down = frozenset(nodes)

    def answered(self, node: NodeId) -> None:
        """It is there (again)."""
        self._in_vain.discard(node)

    async def wait(self, silent: Collection[NodeId], before: int) -> bool:
        """Wait before these are asked again, where one of them may be back; False: nobody is waited for.

        Args:
            silent: those whose shards are lacking. before: how often they were waited for already.
        """
        if self._in_vain.union(self._down).issuperset(silent):
            return False
        if before >= len(self._pauses):
            self._in_vain.update(silent)
            return False
        await asyncio.sleep(self._pauses[before])
        return True
