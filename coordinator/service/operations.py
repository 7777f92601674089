"""What operators do to nodes: empty them, keep them, let them go, even out how full they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from holdfast.coordinator.catalogue.moves import trust_anew
from holdfast.coordinator.catalogue.nodes import NodeRow, NodeStanding, remove_node, set_standing
from holdfast.coordinator.catalogue.safety import missing_gaps
from holdfast.coordinator.catalogue.sums import group_totals
from holdfast.coordinator.keeping_membership import assign_all, members_of, rebalance_plan
from holdfast.coordinator.limits import REBALANCE_MOVES_MAX, REPAIR_RATE_ASSUMED_BYTES_PER_S
from holdfast.coordinator.repair_plan import Assignment, plan_moves
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.service.stripes import bare_moves, group_standing
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, Conflict, NotFound
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.messages.admin import Moving, Rebalance, SetStanding

__all__ = ["OperationHandlers", "node_of"]


def node_of(desk: Desk, prefix: str) -> NodeRow:
    """The node whose id begins so.

    Raises:
        NotFound: none does. BadRequest: more than one does.
    """
    found = [row for node, row in desk.live.nodes.items() if node.hex().startswith(prefix.lower())]
    if not prefix or not found:
        raise NotFound(f"no node's id begins with {prefix!r}", do="'holdfast admin nodes' shows them.")
    if len(found) > 1:
        raise BadRequest(f"{len(found)} nodes' ids begin with {prefix!r}", do="Give more of it.")
    return found[0]


class OperationHandlers:
    """See protocol.messages.admin."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self, router: Routes) -> None:
        """Add the paths."""
        router.add_post("/v1/admin/standing", self.standing)
        router.add_post("/v1/admin/rebalance", self.rebalance)

    async def standing(self, request: Request) -> Answer:
        """Drain, undrain or remove a node; tells what moves."""
        told = decode(await self._desk.operator(request), SetStanding)
        desk, row = self._desk, node_of(self._desk, told.node)
        if told.standing == "removed":
            self._check_removable(row)
            moving = await self._moving(row.id.hex(), [], 0)
        elif told.standing == "draining":
            if row.state == "distrusted":
                raise Conflict(f"node {row.id.short} is not trusted: its slots go to other nodes already")
            moving = await self._drain_plan(row)
        else:
            self._check_kept(row, told.standing)
            moving = await self._moving(row.id.hex(), [], 0)
        if told.dry_run:
            return msgpack_answer(moving)
        now_ms = desk.source.now_ms()
        if told.standing == "trusted":
            await desk.catalogue.write(lambda c: trust_anew(c, row, now_ms))
        elif told.standing == "removed":
            await desk.catalogue.write(lambda c: remove_node(c, row.id))
        else:
            standing: NodeStanding = told.standing
            await desk.catalogue.write(lambda c: set_standing(c, row.id, standing))
        desk.doubted.discard(row.id)
        await desk.live.refresh(desk.catalogue)
        return msgpack_answer(moving)

    @staticmethod
    def _check_kept(row: NodeRow, standing: str) -> None:
        wanted = "distrusted" if standing == "trusted" else "draining"
        if row.state != wanted:
            raise Conflict(
                f"node {row.id.short} is {row.state}, not {wanted}",
                do="'holdfast admin undrain' keeps a node that is being emptied, 'holdfast admin trust' one "
                "that was found lying; 'holdfast admin nodes' shows which is which.",
            )

    def _check_removable(self, row: NodeRow) -> None:
        live = self._desk.live
        held = sum(row.id in group.members for group in live.groups.values())
        sourced = sum(move.old == row.id for move in live.moves.values())
        if held or (sourced and row.state != "lost"):
            raise Conflict(
                f"node {row.id.short} still holds {held + sourced} slots",
                do=f"Empty it first: 'holdfast admin drain {row.id.short}'; "
                "'holdfast admin repair status' shows how far it is.",
            )

    async def _drain_plan(self, row: NodeRow) -> Moving:
        """What emptying this node moves: planned to the end, with the very planner that does it."""
        live = self._desk.live
        members = members_of(self._desk)
        members[row.id] = members[row.id].leaving("draining")
        groups = dict(live.groups)
        moving = {slot: move.old for slot, move in live.moves.items()}
        planned: list[Assignment] = []
        # A turn gives away one slot of a group; others that are leaving, too, may come first.
        while (plan := plan_moves(groups, moving, members)).assign:
            for assigned in plan.assign:
                group, slot = groups[assigned.group.id], assigned.slot
                if assigned.why not in ("drain", "lost", "distrusted"):
                    return await self._moving(row.id.hex(), planned, 0)
                if group.members[slot] == row.id:
                    planned.append(assigned)
                moving[group.id, slot] = group.members[slot]
                taken = (*group.members[:slot], assigned.new, *group.members[slot + 1 :])
                groups[group.id] = replace(group, members=taken)
        stuck = sum(groups[group].members[slot] == row.id for group, slot, _ in plan.waiting)
        return await self._moving(row.id.hex(), planned, stuck)

    async def _moving(self, node: str, planned: Iterable[Assignment], stuck: int) -> Moving:
        desk = self._desk
        planned = list(planned)
        totals = await desk.catalogue.read(group_totals)
        moved_sealed = sum(totals.get(a.group.id, (0, 0))[1] for a in planned)
        moved = sum(-(-totals.get(a.group.id, (0, 0))[1] // a.group.profile.k) for a in planned)
        spare = await self._smallest_spare({a.group.id for a in planned})
        rate = int(desk.repairs.rate) or REPAIR_RATE_ASSUMED_BYTES_PER_S
        bound = desk.throttle.settings.expected(len({a.new for a in planned}), spare)
        rate = min(rate, bound or rate)
        return Moving(
            node=node,
            slots=len(planned),
            moved_bytes=moved,
            seconds=-(-moved_sealed // max(1, rate)),
            bytes_per_s=rate,
            is_measured=bool(desk.repairs.rate),
            smallest_spare=spare,
            stuck=stuck,
        )

    async def _smallest_spare(self, groups: Collection[int]) -> int:
        """Spare shards of the least safe stripe of these groups. Moving lowers none: who gives serves on."""
        live = self._desk.live
        gaps = await self._desk.catalogue.read(missing_gaps)
        away = {node for node in live.nodes if not live.counts(node)}
        bare = {group: frozenset[int]() for group in groups}
        for move in bare_moves(live):
            if move.group in bare:
                bare[move.group] |= {move.slot}
        return min(
            (
                group_standing(live, group, gap | bare[group], away).now
                for group in groups
                for gap in {frozenset(), *gaps.get(group, ())}
            ),
            default=0,
        )

    async def rebalance(self, request: Request) -> Answer:
        """Move slots from the fullest to the emptiest nodes, a bounded number."""
        told = decode(await self._desk.operator(request), Rebalance)
        desk = self._desk
        planned = await rebalance_plan(desk, most=REBALANCE_MOVES_MAX, least_bytes=1)
        moving = await self._moving("", planned, 0)
        if not told.dry_run:
            await assign_all(desk, planned)
        return msgpack_answer(moving)
