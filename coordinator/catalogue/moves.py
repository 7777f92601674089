"""Slots that change hands: assigned at once, filled in order of (account, chunk), then whole.

From its assignment on, the new holder takes the slot's writes (the group's version
rises, so that receipts judged by the old members are void), and the old one stays
a verified source. Chunks committed before count as missing in the slot while they
lie behind the fill cursor. A move ends when its fill has ended and nothing is noted
as missing in the slot: until then the old holder may be the only one that has it.
What the old holder still has afterwards is found by reconciliation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)

from holdfast.coordinator.catalogue.engine import batched
from holdfast.coordinator.catalogue.erasures import is_in_flight
from holdfast.coordinator.catalogue.missing import Gone, note_gone
from holdfast.coordinator.catalogue.nodes import (
    NodeRow,
    accept_store,
    all_groups,
    raise_epoch,
    removed_among,
    set_standing,
)
from holdfast.coordinator.catalogue.prepared import Prepared
from holdfast.coordinator.catalogue.schema import accounts, chunks, group_slots, groups, missing, moves, nodes
from holdfast.coordinator.catalogue.sums import total_of_group
from holdfast.coordinator.placement import Group
from holdfast.protocol.errors import GroupMoved
from holdfast.protocol.ids import AccountId, ChunkId, Digest, NodeId, StoreId, UploadId

__all__ = [
    "Cursor",
    "Move",
    "ShardRow",
    "all_moves",
    "assign_slot",
    "caught_up",
    "fill_batch",
    "filled",
    "finish_move",
    "missing_batch",
    "prove_anew",
    "shard_rows",
    "trust_anew",
    "unfilled",
    "where_now",
]

Cursor = tuple[int, bytes]
"""(account's number, chunk id): everything up to it is filled."""
_START: Cursor = (0, b"")
_GAPS: Final = Prepared(
    select(missing.c.number, missing.c.chunk, missing.c.slot).where(
        missing.c.account == bindparam("account"), missing.c.chunk.in_(bindparam("ids", expanding=True))
    )
)
_STANDING: Final = Prepared(
    select(
        moves.c.cursor_account,
        moves.c.cursor_chunk,
        moves.c.filled_chunks,
        moves.c.filled_bytes,
        moves.c.left_chunks,
        moves.c.left_bytes,
    ).where(moves.c.id == bindparam("move"))
)


@dataclass(frozen=True, slots=True)
class Move:
    """One slot that is being filled.

    Attributes:
        old: the holder before, still a source; None when there is none (a node with a new, empty store).
        version: the group's version since the assignment; chunks committed at it or later need no filling.
        why: "lost", "drain", "distrusted", "zone", "rebalance", or "refill" (the same node, to be proven).
        left_chunks, left_bytes: what it still had to fill when this was read, and how large that is sealed.
    """

    id: int
    group: int
    slot: int
    old: NodeId | None
    version: int
    why: str
    cursor: Cursor
    started_ms: int
    filled_chunks: int
    filled_bytes: int
    left_chunks: int = 0
    left_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ShardRow:
    """A shard to bring back: its chunk's row; ``number`` of the missing row, 0 when there is none."""

    number: int
    account_number: int
    account: AccountId
    chunk: ChunkId
    generation: UploadId
    group: int
    sealed_bytes: int
    stripe: Digest
    missing: frozenset[int]

    def gone(self, slot: int) -> Gone:
        """The stripe's shard in a slot, as something that is not there."""
        return Gone(self.account_number, self.chunk, self.generation, self.group, slot)

    @property
    def cursor(self) -> Cursor:
        """Where a fill stands when this one is done."""
        return (self.account_number, bytes(self.chunk))


def all_moves(connection: Connection) -> dict[tuple[int, int], Move]:
    """Every move by (group, slot)."""
    return {
        (row.group_id, row.slot): Move(
            row.id,
            row.group_id,
            row.slot,
            NodeId(row.old) if row.old is not None else None,
            row.version,
            row.why,
            (row.cursor_account, row.cursor_chunk),
            row.started_ms,
            row.filled_chunks,
            row.filled_bytes,
            row.left_chunks,
            row.left_bytes,
        )
        for row in connection.execute(select(moves))
    }


def assign_slot(connection: Connection, group: Group, slot: int, new: NodeId, why: str, now_ms: int) -> None:
    """Give a slot a new holder, or have its holder proven and refilled (``new`` is the holder itself).

    A move that is under way there begins anew with the new holder; its first old holder stays the source.

    Raises:
        GroupMoved: the group is not as it was when this was planned; or the new holder was let go; or it
            has not answered an order to erase shards of this group, which it might take only after it has
            been filled.
    """
    row = connection.execute(select(groups.c.version).where(groups.c.id == group.id)).scalar()
    if row != group.version or (new in group.members and new != group.members[slot]):
        raise GroupMoved(f"group {group.id} has moved on", group=group.id)
    if removed_among(connection, [new]):
        raise GroupMoved(f"node {new.short} was let go", group=group.id)
    if new != group.members[slot] and is_in_flight(connection, new, group.id):
        raise GroupMoved(f"node {new.short} is still to erase shards of group {group.id}", group=group.id)
    here = and_(moves.c.group_id == group.id, moves.c.slot == slot)
    before = connection.execute(select(moves.c.old).where(here)).one_or_none()
    holder = group.members[slot]
    chunk_count, sealed_bytes = total_of_group(connection, group.id)
    old = before.old if before is not None else (bytes(holder) if holder != new else None)
    connection.execute(delete(moves).where(here))
    connection.execute(update(groups).where(groups.c.id == group.id).values(version=group.version + 1))
    connection.execute(
        update(group_slots)
        .where(group_slots.c.group_id == group.id, group_slots.c.slot == slot)
        .values(node=bytes(new))
    )
    connection.execute(
        insert(moves).values(
            group_id=group.id,
            slot=slot,
            old=None if old == bytes(new) else old,
            version=group.version + 1,
            why=why,
            cursor_account=_START[0],
            cursor_chunk=_START[1],
            started_ms=now_ms,
            filled_chunks=0,
            filled_bytes=0,
            left_chunks=chunk_count,
            left_bytes=sealed_bytes,
        )
    )
    raise_epoch(connection)


def prove_anew(
    connection: Connection, node: NodeId, store: StoreId, counter: int, now_ms: int
) -> list[tuple[int, int]]:
    """A known node has another store, or an older one: take that over, and have every slot of it filled.

    All in one transaction: were it two, a coordinator that dies between them would count on shards
    that are not there. With another store it is no source any more for slots that move away from it.
    Gives the (group, slot) that are to be filled.
    """
    if connection.execute(select(nodes.c.store).where(nodes.c.id == bytes(node))).scalar() != bytes(store):
        connection.execute(update(moves).where(moves.c.old == bytes(node)).values(old=None))
    accept_store(connection, node, store, counter)
    held = [
        (group, slot)
        for group in all_groups(connection).values()
        for slot, holder in enumerate(group.members)
        if holder == node
    ]
    for group, slot in held:
        assign_slot(connection, group, slot, node, "refill", now_ms)
    return [(group.id, slot) for group, slot in held]


def trust_anew(connection: Connection, row: NodeRow, now_ms: int) -> None:
    """A node that was found lying is trusted again; in the same transaction what it holds is to be proven."""
    set_standing(connection, row.id, "joined")
    prove_anew(connection, row.id, row.store, row.store_counter, now_ms)


def unfilled(move: Move, cursor: Cursor | None = None) -> ColumnElement[bool]:
    """Chunks that the move still has to fill; or had to when it stood at a cursor."""
    return and_(
        chunks.c.group_id == move.group,
        chunks.c.group_version < move.version,
        tuple_(chunks.c.account, chunks.c.id) > tuple_(*(move.cursor if cursor is None else cursor)),
    )


def fill_batch(
    connection: Connection, move: Move, after: Cursor, most: int, most_bytes: int
) -> list[ShardRow]:
    """The next chunks to fill behind a cursor, in order; empty at the end."""
    query = (
        select(chunks, accounts.c.id.label("account_id"))
        .join(accounts, accounts.c.number == chunks.c.account)
        .where(unfilled(move, after))
        .order_by(chunks.c.account, chunks.c.id)
        .limit(most)
    )
    return shard_rows(connection, query, move.slot, most_bytes)


def shard_rows(connection: Connection, query: Select[Any], slot: int, most_bytes: int) -> list[ShardRow]:
    """The first rows of a query over chunks that together have at most so many bytes, but at least one."""
    taken: list[Row[Any]] = []
    for row in connection.execute(query):
        most_bytes -= row.sealed_bytes
        if most_bytes < 0 and taken:
            break
        taken.append(row)
    gaps = _gaps(connection, [(row.account, row.id) for row in taken])
    return [
        ShardRow(
            (missing_here := gaps.get((row.account, row.id), {})).get(slot, 0),
            row.account,
            AccountId(row.account_id),
            ChunkId(row.id),
            UploadId(row.generation),
            row.group_id,
            row.sealed_bytes,
            Digest(row.stripe),
            frozenset(missing_here),
        )
        for row in taken
    ]


def _gaps(
    connection: Connection, wanted: Sequence[tuple[int, bytes]]
) -> dict[tuple[int, bytes], dict[int, int]]:
    """Missing slots with their rows' numbers, by (account number, chunk)."""
    by_account: dict[int, list[bytes]] = defaultdict(list)
    for account, chunk in wanted:
        by_account[account].append(chunk)
    found: dict[tuple[int, bytes], dict[int, int]] = {}
    for account, ids in by_account.items():
        for portion in batched(ids):
            for number, chunk, slot in _GAPS.rows(connection, account=account, ids=portion):
                found.setdefault((account, chunk), {})[slot] = number
    return found


def filled(
    connection: Connection,
    move: Move,
    before: Cursor,
    done: Iterable[ShardRow],
    failed: Iterable[ShardRow],
    after: Cursor,
    stored_bytes: int,
) -> bool:
    """Take over the outcome of one batch, in one transaction; False when the move is not where it was.

    What could not be filled becomes a missing row, so that the cursor can go on.
    """
    done, failed = list(done), list(failed)
    passed_chunks, passed_bytes = connection.execute(
        select(func.count(), func.coalesce(func.sum(chunks.c.sealed_bytes), 0)).where(
            unfilled(move, before), tuple_(chunks.c.account, chunks.c.id) <= tuple_(*after)
        )
    ).one()
    moved = connection.execute(
        update(moves)
        .where(
            moves.c.id == move.id,
            moves.c.cursor_account == before[0],
            moves.c.cursor_chunk == before[1],
        )
        .values(
            cursor_account=after[0],
            cursor_chunk=after[1],
            filled_chunks=moves.c.filled_chunks + len(done),
            filled_bytes=moves.c.filled_bytes + stored_bytes,
            left_chunks=moves.c.left_chunks - passed_chunks,
            left_bytes=moves.c.left_bytes - passed_bytes,
        )
    )
    if moved.rowcount != 1:
        return False
    caught_up(connection, done)
    note_gone(connection, [row.gone(move.slot) for row in failed], "unfilled", renew=False)
    return True


def finish_move(connection: Connection, move: Move, at: Cursor) -> bool:
    """The fill has reached its end: the slot is whole.

    False when it is not where it was; or when shards are noted as missing in the slot, and there is a
    former holder: it goes on being a source for them.
    """
    noted = select(missing.c.number).where(missing.c.group_id == move.group, missing.c.slot == move.slot)
    if move.old is not None and connection.execute(noted.limit(1)).scalar() is not None:
        return False
    gone = connection.execute(
        delete(moves).where(
            moves.c.id == move.id, moves.c.cursor_account == at[0], moves.c.cursor_chunk == at[1]
        )
    )
    if gone.rowcount != 1:
        return False
    raise_epoch(connection)
    return True


def missing_batch(
    connection: Connection, group: int, slot: int, after: int, most: int, most_bytes: int
) -> list[ShardRow]:
    """Shards noted as missing in one slot, by the rows' numbers, behind a number."""
    query = (
        select(chunks, accounts.c.id.label("account_id"), missing.c.number.label("missing_number"))
        .join(missing, and_(missing.c.account == chunks.c.account, missing.c.chunk == chunks.c.id))
        .join(accounts, accounts.c.number == chunks.c.account)
        .where(
            missing.c.group_id == group,
            chunks.c.group_id == group,
            missing.c.slot == slot,
            missing.c.number > after,
        )
        .order_by(missing.c.number)
        .limit(most)
    )
    return shard_rows(connection, query, slot, most_bytes)


def caught_up(connection: Connection, done: Iterable[ShardRow]) -> int:
    """Forget missing rows that were repaired: only the very numbers that were worked on."""
    numbers = [row.number for row in done if row.number]
    for portion in batched(numbers):
        connection.execute(delete(missing).where(missing.c.number.in_(list(portion))))
    return len(numbers)


def where_now(connection: Connection, move: Move) -> Move | None:
    """The same move, as far as it has come by now; None: it has ended."""
    found = _STANDING.row(connection, move=move.id)
    if found is None:
        return None
    account, chunk, filled_chunks, filled_bytes, left_chunks, left_bytes = found
    return replace(
        move,
        cursor=(account, chunk),
        filled_chunks=filled_chunks,
        filled_bytes=filled_bytes,
        left_chunks=left_chunks,
        left_bytes=left_bytes,
    )
