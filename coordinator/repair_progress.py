"""How repair is getting on, for whoever asks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from holdfast.coordinator.verdict import Standing

__all__ = ["Repairs", "Slot"]

Slot = tuple[int, int]
"""(group, slot)."""


@dataclass(slots=True)
class Repairs:
    """What repair knows between turns. All of it can be made again.

    Attributes:
        rate: bytes of sealed chunks made whole per second of work, on all nodes together, smoothed;
            0 before the first.
        queued_shards, queued_bytes: to bring back.
        able_shards, able_bytes: of them, those whose node is there to take them, and that have sources.
        waiting: (group, slot, why) of slots that no node can take.
        spare: how safe the least safe stripe is that a slot's work is for; of the last turn.
        rest: slots to leave alone until then (steady seconds), because nothing could be done.
        left: groups whose stripes were encoded anew for others, and whose nodes still have the old shards.
        reencoded_to: how far fallback groups were gone through, while that lasts.
        noted_at_s: when the last batch was done, or the present work began.
        is_due: there is new work, and the next turn need not wait for its time.
    """

    rate: float = 0.0
    queued_shards: int = 0
    queued_bytes: int = 0
    able_shards: int = 0
    able_bytes: int = 0
    running: int = 0
    done_shards: int = 0
    done_bytes: int = 0
    waiting: tuple[tuple[int, int, str], ...] = ()
    spare: dict[Slot, Standing] = field(default_factory=dict)
    rest: dict[Slot, float] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    reencoded_to: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    noted_at_s: float = 0.0
    is_due: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, now_s: float) -> None:
        """Work begins: the time before it was none."""
        self.noted_at_s = now_s

    def note(self, shards: int, sealed_bytes: int, now_s: float) -> None:
        """A batch was done."""
        self.done_shards += shards
        self.done_bytes += sealed_bytes
        self.queued_shards = max(0, self.queued_shards - shards)
        self.queued_bytes = max(0, self.queued_bytes - sealed_bytes)
        self.able_shards = max(0, self.able_shards - shards)
        self.able_bytes = max(0, self.able_bytes - sealed_bytes)
        seconds, self.noted_at_s = now_s - self.noted_at_s, now_s
        if sealed_bytes and seconds > 0:
            now = sealed_bytes / seconds
            self.rate = now if not self.rate else 0.8 * self.rate + 0.2 * now

    @property
    def eta_s(self) -> int | None:
        """Seconds until what can be done is done at the present rate; None when that is not known."""
        if not self.able_bytes:
            return None if self.queued_bytes else 0
        return int(self.able_bytes / self.rate) + 1 if self.rate else None
