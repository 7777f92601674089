"""When to reread which shards, and how fast: pure functions of the state, the store and the time.

A pass walks over all shards in key order and begins once in a period. It plans to
be done well before the period is over, between a floor (so that small stores are
done soon) and a ceiling (so that clients do not feel it); restarts go on where it
was. Wall time is used, as it has to survive restarts: a clock set back or forward
begins a pass early, which harms nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from holdfast.node.limits import (
    SCRUB_ASKED_BYTES_PER_S,
    SCRUB_BYTES_PER_S_MAX,
    SCRUB_BYTES_PER_S_MIN,
    SCRUB_SLACK,
)
from holdfast.protocol.codec import Record, decode, encode
from holdfast.protocol.errors import HoldfastError

__all__ = ["NEVER", "Pass", "begin", "is_due", "open_state", "pause_s", "rate", "saved"]


class _Saved(Record):
    version: int
    running: bool
    asked: bool
    cursor: bytes
    started_ms: int
    ended_ms: int
    shards: int
    read_bytes: int
    found: int


@dataclass(frozen=True, slots=True)
class Pass:
    """How the scrub stands.

    Attributes:
        running: a pass is under way. asked: an operator wants it now, and fast.
        cursor: packed key of the last shard that was reread.
        started_ms: when the present or last pass began. ended_ms: when the last whole one ended; 0: never.
        shards, read_bytes, found: in the present or last pass.
    """

    running: bool = False
    asked: bool = False
    cursor: bytes = b""
    started_ms: int = 0
    ended_ms: int = 0
    shards: int = 0
    read_bytes: int = 0
    found: int = 0

    def advanced(self, cursor: bytes, shards: int, size: int, found: int) -> Pass:
        """After one more portion."""
        return replace(
            self,
            cursor=cursor,
            shards=self.shards + shards,
            read_bytes=self.read_bytes + size,
            found=self.found + found,
        )

    def ended(self, now_ms: int) -> Pass:
        """Every shard was reread."""
        return replace(self, running=False, asked=False, cursor=b"", ended_ms=now_ms)


NEVER: Final = Pass()


def saved(state: Pass) -> bytes:
    """As the store keeps it."""
    return encode(
        _Saved(
            1,
            state.running,
            state.asked,
            state.cursor,
            state.started_ms,
            state.ended_ms,
            state.shards,
            state.read_bytes,
            state.found,
        )
    )


def open_state(raw: bytes) -> Pass:
    """What was kept; from the beginning when it cannot be read."""
    try:
        kept = decode(raw, _Saved)
    except HoldfastError:
        return NEVER
    if kept.version != 1:
        return NEVER
    return Pass(
        kept.running,
        kept.asked,
        kept.cursor,
        kept.started_ms,
        kept.ended_ms,
        kept.shards,
        kept.read_bytes,
        kept.found,
    )


def is_due(state: Pass, now_ms: int, period_s: float) -> bool:
    """Is it time to begin a pass? A clock that was set back counts as a reason."""
    if state.running:
        return False
    return not state.started_ms <= now_ms < state.started_ms + 1000 * period_s


def begin(state: Pass, now_ms: int, asked: bool) -> Pass:
    """A new pass over everything, from the first key."""
    return Pass(running=True, asked=asked, started_ms=now_ms, ended_ms=state.ended_ms)


def rate(state: Pass, now_ms: int, period_s: float, used_bytes: int) -> float:
    """Bytes per second to reread at now, so that the pass ends in time."""
    if state.asked:
        return SCRUB_ASKED_BYTES_PER_S
    left_s = SCRUB_SLACK * period_s - max(0, now_ms - state.started_ms) / 1000
    left_bytes = max(0, used_bytes - state.read_bytes)
    wanted = left_bytes / left_s if left_s > 0 else SCRUB_BYTES_PER_S_MAX
    return min(max(wanted, SCRUB_BYTES_PER_S_MIN), SCRUB_BYTES_PER_S_MAX)


def pause_s(size: int, took_s: float, bytes_per_s: float) -> float:
    """How long to rest after a portion, so that the rate is not exceeded."""
    return max(0.0, size / bytes_per_s - took_s)
