"""How fast repair may go: bounds for a node and for the cluster, less strict the more is at stake. Pure.

A bound is a number of sealed bytes a second (what a rebuild pulls). Stripes with one spare shard are brought
back at the bound; those with s spare shards at an s-th of it, since clients come before what is not urgent;
those with none, or fewer than k shards within reach, at any speed. What was begun is counted against the
bounds either way (the generic cell rate algorithm, ITU-T I.371, annex A, with one batch of tolerance).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from holdfast.coordinator.limits import REPAIR_BYTES_PER_S_DEFAULT, REPAIR_NODE_BYTES_PER_S_DEFAULT
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.ids import NodeId

__all__ = ["RepairSettings", "Throttle"]


@dataclass(frozen=True, slots=True)
class RepairSettings:
    """Sealed bytes a second; 0: no bound.

    Attributes:
        bytes_per_s: the whole cluster together.
        node_bytes_per_s: pulled by one node.
    """

    bytes_per_s: int = REPAIR_BYTES_PER_S_DEFAULT
    node_bytes_per_s: int = REPAIR_NODE_BYTES_PER_S_DEFAULT

    def __post_init__(self) -> None:
        if self.bytes_per_s < 0 or self.node_bytes_per_s < 0:
            raise BadRequest("repair goes at 0 (no bound) or more bytes a second")

    def expected(self, pullers: int, spare: int) -> int:
        """The speed that the bounds allow so many nodes together; 0: any."""
        if spare <= 0:
            return 0
        bounds = [self.bytes_per_s, self.node_bytes_per_s * pullers]
        return min((bound for bound in bounds if bound), default=0) // spare


@dataclass(slots=True)
class Throttle:
    """When the next batch may begin. Times are steady seconds."""

    settings: RepairSettings
    _free_at: dict[NodeId | None, float] = field(default_factory=dict)

    def reserve(
        self, pullers: Collection[NodeId], sealed_bytes: int, spare: int, now: float, most_s: float
    ) -> float | None:
        """Seconds until these nodes may pull so much; None (and nothing counted) when it is more than most_s.

        Args:
            spare: spare shards of the stripes it is for.
        """
        buckets: dict[NodeId | None, int] = dict.fromkeys(pullers, self.settings.node_bytes_per_s)
        buckets[None] = self.settings.bytes_per_s
        bounded = {bucket: bound for bucket, bound in buckets.items() if bound}
        start = max([now, *(self._free_at.get(bucket, now) for bucket in bounded)]) if spare > 0 else now
        if start - now > most_s:
            return None
        for bucket, bound in bounded.items():
            share = sealed_bytes * (len(pullers) if bucket is None else 1)
            slower = max(1, spare)
            self._free_at[bucket] = max(start, self._free_at.get(bucket, now)) + share * slower / bound
        return start - now
