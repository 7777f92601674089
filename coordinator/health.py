"""Who is up, by the age of the last heartbeat on a clock that never jumps. Pure.

Absence clocks start afresh when the coordinator starts: a coordinator that was
away for a week must not declare everybody lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from holdfast.protocol.errors import BadRequest

__all__ = ["HealthSettings", "NodeState", "state_of"]

NodeState = Literal["up", "suspect", "down", "stopping"]


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """Ages of the last heartbeat in seconds at which a node counts as suspect, down, lost."""

    heartbeat_ms: int = 2000
    suspect_after_s: float = 10.0
    down_after_s: float = 30.0
    lost_after_s: float = 24 * 3600.0

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_ms / 1000 < self.suspect_after_s <= self.down_after_s < self.lost_after_s:
            raise BadRequest(
                "the times by which nodes are judged do not fit together",
                why="it must hold that heartbeat < suspect <= down < lost",
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
