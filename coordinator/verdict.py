"""One sentence on whether everything is safe, and the numbers behind it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from holdfast.protocol.messages.accounts import StripeCounts

__all__ = ["Verdict", "judge"]

Word = Literal["empty", "safe", "degraded", "at_risk", "unavailable"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``word`` for programs, ``sentence`` for people."""

    word: Word
    sentence: str
    stripes: StripeCounts


def _nodes(count: int) -> str:
    return "1 more node" if count == 1 else f"{count} more nodes"


def _stripes(count: int) -> str:
    return "1 stripe" if count == 1 else f"{count:,} stripes"


def judge(spare: Mapping[tuple[int, int], int]) -> Verdict:
    """The verdict over all stripes.

    Args:
        spare: (spare shards now, spare shards when whole) -> how many stripes; spare is the
            number of shards present on nodes that are up, minus k; negative: cannot be read now.
    """
    counts: Counter[int] = Counter()
    short: Counter[int] = Counter()
    for (now, whole), stripes in spare.items():
        counts[max(now, -1)] += stripes
        if now < whole:
            short[now] += stripes
    shown = {str(number): counts.get(number, 0) for number in range(-1, max([2, *counts]) + 1)}
    told = StripeCounts(total=sum(counts.values()), by_spare=shown)
    if not told.total:
        return Verdict("empty", "Nothing is stored yet.", told)
    worst = min(number for number, stripes in counts.items() if stripes)
    if worst < 0:
        return Verdict(
            "unavailable",
            f"UNAVAILABLE: {_stripes(counts[-1])} cannot be read until nodes return; nothing was discarded.",
            told,
        )
    if worst == 0:
        return Verdict(
            "at_risk", f"AT RISK: {_stripes(counts[0])} would be lost with any one more node.", told
        )
    if below := short.total():
        least = min(number for number, stripes in short.items() if stripes)
        who = _stripes(below)
        if below > short[least]:
            who += f" are not whole, and {short[least]:,}"
        return Verdict("degraded", f"Degraded: {who} can lose only {_nodes(least)}.", told)
    return Verdict("safe", f"All data safe: every stripe can lose {_nodes(worst)}.", told)
