"""Repair: who is lost, which slots change hands, and the batches that bring shards back.

Everything durable is in the catalogue (moves, missing rows); what is here is how
fast it goes and what to leave alone for a moment. A turn works on the slots whose
stripes have the fewest spare shards, a batch at a time, two batches of a slot on
their way together. It may die anywhere: the next turn reads the catalogue anew.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from holdfast.coordinator.catalogue import moves as move_rows
from holdfast.coordinator.catalogue.missing import Gone, note_gone
from holdfast.coordinator.catalogue.moves import Cursor, Move, ShardRow
from holdfast.coordinator.limits import (
    REPAIR_BATCH_SEALED_BYTES,
    REPAIR_BATCHES_AHEAD,
    REPAIR_CALL_TIMEOUT_S,
    REPAIR_PAUSE_S,
    REPAIR_RETRY_S,
    REPAIR_TURN_S,
    REPAIRS_AT_ONCE_MAX,
)
from holdfast.coordinator.placement import Group
from holdfast.coordinator.repair_progress import Slot
from holdfast.coordinator.service.desk import Desk
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import BadRequest, HoldfastError, Refused
from holdfast.protocol.failpoints import reached
from holdfast.protocol.ids import NodeId
from holdfast.protocol.limits import ORDER_ID_BYTES, REBUILD_ENTRIES_MAX, TICKET_LIFETIME_MS
from holdfast.protocol.messages.repair import (
    PullOrder,
    PullSource,
    Rebuild,
    RebuildAnswer,
    RebuildEntry,
    Rebuilt,
)
from holdfast.protocol.signing import Signed, sign, verify

__all__ = ["keep_whole", "rebuild"]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows of one request, where the fill stands before and after it, and the request."""

    rows: Sequence[ShardRow]
    before: Cursor
    task: asyncio.Task[tuple[Rebuilt, RebuildAnswer]]


async def keep_whole(desk: Desk) -> float | None:
    """One turn of repair; gives when the next one should come."""
    live, repairs = desk.live, desk.repairs
    missing = await desk.catalogue.read(move_rows.count_missing)
    moves = dict(live.moves)
    unfilled = {
        slot: await desk.catalogue.read(lambda c, m=move: move_rows.count_unfilled(c, m))  # type: ignore[misc]
        for slot, move in moves.items()
    }
    work = {slot: count for slot, count in missing.items() if slot not in moves} | unfilled
    repairs.queued_shards = sum(shards for shards, _ in work.values())
    repairs.queued_bytes = sum(size for _, size in work.values())
    now = live.source.monotonic()
    ready = [slot for slot in work if _can_start(desk, slot, now)]
    if not ready:
        return REPAIR_PAUSE_S
    chosen = _most_urgent(desk, ready)
    until = now + REPAIR_TURN_S
    repairs.running = len(chosen)
    try:
        outcomes = await asyncio.gather(
            *(_work_on(desk, slot, moves.get(slot), until) for slot in chosen), return_exceptions=True
        )
    finally:
        repairs.running = 0
    for slot, outcome in zip(chosen, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            if not isinstance(outcome, HoldfastError):
                raise outcome
            _log.warning("repairing a slot failed", group=slot[0], slot=slot[1], why=str(outcome))
        if isinstance(outcome, BaseException) or not outcome:
            repairs.rest[slot] = live.source.monotonic() + REPAIR_RETRY_S
    return 0.0


def _can_start(desk: Desk, slot: Slot, now: float) -> bool:
    live = desk.live
    group = live.groups.get(slot[0])
    if group is None or desk.repairs.rest.get(slot, 0.0) > now:
        return False
    beat = live.beats.get(group.members[slot[1]])
    return beat is not None and live.is_serving(group.members[slot[1]])


def _most_urgent(desk: Desk, ready: Sequence[Slot]) -> list[Slot]:
    """Fewest spare shards first; one slot for each node, so that nodes work beside each other."""
    live = desk.live
    chosen: list[Slot] = []
    busy: Counter[NodeId] = Counter()

    def spare(slot: Slot) -> int:
        group = live.groups[slot[0]]
        here = sum(
            live.is_serving(node) and (group.id, at) not in live.moves
            for at, node in enumerate(group.members)
        )
        return here - group.profile.k

    for slot in sorted(ready, key=lambda slot: (spare(slot), slot)):
        node = live.groups[slot[0]].members[slot[1]]
        if not busy[node]:
            busy[node] += 1
            chosen.append(slot)
        if len(chosen) == REPAIRS_AT_ONCE_MAX:
            break
    return chosen


async def _work_on(desk: Desk, slot: Slot, move: Move | None, until: float) -> bool:
    """Batches of one slot until the turn is over; False when nothing came of it."""
    if move is not None:
        return await _fill(desk, move, until)
    return await _catch_up(desk, slot, until)


async def _fill(desk: Desk, move: Move, until: float) -> bool:
    """Go on filling a slot behind its cursor; at the end the move is over."""
    ahead: deque[_Batch] = deque()
    at, is_end, progress = move.cursor, False, False
    try:
        while True:
            while not is_end and len(ahead) < REPAIR_BATCHES_AHEAD and desk.source.monotonic() < until:
                rows = await desk.catalogue.read(
                    lambda c, a=at: move_rows.fill_batch(  # type: ignore[misc]
                        c, move, a, REBUILD_ENTRIES_MAX, REPAIR_BATCH_SEALED_BYTES
                    )
                )
                if not rows:
                    is_end = True
                    break
                ahead.append(_Batch(rows, at, _ask(desk, move.group, move.slot, rows)))
                at = rows[-1].cursor
            if not ahead:
                break
            batch = ahead.popleft()
            rebuilt, answer = await batch.task
            done, failed = await _sort_out(desk, move.group, rebuilt, batch.rows)
            moved = await desk.catalogue.write(
                lambda c, b=batch, d=done, f=failed, s=answer.stored_bytes: move_rows.filled(  # type: ignore[misc]
                    c, move, b.before, d, f, b.rows[-1].cursor, s
                )
            )
            if not moved:
                return True
            progress = True
            _count(desk, done)
    finally:
        await _cancel(ahead)
        await desk.live.refresh(desk.catalogue)
    if is_end and await desk.catalogue.write(lambda c: move_rows.finish_move(c, move, at)):
        reached("coordinator.move.flipped")
        _log.info("a slot is whole", group=move.group, slot=move.slot, why=move.why)
        await desk.live.refresh(desk.catalogue)
        return True
    return progress


async def _catch_up(desk: Desk, slot: Slot, until: float) -> bool:
    """Bring back what is noted as missing in one slot."""
    after, progress = 0, False
    while desk.source.monotonic() < until:
        rows = await desk.catalogue.read(
            lambda c, a=after: move_rows.missing_batch(  # type: ignore[misc]
                c, slot[0], slot[1], a, REBUILD_ENTRIES_MAX, REPAIR_BATCH_SEALED_BYTES
            )
        )
        if not rows:
            break
        after = rows[-1].number
        rebuilt, _ = await _ask(desk, slot[0], slot[1], rows)
        done, _ = await _sort_out(desk, slot[0], rebuilt, rows)
        if done:
            await desk.catalogue.write(lambda c, d=done: move_rows.caught_up(c, d))  # type: ignore[misc]
            progress = True
            _count(desk, done)
    return progress


async def _cancel(ahead: deque[_Batch]) -> None:
    for batch in ahead:
        batch.task.cancel()
    await asyncio.gather(*(batch.task for batch in ahead), return_exceptions=True)


def _count(desk: Desk, done: Sequence[ShardRow]) -> None:
    desk.repairs.done_shards += len(done)
    desk.repairs.done_bytes += sum(row.sealed_bytes for row in done)


def _sources(desk: Desk, group: Group, puller: NodeId) -> list[PullSource]:
    """Every source of every slot: former holders first, as they have what the new one still lacks."""
    live = desk.live
    found: list[PullSource] = []
    for slot, node in enumerate(group.members):
        move = live.moves.get((group.id, slot))
        former = [move.old] if move is not None and move.old is not None else []
        found.extend(
            PullSource(slot, holder, live.nodes[holder].url)
            for holder in [*former, node]
            if holder != puller and holder in live.nodes and live.is_serving(holder)
        )
    return found


def _ask(
    desk: Desk, group_id: int, slot: int, rows: Sequence[ShardRow]
) -> asyncio.Task[tuple[Rebuilt, RebuildAnswer]]:
    return asyncio.create_task(rebuild(desk, desk.live.groups[group_id], slot, rows))


async def rebuild(
    desk: Desk, group: Group, slot: int, rows: Sequence[ShardRow], source: Group | None = None
) -> tuple[Rebuilt, RebuildAnswer]:
    """Have a slot's holder bring back the shards of some stripes.

    Args:
        source: the group the stripes lie in, where that is another one.

    Raises:
        Unreachable, Refused, ...: nothing came of it, or nobody knows; it may be asked again.
    """
    live, identity = desk.live, desk.identity
    node = live.nodes[group.members[slot]]
    source = source or group
    order = desk.source.random_bytes(ORDER_ID_BYTES)
    expires_ms = desk.source.now_ms() + TICKET_LIFETIME_MS
    payload = encode(PullOrder(1, order, node.id, node.key, source.id, expires_ms, identity.term))
    pull = Signed(payload, sign(identity.key, "pull-order", identity.cluster, payload))
    message = Rebuild(
        pull=pull,
        group=group.id,
        group_version=group.version,
        slot=slot,
        k=group.profile.k,
        m=group.profile.m,
        from_k=source.profile.k,
        from_m=source.profile.m,
        sources=_sources(desk, source, node.id if source is group else NodeId(bytes(NodeId.SIZE))),
        entries=[
            RebuildEntry(
                row.account, row.chunk, row.generation, row.sealed_bytes, row.stripe, sorted(row.missing)
            )
            for row in rows
        ],
    )
    started = desk.source.monotonic()
    answer = await desk.calls.ask(
        node, "POST", "/v1/rebuild", message, RebuildAnswer, timeout_s=REPAIR_CALL_TIMEOUT_S
    )
    reached("coordinator.repair.rebuilt")
    signed = answer.rebuilt
    verify(node.key, signed.signature, "rebuilt", identity.cluster, signed.payload)
    rebuilt = decode(signed.payload, Rebuilt)
    told = (rebuilt.node, rebuilt.order, rebuilt.group, rebuilt.group_version, rebuilt.slot)
    if told != (node.id, order, group.id, group.version, slot):
        raise Refused(f"node {node.id.short} answers another order than it was given")
    if len(rebuilt.entries) != len(rows) or any(not 0 <= w.entry < len(rows) for w in rebuilt.wrong):
        raise BadRequest(f"node {node.id.short} does not answer for what it was asked")
    good = sum(
        row.sealed_bytes for row, entry in zip(rows, rebuilt.entries, strict=True) if entry.status == "ok"
    )
    desk.repairs.note(good, desk.source.monotonic() - started)
    return rebuilt, answer


async def _sort_out(
    desk: Desk, group_id: int, rebuilt: Rebuilt, rows: Sequence[ShardRow]
) -> tuple[list[ShardRow], list[ShardRow]]:
    """(done, not done); sources that lacked what they should have are noted as missing there."""
    group, live = desk.live.groups[group_id], desk.live
    done: list[ShardRow] = []
    failed: list[ShardRow] = []
    for row, entry in zip(rows, rebuilt.entries, strict=True):
        is_done = entry.status == "ok" and entry.stripe == row.stripe
        (done if is_done else failed).append(row)
        if entry.status == "wrong":
            _log.error("a stripe does not give the chunk its id names", chunk=row.chunk.short, group=group_id)
    gone = [
        rows[wrong.entry].gone(wrong.slot)
        for wrong in rebuilt.wrong
        if 0 <= wrong.slot < group.profile.n
        and group.members[wrong.slot] == wrong.node
        and (group_id, wrong.slot) not in live.moves
        and wrong.slot not in rows[wrong.entry].missing
    ]
    if gone:
        await _note(desk, gone)
    return done, failed


async def _note(desk: Desk, gone: Sequence[Gone]) -> None:
    count = await desk.catalogue.write(lambda c: note_gone(c, gone, "repair", renew=False))
    if count:
        _log.warning("repair found more shards missing", count=count)
