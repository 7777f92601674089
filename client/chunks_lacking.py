"""Why a chunk cannot be had now, and whom to bring back."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from holdfast.protocol.errors import HoldfastError, NotFound, TooFewShards
from holdfast.protocol.ids import ChunkId, NodeId
from holdfast.protocol.messages.cluster import MapNode
from holdfast.protocol.messages.uploads import LocatedGroup
from holdfast.protocol.stripe_reading import Reading

__all__ = ["not_stored", "too_few"]


def too_few(
    reading: Reading,
    group: LocatedGroup,
    nodes: Mapping[NodeId, MapNode],
    unreachable: Collection[NodeId],
) -> HoldfastError:
    """Fewer than k of its shards are within reach, or none of them prove to be right.

    Args:
        unreachable: nodes that did not give theirs.
    """
    if reading.integrity is not None:
        return reading.integrity
    absent = [
        node for holders in group.holders for node in holders if node in unreachable or node not in nodes
    ]
    named = ", ".join(nodes[node].url if node in nodes else node.short for node in absent)
    return TooFewShards(
        f"chunk {reading.chunk.short} has {reading.good_count} good shards within reach and needs "
        f"{reading.profile.k}",
        why=f"these nodes do not answer: {named}" if absent else "its other shards are gone or damaged",
        chunk=reading.chunk.hex(),
        nodes=[str(node) for node in absent],
        urls=[nodes[node].url for node in absent if node in nodes],
    )


def not_stored(chunk: ChunkId) -> NotFound:
    """No row names it."""
    return NotFound(
        f"chunk {chunk.short} is not stored in this cluster",
        do="Run 'holdfast backup' again: it sends what is not there.",
        chunk=chunk.hex(),
    )
