"""Stripes of fallback groups are encoded anew for a usual one, by the nodes that will hold them.

A fallback group was made because too few nodes were up. Once there are enough, each node of a usual group
pulls k shards of a stripe from the fallback group, proves the chunk by its id, and stores its own slot of the
new stripe; coding needs no key. Only then does the row name the new group, by compare-and-swap: generation
stays, group and stripe digest change. Until then the row names the fallback group, and whatever lies in the
new one is kept, since it is the very stripe (rule 3 of coordinator/comparing.py); afterwards the old shards
are, until the new group is whole. So any party may die at any step: the next turn starts from the rows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import structlog

from holdfast.coordinator.catalogue.moves import Cursor, ShardRow
from holdfast.coordinator.catalogue.nodes import add_groups
from holdfast.coordinator.catalogue.reencoded import Reencoded, group_batch, switch_group
from holdfast.coordinator.limits import (
    REENCODE_BATCH_SEALED_BYTES,
    REENCODE_PAUSE_S,
    REENCODE_RETRY_S,
    REPAIR_TURN_S,
)
from holdfast.coordinator.placement import Group, plan_lease
from holdfast.coordinator.repairing import rebuild
from holdfast.coordinator.service.desk import Desk
from holdfast.protocol.errors import GroupMoved, HoldfastError
from holdfast.protocol.ids import Digest
from holdfast.protocol.limits import REBUILD_ENTRIES_MAX
from holdfast.protocol.messages.repair import Rebuilt

__all__ = ["reencode"]

_START: Cursor = (0, b"")
_WHOLE_GROUP = -1
"""In the place of a slot, among those that are left alone for a while."""
_log = structlog.get_logger()


async def reencode(desk: Desk) -> float | None:
    """One turn: batches of fallback groups, until the turn is over."""
    until = desk.source.monotonic() + REPAIR_TURN_S
    for group in [group for group in desk.live.groups.values() if group.kind == "fallback"]:
        here = sum(desk.live.counts(node) for node in group.members)
        slot = (group.id, _WHOLE_GROUP)
        if here < group.profile.k or desk.repairs.rest.get(slot, 0.0) > desk.source.monotonic():
            continue
        pause_s = await _go_on(desk, group, until)
        if pause_s is not None:
            return pause_s
    return None


async def _go_on(desk: Desk, group: Group, until: float) -> float | None:
    """Batches of one group, on from where the last turn ended; None when its end was reached."""
    repairs = desk.repairs
    while rows := await desk.catalogue.read(
        lambda c: group_batch(
            c,
            group.id,
            repairs.reencoded_to.get(group.id, _START),
            REBUILD_ENTRIES_MAX,
            REENCODE_BATCH_SEALED_BYTES,
        )
    ):
        target = await _target(desk)
        if target is None:
            return REENCODE_PAUSE_S  # not enough nodes are up
        spare = group.profile.m - max((len(row.missing) for row in rows), default=0)
        size = sum(row.sealed_bytes for row in rows)
        now = desk.source.monotonic()
        wait_s = desk.throttle.reserve(target.members, size, max(1, spare), now, max(0.0, until - now))
        if wait_s is None:
            return REENCODE_PAUSE_S
        await asyncio.sleep(wait_s)
        await _encode_anew(desk, group, target, rows)
        # What could not be had now is passed over: it must not keep what comes behind it from its turn.
        repairs.reencoded_to[group.id] = rows[-1].cursor
        if desk.source.monotonic() >= until:
            return 0.0
    if repairs.reencoded_to.pop(group.id, None) is not None:
        repairs.rest[group.id, _WHOLE_GROUP] = desk.source.monotonic() + REENCODE_RETRY_S
    _have_looked_at(desk, group)
    return None


def _have_looked_at(desk: Desk, group: Group) -> None:
    """What a group's nodes still have of stripes that left it is to be erased: compare them soon.

    A coordinator that dies before compares every node after its start anyway.
    """
    if group.id not in desk.repairs.left:
        return
    desk.repairs.left.discard(group.id)
    desk.reconciling.asked.update(group.members)


async def _target(desk: Desk) -> Group | None:
    """A whole group of the usual profile with all its nodes up; made if there is none."""
    live = desk.live
    usual = live.usual_profile()
    if usual is None:
        return None
    for _ in range(2):
        writable = live.writable(frozenset())
        plan = plan_lease(list(live.groups.values()), writable, usual, most=1)
        if plan.kind != "usual":
            return None
        if plan.lease:
            able = {node.id for node in writable}
            (group,) = plan.lease
            return group if group.profile == usual and able.issuperset(group.members) else None
        if not plan.make or plan.profile is None:
            return None
        profile, make = plan.profile, plan.make
        await desk.catalogue.write(lambda c: add_groups(c, profile, "usual", make))  # noqa: B023
        await live.refresh(desk.catalogue)
    return None


async def _encode_anew(desk: Desk, source: Group, target: Group, rows: Sequence[ShardRow]) -> None:
    """Every node of the new group makes its slot; then the rows are switched."""
    outcomes = await asyncio.gather(
        *(rebuild(desk, target, slot, rows, source=source) for slot in range(target.profile.n)),
        return_exceptions=True,
    )
    answers: dict[int, Rebuilt] = {}
    for slot, outcome in enumerate(outcomes):
        if isinstance(outcome, HoldfastError):
            node = target.members[slot].short
            _log.info("a node could not encode stripes anew", group=target.id, node=node, why=outcome.what)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            answers[slot] = outcome[0]
    made = [_judged(row, number, answers, target) for number, row in enumerate(rows)]
    ready = [each for each in made if each is not None]
    if not ready:
        return
    try:
        switched = await desk.catalogue.write(lambda c: switch_group(c, source, target, ready))
    except GroupMoved:
        return  # a slot of the new group changed hands meanwhile: the next turn begins anew
    desk.repairs.left.add(source.id)
    _log.info("stripes were encoded anew", of=source.id, group=target.id, count=switched)


def _judged(row: ShardRow, number: int, answers: dict[int, Rebuilt], target: Group) -> Reencoded | None:
    """The new stripe that a write quorum of nodes has made alike; None when there is none."""
    told = {slot: answer.entries[number] for slot, answer in answers.items()}
    made = {slot: entry.stripe for slot, entry in told.items() if entry.status == "ok"}
    if not made:
        return None
    stripe: Digest
    (stripe, count), *_ = Counter(made.values()).most_common(1)
    if count < target.profile.write_quorum:
        return None
    missing = frozenset(slot for slot in range(target.profile.n) if made.get(slot) != stripe)
    return Reencoded(row, stripe, missing)
