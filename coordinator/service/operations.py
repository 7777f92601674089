"""What operators do to nodes: empty them, keep them, let them go, even out how full they are."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web

from holdfast.coordinator.catalogue.nodes import NodeRow, set_standing
from holdfast.coordinator.catalogue.safety import group_totals
from holdfast.coordinator.keeping_membership import assign_all, members_of
from holdfast.coordinator.limits import REBALANCE_MOVES_MAX, REBALANCE_SPREAD
from holdfast.coordinator.repair_plan import Assignment, plan_moves, plan_rebalance
from holdfast.coordinator.service.desk import Desk
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, Conflict, NotFound
from holdfast.protocol.messages.admin import Moving, Rebalance, SetStanding
from holdfast.protocol.serving import msgpack_answer

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

    def routes(self, router: web.UrlDispatcher) -> None:
        """Add the paths."""
        router.add_post("/v1/admin/standing", self.standing)
        router.add_post("/v1/admin/rebalance", self.rebalance)

    async def standing(self, request: web.Request) -> web.Response:
        """Drain, undrain or remove a node; tells what moves."""
        told = decode(await self._desk.operator(request), SetStanding)
        desk, row = self._desk, node_of(self._desk, told.node)
        if told.standing == "removed":
            self._check_removable(row)
            moving = await self._moving(row.id.hex(), [], 0)
        elif told.standing == "draining":
            moving = await self._drain_plan(row)
        else:
            if row.state != "draining":
                raise Conflict(f"node {row.id.short} is not being emptied, it is {row.state}")
            moving = await self._moving(row.id.hex(), [], 0)
        if not told.dry_run:
            await desk.catalogue.write(lambda c: set_standing(c, row.id, told.standing))
            await desk.live.refresh(desk.catalogue)
        return msgpack_answer(moving)

    def _check_removable(self, row: NodeRow) -> None:
        live = self._desk.live
        held = sum(row.id in group.members for group in live.groups.values())
        sourced = sum(move.old == row.id for move in live.moves.values())
        if held or (sourced and row.state != "lost"):
            raise Conflict(
                f"node {row.id.short} still holds {held + sourced} slots",
                do=f"Empty it first: 'holdfast admin drain {row.id.short}'; "
                "'holdfast admin repair' shows how far it is.",
            )

    async def _drain_plan(self, row: NodeRow) -> Moving:
        """What emptying this node moves: planned to the end, with the very planner that does it."""
        live = self._desk.live
        members = members_of(self._desk)
        members[row.id] = members[row.id].leaving("draining")
        groups = {number: group for number, group in live.groups.items() if row.id in group.members}
        planned: list[Assignment] = []
        stuck = 0
        plan = plan_moves(groups, {}, members)
        planned.extend(
            assigned for assigned in plan.assign if assigned.group.members[assigned.slot] == row.id
        )
        stuck = sum(groups[group].members[slot] == row.id for group, slot, _ in plan.waiting)
        return await self._moving(row.id.hex(), planned, stuck)

    async def _moving(self, node: str, planned: Iterable[Assignment], stuck: int) -> Moving:
        desk = self._desk
        planned = list(planned)
        totals = await desk.catalogue.read(group_totals)
        moved_sealed = sum(totals.get(a.group.id, (0, 0))[1] for a in planned)
        moved = sum(-(-totals.get(a.group.id, (0, 0))[1] // a.group.profile.k) for a in planned)
        spare = [
            sum(desk.live.is_serving(member) for member in a.group.members) - a.group.profile.k
            for a in planned
        ]
        rate = desk.repairs.rate
        seconds = (int(moved_sealed / rate) + 1 if moved_sealed else 0) if rate or not moved_sealed else -1
        return Moving(
            node=node,
            slots=len(planned),
            moved_bytes=moved,
            seconds=seconds,
            smallest_spare=min(spare, default=0),
            stuck=stuck,
        )

    async def rebalance(self, request: web.Request) -> web.Response:
        """Move slots from the fullest to the emptiest nodes, a bounded number."""
        told = decode(await self._desk.operator(request), Rebalance)
        desk, live = self._desk, self._desk.live
        totals = await desk.catalogue.read(group_totals)
        planned = plan_rebalance(
            live.groups,
            {slot: move.why for slot, move in live.moves.items()},
            members_of(desk),
            {number: -(-totals.get(number, (0, 0))[1] // g.profile.k) for number, g in live.groups.items()},
            most=REBALANCE_MOVES_MAX,
            spread=REBALANCE_SPREAD,
        )
        moving = await self._moving("", planned, 0)
        if not told.dry_run:
            await assign_all(desk, planned)
        return msgpack_answer(moving)
