"""Counting stripes by spare shards, for whoever asks how safe things are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from holdfast.coordinator.catalogue.erasures import is_unreconciled
from holdfast.coordinator.catalogue.moves import Move
from holdfast.coordinator.catalogue.safety import Gaps, counts_rows, group_counts
from holdfast.coordinator.limits import VERDICT_TRIES_MAX
from holdfast.coordinator.live import Live
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.verdict import RepairBrief, Standing, Verdict, judge, not_proven
from holdfast.protocol.ids import NodeId

__all__ = ["account_verdict", "bare_moves", "bare_slots", "group_standing", "halved_moves"]


def bare_moves(live: Live) -> list[Move]:
    """Moves whose former holder cannot be asked: what they have not filled is not there."""
    return [move for move in live.moves.values() if move.old is None or not live.counts(move.old)]


def halved_moves(live: Live) -> list[Move]:
    """Moves whose new holder cannot be asked while the former one serves: what was written since, or filled,
    is not there. (Of what was filled the former holder may have a copy, which nobody promises.)
    """
    return [
        move
        for move in live.moves.values()
        if move.old is not None
        and live.counts(move.old)
        and not live.counts(live.groups[move.group].members[move.slot])
    ]


def bare_slots(live: Live) -> dict[int, set[int]]:
    """Slots by group whose shards may all be gone: their holder is lost, lying, or leaving and away,
    or they are still being filled and the former holder is gone.
    """
    found: dict[int, set[int]] = {}
    for move in bare_moves(live):
        found.setdefault(move.group, set()).add(move.slot)
    lost = {
        node
        for node, row in live.nodes.items()
        if row.state in ("lost", "distrusted") or (row.state != "joined" and not live.is_serving(node))
    }
    if lost:
        for group in live.groups.values():
            for slot, node in enumerate(group.members):
                if node in lost:
                    found.setdefault(group.id, set()).add(slot)
    return found


async def account_verdict(desk: Desk, number: int | None) -> Verdict:
    """The verdict over one account's stripes (by its number) or over all (None)."""
    live = desk.live
    for _ in range(VERDICT_TRIES_MAX):
        epoch = live.epoch
        (by_group, gaps), is_old = await _counted(desk, number, bare_moves(live), halved_moves(live))
        # Of a slot given away meanwhile the new holder is there, and what it lacks was not counted.
        if live.epoch == epoch:
            break
    away = {node for node in live.nodes if not live.counts(node)}
    stripes: Counter[Standing] = Counter()
    with_gaps: Counter[int] = Counter()
    for (group_id, slots), count in gaps.items():
        stripes[group_standing(live, group_id, slots, away)] += count
        with_gaps[group_id] += count
    for group_id, count in by_group.items():
        if whole := count - with_gaps[group_id]:
            stripes[group_standing(live, group_id, frozenset(), away)] += whole
    repairs = desk.repairs
    verdict = judge(
        stripes,
        zones=len({row.zone for row in live.nodes.values()}),
        repair=RepairBrief(
            repairs.able_shards,
            repairs.eta_s,
            len(repairs.waiting),
            sum(row.state == "lost" for row in live.nodes.values()),
        ),
    )
    return not_proven(verdict) if is_old else verdict


async def _counted(
    desk: Desk, number: int | None, bare: Sequence[Move], halved: Sequence[Move]
) -> tuple[tuple[dict[int, int], Gaps], bool]:
    """What :func:`group_counts` gives, and is the catalogue old? In turn, where that takes long."""

    async def count() -> tuple[tuple[dict[int, int], Gaps], bool]:
        return await desk.catalogue.read(
            lambda c: (group_counts(c, number, bare, halved), is_unreconciled(c))
        )

    moves = [*bare, *halved]
    if not moves or not await desk.catalogue.read(lambda c: counts_rows(c, number, moves)):
        return await count()
    what = (number, frozenset(move.id for move in bare), frozenset(move.id for move in halved))
    return await desk.counting.run(what, count)


def group_standing(live: Live, group_id: int, slots: frozenset[int], away: Collection[NodeId]) -> Standing:
    """Of stripes that lack these slots: spare shards now, when whole, and after losing the worst zone."""
    group = live.groups[group_id]
    zones: Counter[str] = Counter()
    for slot, node in enumerate(group.members):
        move = live.moves.get((group_id, slot))
        # While a slot is filled its former holder, where it serves, has what the new one lacks.
        holder = move.old if move is not None and move.old is not None and move.old not in away else node
        if slot not in slots and holder not in away and holder in live.nodes:
            zones[live.nodes[holder].zone] += 1
    here = zones.total()
    return Standing(
        here - group.profile.k,
        group.profile.m,
        here - max(zones.values(), default=0) - group.profile.k,
    )
