"""When a read lags, and whether another source may be asked meanwhile. Pure: times come in as arguments.

A node that is slow, not dead, would hold up every stripe it has a shard of. Asking one more
source for what lags costs little if it is done seldom: Dean and Barroso, "The Tail at
Scale", CACM 56(2), 2013. Lag is 1.5 times what such a read typically takes, and never less than
50 ms; at most a tenth of the requests are hedges.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from holdfast.client.limits import HEDGE_AHEAD_MAX, HEDGE_LAG_S_MIN, HEDGE_PART, LATENCIES_REMEMBERED

__all__ = ["Hedging"]

_LAG_FACTOR: Final = 1.5
_SAMPLES_MIN: Final = 4


class Hedging:
    """What one client has learned of how long reads take, and how many hedges it may make.

    Attributes:
        requests, hedges: made so far.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque(maxlen=LATENCIES_REMEMBERED)
        self.requests = 0
        self.hedges = 0

    def asked(self) -> None:
        """A request was made."""
        self.requests += 1

    def answered(self, seconds: float, answer_bytes: int) -> None:
        """A request was answered."""
        self._recent.append((seconds, answer_bytes))

    def lag_s(self, answer_bytes: int, otherwise_s: float) -> float:
        """After how many seconds a read of about so many bytes lags.

        Larger reads than usual may take longer in proportion; smaller ones are not expected sooner.

        Args:
            otherwise_s: while too few reads were seen to know.
        """
        if len(self._recent) < _SAMPLES_MIN:
            return otherwise_s
        typical_s = _middle(seconds for seconds, _ in self._recent)
        typical_bytes = _middle(size for _, size in self._recent) or 1
        larger = max(1.0, answer_bytes / typical_bytes)
        return min(otherwise_s, max(HEDGE_LAG_S_MIN, _LAG_FACTOR * typical_s * larger))

    def may_hedge(self) -> bool:
        """Is there room for one more? HEDGE_AHEAD_MAX may be made before there were requests enough."""
        return self.hedges < HEDGE_AHEAD_MAX + self.requests * HEDGE_PART

    def hedged(self) -> None:
        """A request was made because another one lags."""
        self.hedges += 1


def _middle(values: Iterable[float]) -> float:
    """The median: of an even number the upper one of the two in the middle. (The library's statistics
    would be loaded for this alone, with fractions and random numbers.)"""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
