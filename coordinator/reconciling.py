"""Comparing the catalogue with what nodes have: what is gone is noted, what is over is erased or adopted.

Node by node, slot by slot: the sums of a whole node come in a few answers; a slot that
differs is looked at in ranges, and only ranges that differ are listed. A node is
compared after it was started, after it came with another or an older store, when a slot
that it held was filled elsewhere, and otherwise once in a while. Looking at the
catalogue always comes before looking at the node: so a shard that is not there is
really gone, and was not just on its way.

While the catalogue is known to be old (meta row "unreconciled") every node that is not
lost is compared, and nothing is erased; before that, what it keeps of nodes and accounts
that came since is taken over (coordinator.taking_over). Then what no row explains is adopted
(coordinator.adopting), and the row is cleared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from holdfast.coordinator.adopting import plan_groups, plan_holders
from holdfast.coordinator.catalogue import inventories, strays
from holdfast.coordinator.catalogue.erasures import is_unreconciled
from holdfast.coordinator.catalogue.inventories import note_proven
from holdfast.coordinator.catalogue.moves import assign_slot
from holdfast.coordinator.inventory_walk import Told, Walk
from holdfast.coordinator.limits import (
    ADOPTED_AT_ONCE,
    COMPARE_AGAIN_S,
    COMPARE_EVERY_S_DEFAULT,
    COMPARE_PAUSE_S,
)
from holdfast.protocol.errors import GroupMoved, HoldfastError
from holdfast.protocol.ids import NodeId
from holdfast.protocol.limits import TICKET_LIFETIME_MS

if TYPE_CHECKING:
    from holdfast.coordinator.service.desk import Desk

__all__ = [
    "Reconciling",
    "begin_round",
    "hear_pulse",
    "keep_pulse",
    "keep_reconciled",
    "pulse_told",
    "uncompared",
    "unproven_slots",
]

_log = structlog.get_logger()


@dataclass(slots=True)
class Compared:
    """When a node was compared last, whole.

    Attributes:
        start: the process and the store that it was at the last try.
        began_s: when the last whole comparison began; -1: never.
        due_s: when it is to be compared again.
        tries: in a row that failed, or left something to be looked at again.
        is_failed: the last try did.
    """

    start: bytes
    began_s: float
    wall_ms: int
    due_s: float
    tries: int = 0
    is_failed: bool = False


@dataclass(slots=True)
class Reconciling:
    """What is known of comparisons without asking the catalogue.

    Attributes:
        every_s: a node is compared again after so long.
        pulse: the catalogue's, as it is durable; None: not read yet.
        since_s: nodes compared since then count; None: nothing is waiting for all of them.
        is_old: the catalogue is known to be older than what nodes have.
        compared: by node.
        sources: former holders of slots that are being filled.
        asked: nodes to be compared soon; one that is being compared now is compared once more.
        adopted: rows made since the start.
        strays: shards that wait to be adopted or given up.
        counts: shards by node and (group, slot), while the catalogue is old.
        finish_s: not before then is it tried (again) to do something about them.
        is_loaded: what the catalogue says of all this was read.
    """

    every_s: float = COMPARE_EVERY_S_DEFAULT
    pulse: int | None = None
    since_s: float | None = None
    is_old: bool = False
    compared: dict[NodeId, Compared] = field(default_factory=dict)
    sources: set[NodeId] = field(default_factory=set)
    asked: set[NodeId] = field(default_factory=set)
    adopted: int = 0
    strays: int = 0
    counts: dict[NodeId, dict[tuple[int, int], int]] = field(default_factory=dict)
    finish_s: float = 0.0
    is_loaded: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


# The pulse


async def keep_pulse(desk: Desk) -> float | None:
    """One turn: the catalogue's pulse goes up, once a majority of the nodes was heard since the start.

    Not before: an old copy of the catalogue that runs while the nodes are still away would come to be as
    far as they are, and nobody would know it for what it is.
    """
    live = desk.live
    if 2 * len(live.nodes.keys() & live.beats.keys()) <= len(live.nodes):
        return COMPARE_PAUSE_S
    desk.reconciling.pulse = await desk.catalogue.write(inventories.raise_pulse)
    return None


async def pulse_told(desk: Desk) -> int:
    """The pulse that nodes may be told: what is durable."""
    state = desk.reconciling
    if state.pulse is None:
        state.pulse = await desk.catalogue.read(inventories.pulse)
    return state.pulse


async def hear_pulse(desk: Desk, node: NodeId, told: int) -> None:
    """A node has heard of this pulse: is the catalogue an old copy of itself?"""
    if told <= await pulse_told(desk):
        return
    if await desk.catalogue.write(lambda c: inventories.notice_pulse(c, told)):
        _log.warning(
            "a node has heard of a newer catalogue than this one; nothing is erased until all is compared",
            node=node.short,
        )
        begin_round(desk, is_old=True)
    desk.reconciling.pulse = await desk.catalogue.read(inventories.pulse)


def begin_round(desk: Desk, *, is_old: bool) -> None:
    """From now on every node is to be compared anew."""
    state = desk.reconciling
    state.is_old |= is_old
    state.since_s = desk.source.monotonic()
    state.finish_s = 0.0


async def unproven_slots(desk: Desk) -> dict[int, set[int]]:
    """Slots by group whose shards may all be gone, as far as an old catalogue can tell."""
    state = desk.reconciling
    if not state.is_loaded:
        await look_for_waiting(desk)
    waiting = set(uncompared(desk)) if state.is_old else set()
    found: dict[int, set[int]] = {}
    for group in desk.live.groups.values() if waiting else ():
        for slot, node in enumerate(group.members):
            if node in waiting:
                found.setdefault(group.id, set()).add(slot)
    return found


def uncompared(desk: Desk) -> list[NodeId]:
    """Nodes that are not lost and still to be compared, while something waits for all of them."""
    state, since_s = desk.reconciling, desk.reconciling.since_s
    if since_s is None:
        return []
    return [
        node
        for node in desk.live.nodes
        if not is_given_up(desk, node)
        and not (node in state.compared and state.compared[node].began_s >= since_s)
    ]


def is_given_up(desk: Desk, node: NodeId) -> bool:
    """Is it lost, or away for as long? (What is to be emptied, or is distrusted, is never called lost.)"""
    live = desk.live
    return live.nodes[node].state == "lost" or live.absent_s(node) >= live.health.lost_after_s


# The turns


async def keep_reconciled(desk: Desk) -> float | None:
    """One turn: compare the node that is due the longest; then, if all are, finish what waited for it."""
    await desk.live.settle()
    state = desk.reconciling
    await look_for_waiting(desk)
    _note_finished_moves(desk)
    node = _due(desk)
    if node is None:
        since_s, now_s = state.since_s, desk.source.monotonic()
        if since_s is not None and now_s >= state.finish_s and not uncompared(desk):
            state.finish_s = now_s + COMPARE_AGAIN_S
            await _finish(desk, since_s)
        return None
    async with state.lock:
        await compare(desk, node)
    return 0.01


async def look_for_waiting(desk: Desk) -> None:
    """After a start, or when somebody else found the catalogue to be old: a round begins."""
    state = desk.reconciling
    is_old, count = await desk.catalogue.read(lambda c: (is_unreconciled(c), strays.count_strays(c)))
    state.strays = count
    if is_old and not state.is_old:
        begin_round(desk, is_old=True)
    elif count and not state.is_loaded:
        begin_round(desk, is_old=False)
    state.is_loaded = True


def _note_finished_moves(desk: Desk) -> None:
    """Whoever was the source of a slot that is full now has leftovers."""
    state = desk.reconciling
    sources = {move.old for move in desk.live.moves.values() if move.old is not None}
    for node in state.sources - sources:
        if node in state.compared:
            state.compared[node].due_s = desk.source.monotonic()
    state.sources = sources


def _due(desk: Desk) -> NodeId | None:
    state, live, now_s = desk.reconciling, desk.live, desk.source.monotonic()
    waiting = set(uncompared(desk))
    due: dict[NodeId, float] = {}
    for node in live.nodes:
        beat, before = live.beats.get(node), state.compared.get(node)
        if beat is None or not live.is_serving(node):
            continue
        if before is None or before.start != beat.report.start + beat.report.store:
            due[node] = -1.0
        elif node in waiting:
            due[node] = 0.0
        elif before.due_s <= now_s:
            due[node] = before.due_s
        elif node in state.asked:
            due[node] = now_s
    # A failed try waits, whatever the reason for it was.
    ready = [
        node
        for node in due
        if (known := state.compared.get(node)) is None or not known.is_failed or known.due_s <= now_s
    ]
    return min(ready, key=lambda node: (due[node], node), default=None)


async def compare(desk: Desk, node: NodeId) -> bool:
    """Compare one node with the catalogue; False when it could not be brought to its end."""
    from holdfast.coordinator.taking_over import take_over

    state, live = desk.reconciling, desk.live
    start, before, row = _start(desk, node), state.compared.get(node), live.nodes[node]
    is_asked = node in state.asked
    state.asked.discard(node)
    try:
        if state.is_old:
            await take_over(desk, node)
        began_s = desk.source.monotonic()
        await desk.catalogue.write(lambda c: strays.forget_strays(c, node))
        told = await Walk(desk, row, is_hurried=state.since_s is not None).compare()
        if _start(desk, node) != start:
            raise HoldfastError("the node was started anew meanwhile")
    except HoldfastError as error:
        state.compared[node] = _again(desk, before, start, is_failed=True)
        state.asked |= {node} if is_asked else set()
        _log.info("a node could not be compared", node=node.short, why=str(error))
        return False
    # What is kept for now is looked at again soon, then less and less often.
    if told.kept:
        again = _again(desk, before, start, is_failed=False)
    else:
        again = Compared(start, began_s, 0, desk.source.monotonic() + state.every_s)
    again.began_s, again.wall_ms = began_s, desk.source.now_ms()
    state.compared[node] = again
    _say(node, told)
    if told.strays and state.since_s is None:
        begin_round(desk, is_old=False)
    return True


def _start(desk: Desk, node: NodeId) -> bytes:
    report = desk.live.beats[node].report
    return report.start + report.store


def _again(desk: Desk, before: Compared | None, start: bytes, *, is_failed: bool) -> Compared:
    """To be compared again before its time: soon at first, then less and less often."""
    tries = before.tries + 1 if before is not None else 1
    wait_s = min(desk.reconciling.every_s, COMPARE_AGAIN_S * 2 ** min(tries - 1, 20))
    due_s = desk.source.monotonic() + wait_s
    began_s, wall_ms = (before.began_s, before.wall_ms) if before is not None else (-1.0, 0)
    return Compared(start, began_s, wall_ms, due_s, tries, is_failed)


def _say(node: NodeId, told: Told) -> None:
    differs = told.gone or told.freed or told.strays or told.kept
    level = _log.warning if told.gone else _log.info
    if differs:
        level(
            "a node differs from the catalogue",
            node=node.short,
            gone=told.gone,
            erased=told.freed,
            kept=told.kept,
            strays=told.strays,
        )
    else:
        _log.info("a node has what it must have", node=node.short, shards=told.shards)


# When every node was compared


async def _finish(desk: Desk, since_s: float) -> None:
    """Every node was compared: adopt what no row explains; the catalogue is as good as it gets."""
    state, live = desk.reconciling, desk.live
    usual, nodes = live.usual_profile(), frozenset(live.nodes)
    await desk.catalogue.write(
        lambda c: strays.make_groups(c, plan_groups(strays.unknown_groups(c), nodes), usual)
    )
    await live.refresh(desk.catalogue)
    if state.is_old:
        await _find_holders(desk)
    may_free = _may_free(desk, nodes)
    waiting = await _adopt(desk, may_free)
    if state.since_s != since_s:
        return  # it turned out to be old, or older, meanwhile
    if state.is_old:
        if not await desk.catalogue.write(lambda c: note_proven(c, nodes)):
            return  # somebody is there who was not compared
        state.is_old = False
        state.counts.clear()
        _log.warning("the catalogue was compared with every node", adopted=state.adopted, strays=waiting)
    state.strays = waiting
    if may_free or not waiting:
        state.since_s = None


async def _find_holders(desk: Desk) -> None:
    """Slots that have moved since an old catalogue was copied go to whoever has their shards."""
    live, now_ms = desk.live, desk.source.now_ms()
    for group, slot, node in plan_holders(live.groups.values(), live.moves.keys(), desk.reconciling.counts):
        try:
            await desk.catalogue.write(
                lambda c, g=live.groups[group], s=slot, n=node: assign_slot(c, g, s, n, "inventory", now_ms)  # type: ignore[misc]
            )
        except GroupMoved as error:
            _log.info("a slot stays where the catalogue has it", group=group, slot=slot, why=error.what)
            continue
        _log.warning(
            "a slot has moved since the catalogue was copied", group=group, slot=slot, node=node.short
        )
        await live.refresh(desk.catalogue)


def _may_free(desk: Desk, nodes: Collection[NodeId]) -> bool:
    """Is what was found all there is, and can nobody add to it?"""
    live = desk.live
    settled_s = live.started_s + TICKET_LIFETIME_MS / 1000
    return desk.source.monotonic() >= settled_s and not any(is_given_up(desk, node) for node in nodes)


async def _adopt(desk: Desk, may_free: bool) -> int:
    """Rows of strays, a portion in each transaction; gives how many shards wait."""
    state, hold_s = desk.reconciling, int(desk.sweeping.hold_s)
    after: strays.StrayCursor | None = (b"", b"")
    waiting = 0
    while after is not None:
        done = await desk.catalogue.write(
            lambda c, a=after: strays.adopt(c, a, ADOPTED_AT_ONCE, hold_s=hold_s, may_free=may_free)  # type: ignore[misc]
        )
        if done.chunks:
            state.adopted += done.chunks
            _log.warning("stripes that no row named were taken up", chunks=done.chunks)
        waiting += done.waiting
        after = done.last
    return waiting
