"""The trash: chunks that nothing reaches, kept for a while, then given to the nodes to erase.

A row goes to the trash only when the sealed sweep did not mark it and its pin (the sweep
generation at its last claim or commit) is older than the seal and than every open upload: an
upload that was opened under an older generation may still build upon what it claimed. Such
rows wait for the end of those uploads. A claim takes a row out of the trash again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, case, delete, func, select, update

from holdfast.coordinator.catalogue import erasures
from holdfast.coordinator.catalogue.accounts import AccountRow
from holdfast.coordinator.catalogue.engine import batched
from holdfast.coordinator.catalogue.schema import (
    accounts,
    chunks,
    group_slots,
    heads,
    meta,
    missing,
    moves,
    nodes,
    snapshot_records,
    sweep_marks,
    sweeps,
    uploads,
)
from holdfast.coordinator.catalogue.sweeps import Sweep, newest_sealed
from holdfast.protocol.ids import AccountId, ChunkId, NodeId, SnapshotId, UploadId
from holdfast.protocol.limits import FORGOTTEN_SHOWN_MAX
from holdfast.protocol.messages.nodes import DeletionEntry
from holdfast.protocol.messages.sweep import ForgottenSnapshot

__all__ = [
    "Portion",
    "Waiting",
    "count_unmarked",
    "empty_trash",
    "finish",
    "forgotten",
    "is_due",
    "move_to_trash",
    "older_uploads",
    "running_ms",
    "save_running_ms",
    "trash_totals",
    "waiting",
]

_RUNNING = "running_ms"


@dataclass(frozen=True, slots=True)
class Portion:
    """What one transaction looked at.

    Attributes:
        number: of the sealed sweep; floor: rows pinned before this generation may go.
        last: the last chunk looked at; None: the end of the account's chunks.
    """

    number: int
    generation: int
    floor: int
    last: bytes | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A sealed sweep that is not done, and the floor it could use now."""

    account: int
    number: int
    floor: int


# The coordinator's running time, made durable


def running_ms(connection: Connection) -> int:
    """For how long this cluster's coordinator has run, as last noted, in ms."""
    return int(connection.execute(select(meta.c.number).where(meta.c.name == _RUNNING)).scalar() or 0)


def save_running_ms(connection: Connection, now_ms: int) -> None:
    """Note it; never less than before."""
    if now_ms > running_ms(connection):
        connection.execute(delete(meta).where(meta.c.name == _RUNNING))
        connection.execute(meta.insert().values(name=_RUNNING, number=now_ms))


# Into the trash


def _floor(connection: Connection, account: int, generation: int) -> int:
    """Pins below it hold nothing: older than the seal, and than every open upload of the account."""
    query = select(func.min(uploads.c.sweep_generation)).where(
        uploads.c.account == account, uploads.c.state == "open"
    )
    oldest = connection.execute(query).scalar()
    return generation if oldest is None else min(generation, int(oldest))


def older_uploads(connection: Connection, account: int, generation: int) -> int:
    """How many open uploads began before a generation."""
    query = select(func.count()).where(
        uploads.c.account == account,
        uploads.c.state == "open",
        uploads.c.sweep_generation < generation,
    )
    return int(connection.execute(query).scalar() or 0)


def waiting(connection: Connection) -> list[Waiting]:
    """Every sealed sweep that is not done."""
    query = select(sweeps.c.account, sweeps.c.number, sweeps.c.generation).where(sweeps.c.state == "sealed")
    return [
        Waiting(row.account, row.number, _floor(connection, row.account, row.generation))
        for row in connection.execute(query).all()
    ]


def move_to_trash(
    connection: Connection, account: int, after: bytes, most: int, now_ms: int
) -> Portion | None:
    """Look at an account's next chunks by its sealed sweep, and trash what may go; None: no sealed sweep.

    Args:
        after: look at chunks behind this id; most: how many.
        now_ms: the coordinator's running time.
    """
    sweep = newest_sealed(connection, account)
    if sweep is None:
        return None
    floor = _floor(connection, account, sweep.generation)
    marked = and_(
        sweep_marks.c.account == account,
        sweep_marks.c.number == sweep.number,
        sweep_marks.c.chunk == chunks.c.id,
    )
    query = (
        select(
            chunks.c.id,
            chunks.c.sealed_bytes,
            chunks.c.pin,
            chunks.c.state,
            sweep_marks.c.chunk.label("mark"),
        )
        .join_from(chunks, sweep_marks, marked, isouter=True)
        .where(chunks.c.account == account, chunks.c.id > after)
        .order_by(chunks.c.id)
        .limit(most)
    )
    rows = connection.execute(query).all()
    going = [row for row in rows if row.mark is None and row.state == "live" and row.pin < floor]
    for portion in batched([row.id for row in going]):
        connection.execute(
            update(chunks)
            .where(chunks.c.account == account, chunks.c.id.in_(portion))
            .values(state="trash", trashed_ms=now_ms)
        )
    if going:
        connection.execute(
            update(sweeps)
            .where(sweeps.c.account == account, sweeps.c.number == sweep.number)
            .values(
                trashed_chunks=sweeps.c.trashed_chunks + len(going),
                trashed_bytes=sweeps.c.trashed_bytes + sum(row.sealed_bytes for row in going),
            )
        )
    return Portion(sweep.number, sweep.generation, floor, rows[-1].id if len(rows) == most else None)


def finish(connection: Connection, account: int, number: int) -> None:
    """A sealed sweep has looked at everything while no older upload was open: nothing more will follow."""
    connection.execute(
        update(sweeps)
        .where(sweeps.c.account == account, sweeps.c.number == number, sweeps.c.state == "sealed")
        .values(state="done")
    )


def count_unmarked(connection: Connection, sweep: Sweep, generation: int) -> tuple[int, int]:
    """(chunks, sealed bytes) that a seal to this generation would move to the trash now."""
    floor = _floor(connection, sweep.account, generation)
    marked = select(sweep_marks.c.chunk).where(
        sweep_marks.c.account == sweep.account,
        sweep_marks.c.number == sweep.number,
        sweep_marks.c.chunk == chunks.c.id,
    )
    query = select(func.count(), func.coalesce(func.sum(chunks.c.sealed_bytes), 0)).where(
        chunks.c.account == sweep.account,
        chunks.c.state == "live",
        chunks.c.pin < floor,
        ~marked.exists(),
    )
    row = connection.execute(query).one()
    return int(row[0]), int(row[1])


# Out of the trash


def is_due(connection: Connection, before_ms: int) -> bool:
    """Does something lie in the trash since that running time, or longer?"""
    query = select(chunks.c.id).where(chunks.c.trashed_ms <= before_ms).limit(1)
    return connection.execute(query).scalar() is not None


def empty_trash(connection: Connection, before_ms: int, most: int, hold_s: int) -> int:
    """Delete rows that lie in the trash since that running time or longer, and have their shards erased.

    The quota gets their bytes back here, not when they went to the trash: until now they took room
    on the nodes, and could come back. Gives how many went.

    Args:
        hold_s: for how long the nodes still keep the shards, for readers who were just told of them.
    """
    query = (
        select(chunks, accounts.c.id.label("account_id"))
        .join(accounts, accounts.c.number == chunks.c.account)
        .where(chunks.c.trashed_ms <= before_ms, chunks.c.state == "trash")
        .order_by(chunks.c.trashed_ms)
        .limit(most)
    )
    rows = connection.execute(query).all()
    for node, shards in _shards_by_node(connection, rows).items():
        erasures.erase(connection, node, shards, hold_s)
    by_account: dict[int, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        by_account[row.account].append(row)
    for account, gone in by_account.items():
        for portion in batched([row.id for row in gone]):
            connection.execute(delete(chunks).where(chunks.c.account == account, chunks.c.id.in_(portion)))
            connection.execute(
                delete(missing).where(missing.c.account == account, missing.c.chunk.in_(portion))
            )
        freed = sum(row.sealed_bytes for row in gone)
        connection.execute(
            update(accounts)
            .where(accounts.c.number == account)
            .values(
                used_bytes=case(
                    (accounts.c.used_bytes > freed, accounts.c.used_bytes - freed),
                    else_=0,
                )
            )
        )
    return len(rows)


def _shards_by_node(connection: Connection, rows: Sequence[Row[Any]]) -> dict[NodeId, list[DeletionEntry]]:
    """Every place where a shard of these stripes may lie: holders, and former ones of moving slots."""
    places: dict[int, set[tuple[int, bytes]]] = defaultdict(set)
    for portion in batched(sorted({row.group_id for row in rows})):
        for slot in connection.execute(select(group_slots).where(group_slots.c.group_id.in_(portion))):
            places[slot.group_id].add((slot.slot, slot.node))
        old = (
            select(moves.c.group_id, moves.c.slot, moves.c.old)
            .join(nodes, nodes.c.id == moves.c.old)
            .where(moves.c.group_id.in_(portion))
        )
        for slot in connection.execute(old):
            places[slot.group_id].add((slot.slot, slot.old))
    found: dict[NodeId, list[DeletionEntry]] = defaultdict(list)
    for row in rows:
        for slot_number, node in sorted(places[row.group_id]):
            found[NodeId(node)].append(
                DeletionEntry(
                    row.group_id,
                    slot_number,
                    AccountId(row.account_id),
                    ChunkId(row.id),
                    UploadId(row.generation),
                )
            )
    return found


def trash_totals(connection: Connection, account: int) -> tuple[int, int]:
    """(chunks, sealed bytes) in an account's trash."""
    # The account as an expression: by its value the database would go through all of its chunks.
    query = select(func.count(), func.coalesce(func.sum(chunks.c.sealed_bytes), 0)).where(
        chunks.c.account + 0 == account, chunks.c.trashed_ms.is_not(None)
    )
    row = connection.execute(query).one()
    return int(row[0]), int(row[1])


def forgotten(connection: Connection, account: AccountRow) -> list[ForgottenSnapshot]:
    """Snapshots whose records are here and that the newest head does not list, the latest forgotten first."""
    query = (
        select(snapshot_records.c.id, snapshot_records.c.left_seq, heads.c.posted_ms)
        .join(
            heads,
            and_(heads.c.account == snapshot_records.c.account, heads.c.seq == snapshot_records.c.left_seq),
        )
        .where(snapshot_records.c.account == account.number)
        .order_by(snapshot_records.c.left_seq.desc(), snapshot_records.c.id)
        .limit(FORGOTTEN_SHOWN_MAX)
    )
    return [
        ForgottenSnapshot(SnapshotId(row.id), row.left_seq, row.posted_ms)
        for row in connection.execute(query)
    ]
