"""Counting stripes by spare shards, for whoever asks how safe things are."""

from __future__ import annotations

from collections import Counter

from holdfast.coordinator.catalogue.chunks import group_counts
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.verdict import Verdict, judge

__all__ = ["account_verdict"]


async def account_verdict(desk: Desk, number: int | None) -> Verdict:
    """The verdict over one account's stripes (by its number) or over all (None)."""
    by_group, gaps = await desk.catalogue.read(lambda c: group_counts(c, number))
    away = {node for node in desk.live.nodes if not desk.live.is_serving(node)}
    spare: Counter[tuple[int, int]] = Counter()
    with_gaps: Counter[int] = Counter()
    for (group_id, slots), count in gaps.items():
        group = desk.live.groups[group_id]
        present = sum(slot not in slots and node not in away for slot, node in enumerate(group.members))
        spare[(present - group.profile.k, group.profile.m)] += count
        with_gaps[group_id] += count
    for group_id, count in by_group.items():
        group = desk.live.groups[group_id]
        present = sum(node not in away for node in group.members)
        whole = count - with_gaps[group_id]
        if whole:
            spare[(present - group.profile.k, group.profile.m)] += whole
    return judge(spare)
