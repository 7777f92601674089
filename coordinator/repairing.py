"""Repair: who is lost, which slots change hands, and the batches that bring shards back.

Everything durable is in the catalogue (moves, missing rows); what is here is how
fast it goes and what to leave alone for a moment. A turn works on the slots whose
stripes have the fewest spare shards, one slot of a node at a time and the next one as
soon as it is done, two batches of a slot on their way together. It may die anywhere:
the next turn reads the catalogue anew.
"""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from holdfast.coordinator.catalogue import moves as move_rows
from holdfast.coordinator.catalogue.missing import Gone, note_gone
from holdfast.coordinator.catalogue.moves import Cursor, Move, ShardRow
from holdfast.coordinator.catalogue.safety import missing_gaps
from holdfast.coordinator.catalogue.sums import slots_missing
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
from holdfast.coordinator.service.stripes import bare_slots, group_standing
from holdfast.coordinator.verdict import Standing
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
    moves = dict(live.moves)
    work = await _work(desk, moves)
    now = live.source.monotonic()
    able = {slot: count for slot, count in work.items() if _is_able(desk, slot)}
    repairs.queued_shards, repairs.queued_bytes = _total(work)
    repairs.able_shards, repairs.able_bytes = _total(able)
    ready = [slot for slot in able if repairs.rest.get(slot, 0.0) <= now]
    if not ready:
        return REPAIR_PAUSE_S
    await _work_through(desk, await _by_urgency(desk, ready), moves, now + REPAIR_TURN_S)
    return 0.0


async def _work(desk: Desk, moves: Mapping[Slot, Move]) -> dict[Slot, tuple[int, int]]:
    """(shards, sealed bytes) to bring back, by slot; a move that only has to be ended counts nothing."""
    missing, now = await desk.catalogue.read(lambda c: (slots_missing(c), move_rows.all_moves(c)))
    work = dict(missing)
    for slot in moves.keys() & now.keys():
        # What is noted as missing behind the cursor is in both counts.
        work[slot] = max((now[slot].left_chunks, now[slot].left_bytes), missing.get(slot, (0, 0)))
    return work


def _total(work: Mapping[Slot, tuple[int, int]]) -> tuple[int, int]:
    return sum(shards for shards, _ in work.values()), sum(size for _, size in work.values())


def _is_able(desk: Desk, slot: Slot) -> bool:
    """Is the slot's holder there to take shards, and are there sources for them?

    Without the second, a fill would find nothing for one chunk after the other.
    """
    live = desk.live
    group = live.groups.get(slot[0])
    if group is None or not live.counts(puller := group.members[slot[1]]) or puller not in live.beats:
        return False
    move = live.moves.get(slot)
    sources = {source.slot for source in _sources(desk, group, puller)}
    if slot[1] in sources:
        return True  # its former holder has the very shards
    has_own = move is None or move.why == "refill"
    return len(sources) + has_own >= group.profile.k


async def _by_urgency(desk: Desk, ready: Sequence[Slot]) -> list[Slot]:
    """Fewest spare shards first, then those that losing a zone would hurt most."""
    live, bare = desk.live, bare_slots(desk.live)
    away = {node for node in live.nodes if not live.counts(node)}
    gaps = await desk.catalogue.read(missing_gaps)

    def worst(slot: Slot) -> Standing:
        """Of the stripes that its work is for: all of the group, or those that miss it."""
        noted = gaps.get(slot[0], set())
        kinds = {frozenset(), *noted} if slot in live.moves else {gap for gap in noted if slot[1] in gap}
        return min(
            (
                group_standing(live, slot[0], gap | bare.get(slot[0], set()), away)
                for gap in kinds or {frozenset({slot[1]})}
            ),
            key=lambda standing: (standing.now, standing.after_zone),
        )

    spare = desk.repairs.spare = {slot: worst(slot) for slot in ready}
    return sorted(ready, key=lambda slot: (spare[slot].now, spare[slot].after_zone, slot))


async def _work_through(desk: Desk, waiting: list[Slot], moves: Mapping[Slot, Move], until: float) -> None:
    """Work on slots in order until the turn is over: on several at once, on one of each node."""
    live, repairs = desk.live, desk.repairs
    running: dict[asyncio.Task[bool], tuple[Slot, NodeId]] = {}
    repairs.begin(live.source.monotonic())

    def start_some() -> None:
        for slot in list(waiting):
            node = live.groups[slot[0]].members[slot[1]]
            busy = [other for _, other in running.values()]
            if len(busy) >= REPAIRS_AT_ONCE_MAX or live.source.monotonic() >= until:
                return
            if node not in busy:
                waiting.remove(slot)
                task = asyncio.create_task(_work_on(desk, slot, moves.get(slot), until))
                running[task] = (slot, node)

    try:
        while True:
            start_some()
            if not running:
                return
            repairs.running = len(running)
            done, _ = await asyncio.wait(running, timeout=REPAIR_PAUSE_S, return_when=FIRST_COMPLETED)
            for task in done:
                _take_outcome(desk, running.pop(task)[0], task)
            for task, (_, node) in running.items():
                if not live.counts(node):
                    task.cancel()  # it hangs: others must not wait for it
    finally:
        repairs.running = 0
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _take_outcome(desk: Desk, slot: Slot, task: asyncio.Task[bool]) -> None:
    """What came of a slot's turn; one of which nothing came is left alone for a while."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, HoldfastError):
        raise error
    if error is not None:
        _log.warning("repairing a slot failed", group=slot[0], slot=slot[1], why=str(error))
    if task.cancelled() or error is not None or not task.result():
        desk.repairs.rest[slot] = desk.source.monotonic() + REPAIR_RETRY_S


async def _work_on(desk: Desk, slot: Slot, move: Move | None, until: float) -> bool:
    """Batches of one slot until the turn is over; False when nothing came of it."""
    if move is None:
        return await _catch_up(desk, slot, until)
    at, progress = await _fill(desk, move, until)
    if at is None:
        return progress
    # What could not be filled is noted as missing; while the move lasts its former holder is a source for it.
    progress = await _catch_up(desk, slot, until) or progress
    if await desk.catalogue.write(lambda c: move_rows.finish_move(c, move, at)):
        reached("coordinator.move.flipped")
        _log.info("a slot is whole", group=move.group, slot=move.slot, why=move.why)
        await desk.live.refresh(desk.catalogue)
        return True
    return progress


async def _fill(desk: Desk, move: Move, until: float) -> tuple[Cursor | None, bool]:
    """Go on filling a slot behind its cursor. Gives its end, once it is reached; and: was anything done?

    It stops where nothing of a batch can be had now, because sources do not answer or the holder is full.
    """
    ahead: deque[_Batch] = deque()
    at, is_end, is_waiting, progress = move.cursor, False, False, False
    try:
        while True:
            while not (is_end or is_waiting) and len(ahead) < REPAIR_BATCHES_AHEAD:
                if desk.source.monotonic() >= until:
                    break
                rows = await desk.catalogue.read(
                    lambda c, a=at: move_rows.fill_batch(  # type: ignore[misc]
                        c, move, a, REBUILD_ENTRIES_MAX, REPAIR_BATCH_SEALED_BYTES
                    )
                )
                if not rows:
                    is_end = True
                    break
                if not await _paced(desk, (move.group, move.slot), rows, until):
                    is_waiting = True
                    break
                ahead.append(_Batch(rows, at, _ask(desk, move.group, move.slot, rows)))
                at = rows[-1].cursor
            if not ahead:
                return (at if is_end else None), progress or is_waiting
            batch = ahead.popleft()
            rebuilt, answer = await batch.task
            done, failed = await _sort_out(desk, move.group, rebuilt, batch.rows)
            if not done and _may_pass(rebuilt):
                return None, progress
            moved = await desk.catalogue.write(
                lambda c, b=batch, d=done, f=failed, s=answer.stored_bytes: move_rows.filled(  # type: ignore[misc]
                    c, move, b.before, d, f, b.rows[-1].cursor, s
                )
            )
            if not moved:
                return None, True  # the slot was given to another meanwhile
            progress = True
            _count(desk, done)
    finally:
        await _cancel(ahead)
        await desk.live.refresh(desk.catalogue)


def _may_pass(rebuilt: Rebuilt) -> bool:
    """Is what stood in the way likely to pass: the holder is full, or sources do not answer?"""
    named = {wrong.entry for wrong in rebuilt.wrong}
    return any(
        entry.status == "full" or (entry.status == "short" and number not in named)
        for number, entry in enumerate(rebuilt.entries)
    )


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
        if not await _paced(desk, slot, rows, until):
            return True
        after = rows[-1].number
        rebuilt, _ = await _ask(desk, slot[0], slot[1], rows)
        done, _ = await _sort_out(desk, slot[0], rebuilt, rows)
        if done:
            await desk.catalogue.write(lambda c, d=done: move_rows.caught_up(c, d))  # type: ignore[misc]
            progress = True
            _count(desk, done)
    return progress


async def _paced(desk: Desk, slot: Slot, rows: Sequence[ShardRow], until: float) -> bool:
    """Wait for this batch's turn; False when it is not within this turn of repair."""
    now, spare = desk.source.monotonic(), desk.repairs.spare[slot].now
    puller, size = desk.live.groups[slot[0]].members[slot[1]], sum(row.sealed_bytes for row in rows)
    wait_s = desk.throttle.reserve([puller], size, spare, now, max(0.0, until - now))
    if wait_s:
        await asyncio.sleep(wait_s)
    return wait_s is not None


async def _cancel(ahead: deque[_Batch]) -> None:
    for batch in ahead:
        batch.task.cancel()
    await asyncio.gather(*(batch.task for batch in ahead), return_exceptions=True)


def _count(desk: Desk, done: Sequence[ShardRow]) -> None:
    desk.repairs.note(len(done), sum(row.sealed_bytes for row in done), desk.source.monotonic())


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
