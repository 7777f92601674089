"""How repair is getting on, for whoever asks."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Repairs", "Slot"]

Slot = tuple[int, int]
"""(group, slot)."""


@dataclass(slots=True)
class Repairs:
    """What repair knows between turns. All of it can be made again.

    Attributes:
        rate: bytes of sealed chunks made whole per second of work, smoothed; 0 before the first.
        waiting: (group, slot, why) of slots that no node can take.
        rest: slots to leave alone until then (steady seconds), because nothing could be done.
    """

    rate: float = 0.0
    queued_shards: int = 0
    queued_bytes: int = 0
    running: int = 0
    done_shards: int = 0
    done_bytes: int = 0
    waiting: tuple[tuple[int, int, str], ...] = ()
    rest: dict[Slot, float] = field(default_factory=dict)

    def note(self, sealed_bytes: int, seconds: float) -> None:
        """A batch was done."""
        if sealed_bytes and seconds > 0:
            now = sealed_bytes / seconds
            self.rate = now if not self.rate else 0.8 * self.rate + 0.2 * now

    @property
    def eta_s(self) -> int | None:
        """Seconds until the queue is empty at the present rate; None when that is not known."""
        if not self.queued_bytes:
            return 0
        return int(self.queued_bytes / self.rate) + 1 if self.rate else None
