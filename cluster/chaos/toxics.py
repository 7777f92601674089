"""What a proxy does to the bytes of a connection: rules in toxiproxy's words. Pure.

A rule says of which connections it holds, which way, and what happens. Several may hold at once;
:func:`combined` gives what they come to together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from holdfast.cluster.chaos.faults import Direction

__all__ = ["CALM", "Effect", "Rule", "combined"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What happens to one direction of one connection.

    Attributes:
        stalled: nothing comes through; ``close_after_s``: and then the connection is closed.
        refused: connections are refused and cut.
        reset_after_s, reset_after_bytes: the connection is reset.
        limit_bytes: the connection is closed after so many bytes.
        portion_bytes, portion_variation, portion_pause_s: bytes come in small portions.
        flip_every_bytes: one bit among so many bytes arrives as another.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float | None = None
    close_delay_s: float = 0.0
    stalled: bool = False
    close_after_s: float | None = None
    refused: bool = False
    reset_after_s: float | None = None
    reset_after_bytes: int | None = None
    limit_bytes: int | None = None
    portion_bytes: int | None = None
    portion_variation: int = 0
    portion_pause_s: float = 0.0
    flip_every_bytes: int | None = None


CALM = Effect()
"""Nothing happens."""


@dataclass(frozen=True, slots=True)
class Rule:
    """An effect on all bytes that go from ``senders`` to ``receivers`` (member names).

    Attributes:
        number: names the rule, to take it back.
        way: relative to ``receivers``, for "to"; a rule for "both" holds the other way round, too.
    """

    number: int
    senders: frozenset[str]
    receivers: frozenset[str]
    effect: Effect
    way: Direction = "both"

    def holds(self, sender: str, receiver: str) -> bool:
        """Does it hold for bytes from ``sender`` to ``receiver``?"""
        forth = sender in self.senders and receiver in self.receivers
        back = sender in self.receivers and receiver in self.senders
        if self.way == "to":
            return forth
        if self.way == "from":
            return back
        return forth or back


def combined(rules: Collection[Rule], sender: str, receiver: str) -> Effect:
    """What all rules together do to bytes from one member to another."""
    effects = [rule.effect for rule in rules if rule.holds(sender, receiver)]
    if not effects:
        return CALM
    if len(effects) == 1:
        return effects[0]
    return Effect(
        latency_s=sum(effect.latency_s for effect in effects),
        jitter_s=sum(effect.jitter_s for effect in effects),
        bytes_per_s=_least(effect.bytes_per_s for effect in effects),
        close_delay_s=max(effect.close_delay_s for effect in effects),
        stalled=any(effect.stalled for effect in effects),
        close_after_s=_least(effect.close_after_s for effect in effects),
        refused=any(effect.refused for effect in effects),
        reset_after_s=_least(effect.reset_after_s for effect in effects),
        reset_after_bytes=_fewest(effect.reset_after_bytes for effect in effects),
        limit_bytes=_fewest(effect.limit_bytes for effect in effects),
        portion_bytes=_fewest(effect.portion_bytes for effect in effects),
        portion_variation=max(effect.portion_variation for effect in effects),
        portion_pause_s=max(effect.portion_pause_s for effect in effects),
        flip_every_bytes=_fewest(effect.flip_every_bytes for effect in effects),
    )


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _fewest(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)
