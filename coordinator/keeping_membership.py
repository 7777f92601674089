"""Who belongs to the cluster, seen over time: lost nodes, returned ones, slots that need a new holder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import structlog

from holdfast.coordinator.catalogue.moves import assign_slot
from holdfast.coordinator.catalogue.nodes import save_counters, set_standing
from holdfast.coordinator.catalogue.sums import group_totals
from holdfast.coordinator.health import Presence, newly_lost
from holdfast.coordinator.limits import (
    COUNTERS_SAVE_S,
    FREE_TO_TAKE_BYTES_MIN,
    REBALANCE_BY_ITSELF_BYTES_MIN,
    REBALANCE_BY_ITSELF_MOVES_MAX,
    REBALANCE_EVERY_S,
    REBALANCE_SPREAD,
)
from holdfast.coordinator.repair_plan import Assignment, Member, plan_moves, plan_rebalance
from holdfast.coordinator.service.desk import Desk
from holdfast.protocol.errors import GroupMoved
from holdfast.protocol.failpoints import reached
from holdfast.protocol.ids import NodeId

__all__ = ["assign_all", "keep_membership", "members_of", "rebalance_plan"]

_log = structlog.get_logger()


async def keep_membership(desk: Desk) -> float | None:
    """One turn: judge absences, give slots of leaving nodes to others, keep store counters."""
    await _judge_absences(desk)
    await _keep_counters(desk)
    live = desk.live
    plan = plan_moves(live.groups, {slot: move.old for slot, move in live.moves.items()}, members_of(desk))
    desk.repairs.waiting = plan.waiting
    if await assign_all(desk, plan.assign):
        return 0.0
    await _even_out(desk)
    return None


async def _even_out(desk: Desk) -> None:
    """Where everything is whole and at rest, move a slot or two towards nodes that came later."""
    repairs, now = desk.repairs, desk.source.monotonic()
    if not desk.rebalances or now < desk.rebalance_due_s:
        return
    desk.rebalance_due_s = now + REBALANCE_EVERY_S
    if desk.live.moves or repairs.queued_shards or repairs.waiting:
        return
    planned = await rebalance_plan(
        desk, most=REBALANCE_BY_ITSELF_MOVES_MAX, least_bytes=REBALANCE_BY_ITSELF_BYTES_MIN
    )
    await assign_all(desk, planned)


async def rebalance_plan(desk: Desk, *, most: int, least_bytes: int) -> list[Assignment]:
    """Slots to move so that nodes are evenly filled."""
    live = desk.live
    totals = await desk.catalogue.read(group_totals)
    return plan_rebalance(
        live.groups,
        live.moves,
        members_of(desk),
        {number: -(-totals.get(number, (0, 0))[1] // g.profile.k) for number, g in live.groups.items()},
        most=most,
        spread=REBALANCE_SPREAD,
        least_bytes=least_bytes,
    )


def members_of(desk: Desk) -> dict[NodeId, Member]:
    """Every node as the planner sees it."""
    live = desk.live
    found = {}
    for node, row in live.nodes.items():
        beat = live.beats.get(node)
        report = beat.report if beat is not None else None
        takes = (
            report is not None
            and report.state == "ok"
            and live.state(node) == "up"
            and report.free_bytes >= FREE_TO_TAKE_BYTES_MIN
            and node not in desk.erasing.unanswered
        )
        found[node] = Member(
            node,
            row.zone,
            row.state,
            takes,
            report.used_bytes if report is not None else 0,
            report.capacity_bytes if report is not None else row.capacity_bytes,
        )
    return found


async def assign_all(desk: Desk, assignments: Sequence[Assignment]) -> int:
    """Carry out assignments, and give how many; what cannot be done now is planned again in the next turn."""
    count = 0
    for assigned in assignments:
        now_ms = desk.source.now_ms()
        try:
            await desk.catalogue.write(
                lambda c, a=assigned: assign_slot(c, a.group, a.slot, a.new, a.why, now_ms)  # type: ignore[misc] # noqa: B023
            )
        except GroupMoved:
            continue
        reached("coordinator.move.assigned")
        count += 1
        _log.info(
            "a slot gets a new holder",
            group=assigned.group.id,
            slot=assigned.slot,
            node=assigned.new.short,
            why=assigned.why,
        )
    if assignments:
        await desk.live.refresh(desk.catalogue)
    if count:
        desk.repairs.is_due.set()
    return count


async def _judge_absences(desk: Desk) -> None:
    live = desk.live
    returned = [node for node, row in live.nodes.items() if row.state == "lost" and live.state(node) == "up"]
    for node in returned:
        await desk.catalogue.write(lambda c, n=node: set_standing(c, n, "joined"))  # type: ignore[misc]
        _log.info("a lost node is back", node=node.short)
    present = {
        node: Presence(row.zone, live.state(node) in ("down", "stopping"), live.absent_s(node))
        for node, row in live.nodes.items()
        if row.state != "lost"
    }
    usual = live.usual_profile()
    lost, why = newly_lost(present, usual.m if usual is not None else 1, live.health)
    if why != live.held_back:
        live.held_back = why
        if why:
            _log.warning("nodes are away for long, and are not given up", why=why)
    # A node that is to be emptied, or not to be trusted, stays that: it is left anyway, and must not come
    # back as one that is to be kept.
    lost = [node for node in lost if live.nodes[node].state == "joined"]
    for node in lost:
        await desk.catalogue.write(lambda c, n=node: set_standing(c, n, "lost"))  # type: ignore[misc]
        _log.warning("a node is lost; its shards will be rebuilt elsewhere", node=node.short)
    if lost or returned:
        await live.refresh(desk.catalogue)


async def _keep_counters(desk: Desk) -> None:
    live = desk.live
    grown: dict[NodeId, int] = {}
    for node, row in live.nodes.items():
        beat = live.beats.get(node)
        if beat is None or beat.report.store != row.store:
            continue
        if beat.report.store_counter > row.store_counter:
            grown[node] = beat.report.store_counter
    if grown and live.source.monotonic() >= live.counters_due_s:
        live.counters_due_s = live.source.monotonic() + COUNTERS_SAVE_S
        await desk.catalogue.write(lambda c: save_counters(c, grown))
        live.nodes = {
            node: replace(row, store_counter=grown.get(node, row.store_counter))
            for node, row in live.nodes.items()
        }
