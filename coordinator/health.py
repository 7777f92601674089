"""Who is up, by the age of the last heartbeat on a clock that never jumps. Pure.

Absence clocks start afresh when the coordinator starts: a coordinator that was
away for a week must not declare everybody lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from holdfast.protocol.errors import BadRequest
from holdfast.protocol.ids import NodeId

__all__ = ["HealthSettings", "NodeState", "Presence", "newly_lost", "state_of"]

NodeState = Literal["up", "suspect", "down", "stopping"]


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """Ages of the last heartbeat in seconds at which a node counts as suspect, down, lost.

    ``zone_lost_after_s``: when a whole zone is silent, its nodes count as lost only then.
    """

    heartbeat_ms: int = 2000
    suspect_after_s: float = 10.0
    down_after_s: float = 30.0
    lost_after_s: float = 24 * 3600.0
    zone_lost_after_s: float = 7 * 24 * 3600.0

    def __post_init__(self) -> None:
        ages = (self.suspect_after_s, self.down_after_s, self.lost_after_s, self.zone_lost_after_s)
        if (
            not 0 < self.heartbeat_ms / 1000 < ages[0]
            or list(ages) != sorted(ages)
            or self.down_after_s == self.lost_after_s
        ):
            raise BadRequest(
                "the times by which nodes are judged do not fit together",
                why="it must hold that heartbeat < suspect <= down < lost <= zone lost",
            )


def state_of(
    *, last_seen_s: float | None, started_s: float, now_s: float, told: str, settings: HealthSettings
) -> NodeState:
    """A node's state.

    Args:
        last_seen_s: monotonic time of its last heartbeat, None if there was none since the start.
        started_s: when the coordinator started.
        told: what the node said of itself last ("stopping": it goes on purpose, so it is down at once).
    """
    if told == "stopping":
        return "stopping"
    age = now_s - (last_seen_s if last_seen_s is not None else started_s)
    if age >= settings.down_after_s:
        return "down"
    if last_seen_s is None or age >= settings.suspect_after_s:
        return "suspect"
    return "up"


@dataclass(frozen=True, slots=True)
class Presence:
    """One node as far as absence is concerned; ``absent_s`` since its last heartbeat."""

    zone: str
    is_down: bool
    absent_s: float


def newly_lost(
    nodes: Mapping[NodeId, Presence], parity: int, settings: HealthSettings
) -> tuple[list[NodeId], str]:
    """Nodes whose absence has become so long that their shards are to be rebuilt elsewhere.

    While more than max(m, a tenth of the nodes) are down nobody becomes lost by itself: that looks
    like a network or a power failure, and rebuilding would make it worse. A zone all of whose nodes
    are silent (where there is more than one zone) waits for its own, longer time.

    Args:
        nodes: all nodes but those that are lost already.
        parity: m of the usual profile.

    Returns:
        Who is lost now, and why others who would be are not ("" when there are none).
    """
    overdue = [
        node for node, seen in nodes.items() if seen.is_down and seen.absent_s >= settings.lost_after_s
    ]
    down = sum(seen.is_down for seen in nodes.values())
    most = max(parity, len(nodes) // 10)
    if overdue and down > most:
        return [], f"{down} nodes are down, more than {most}: none is given up by itself"
    zones = Counter(seen.zone for seen in nodes.values())
    silent = Counter(seen.zone for seen in nodes.values() if seen.is_down)
    held_back = {
        zone for zone, count in zones.items() if len(zones) > 1 and count > 1 and silent[zone] == count
    }
    lost = [
        node
        for node in overdue
        if nodes[node].zone not in held_back or nodes[node].absent_s >= settings.zone_lost_after_s
    ]
    waiting = sorted({nodes[node].zone for node in overdue if node not in lost})
    return lost, f"zone {', '.join(waiting)} is silent as a whole" if waiting else ""
