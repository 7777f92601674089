"""One sentence on whether everything is safe, and the numbers behind it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from holdfast.protocol.messages.accounts import StripeCounts

__all__ = ["RepairBrief", "Standing", "Verdict", "Word", "judge", "minutes", "not_proven"]

Word = Literal["safe", "degraded", "at_risk", "unavailable"]


class Standing(NamedTuple):
    """How safe one stripe is, in spare shards: those within reach, minus k; negative: cannot be read now.

    Attributes:
        now: as things are.
        whole: when every slot is there.
        after_zone: after losing the zone that hurts most.
    """

    now: int
    whole: int
    after_zone: int = 0


@dataclass(frozen=True, slots=True)
class RepairBrief:
    """What repair does about it.

    Attributes:
        queued: shards to bring back whose node is there to take them.
        eta_s: until all of them are back; None when not known.
        waiting: slots that no node can take.
        lost_nodes: nodes that were given up.
    """

    queued: int = 0
    eta_s: int | None = 0
    waiting: int = 0
    lost_nodes: int = 0


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


def minutes(seconds: int) -> str:
    """A length of time as people say it: "20 s", "3 min", "2 h 10 min"."""
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{-(-seconds // 60)} min"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def _by_spare(counts: Counter[int]) -> dict[str, int]:
    return {str(number): counts.get(number, 0) for number in range(-1, max([2, *counts]) + 1)}


def judge(stripes: Mapping[Standing, int], *, zones: int = 1, repair: RepairBrief = RepairBrief()) -> Verdict:
    """The verdict over all stripes.

    Args:
        stripes: how many stripes stand so.
        zones: how many zones the cluster has.
        repair: what is being done about it.
    """
    counts: Counter[int] = Counter()
    after_zone: Counter[int] = Counter()
    short: Counter[int] = Counter()
    for standing, count in stripes.items():
        counts[max(standing.now, -1)] += count
        after_zone[max(standing.after_zone, -1)] += count
        if standing.now < standing.whole:
            short[standing.now] += count
    told = StripeCounts(
        total=counts.total(), by_spare=_by_spare(counts), after_worst_zone=_by_spare(after_zone)
    )
    if not told.total:
        return Verdict("safe", "Nothing is stored yet.", told)
    word, sentence = _judged(counts, short)
    if word == "safe" and zones > 1 and not after_zone[-1]:
        sentence += ", or any one zone"
    if word == "unavailable" and repair.lost_nodes:
        sentence = (
            f"LOST: {_stripes(counts[-1])} cannot be read unless lost nodes return; nothing was discarded"
        )
    return Verdict(word, sentence + _doing(word, repair) + ".", told)


def not_proven(verdict: Verdict) -> Verdict:
    """The same, by a catalogue that may be older than what lies on the nodes: never "safe"."""
    word: Word = "degraded" if verdict.word == "safe" else verdict.word
    sentence = (
        "Not proven yet: the catalogue may be older than the nodes, and is being compared with them. "
        f"By what it says: {verdict.sentence}"
    )
    return Verdict(word, sentence, verdict.stripes)


def _judged(counts: Counter[int], short: Counter[int]) -> tuple[Word, str]:
    worst = min(number for number, stripes in counts.items() if stripes)
    if worst < 0:
        return (
            "unavailable",
            f"UNAVAILABLE: {_stripes(counts[-1])} cannot be read until nodes return; nothing was discarded",
        )
    if worst == 0:
        return "at_risk", f"AT RISK: {_stripes(counts[0])} would be lost with any one more node"
    if below := short.total():
        least = min(number for number, stripes in short.items() if stripes)
        who = _stripes(below)
        if below > short[least]:
            who += f" are not whole, and {short[least]:,}"
        return "degraded", f"Degraded: {who} can lose only {_nodes(least)}"
    return "safe", f"All data safe: every stripe can lose {_nodes(worst)}"


def _doing(word: Word, repair: RepairBrief) -> str:
    if repair.queued:
        left = f", {minutes(repair.eta_s)} left" if repair.eta_s is not None else ""
        return f"; {'moving shards' if word == 'safe' else 'repairing'}{left}"
    if repair.waiting:
        slots = "1 slot has" if repair.waiting == 1 else f"{repair.waiting:,} slots have"
        return f"; {slots} no node to go to, add one"
    return ""
