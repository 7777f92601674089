"""Shards that nodes are to erase, in numbered orders; and the last look before an order goes out.

An order is in flight from the transaction that gives it its number until the one that
takes over its answer. Until then no slot of a group it names is given to that node
(moves.assign_slot), and afterwards a late copy of it changes nothing there, because the
node has taken its number. So no order marks a shard that was stored again behind it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from holdfast.coordinator.catalogue.engine import batched
from holdfast.coordinator.catalogue.prepared import Prepared
from holdfast.coordinator.catalogue.schema import (
    accounts,
    chunks,
    deletion_orders,
    erasures,
    group_slots,
    groups,
    meta,
    missing,
    moves,
    sweeps,
    uploads,
)
from holdfast.coordinator.comparing import Facts, Standing, UploadState, judge
from holdfast.protocol.ids import AccountId, ChunkId, NodeId, UploadId
from holdfast.protocol.limits import DELETION_ENTRIES_MAX
from holdfast.protocol.messages.nodes import DeletionEntry

__all__ = [
    "Order",
    "answered",
    "count_erasures",
    "erase",
    "facts_of",
    "forget_node",
    "is_in_flight",
    "is_unreconciled",
    "last_order",
    "next_order",
    "nodes_asked",
    "noted",
    "overtaken",
    "set_unreconciled",
    "standings",
]

_UNRECONCILED = "unreconciled"
_IS_UNRECONCILED: Final = Prepared(select(meta.c.number).where(meta.c.name == _UNRECONCILED))


@dataclass(frozen=True, slots=True)
class Order:
    """What one node is told next; none of it is named by the catalogue as of the transaction that made it."""

    number: int
    hold_s: int
    entries: list[DeletionEntry]


# A catalogue that may be older than what the nodes have seen


def is_unreconciled(connection: Connection) -> bool:
    """Is the catalogue older than what nodes hold, and not compared with them since?"""
    row = _IS_UNRECONCILED.row(connection)
    return row is not None and bool(row[0])


def set_unreconciled(connection: Connection, is_so: bool) -> None:
    """Note that it is, or no longer.

    With what an old catalogue says, nothing may go: a chunk in its trash may have been claimed by a backup
    that it knows nothing of, and so may what a sealed sweep of it has still to look at. So its trash
    comes back, and its sweeps have ended.
    """
    if is_so:
        generation = select(accounts.c.sweep_generation).where(accounts.c.number == chunks.c.account)
        connection.execute(
            update(chunks)
            .where(chunks.c.trashed_ms.is_not(None))
            .values(state="live", trashed_ms=None, pin=generation.scalar_subquery())
        )
        connection.execute(update(sweeps).where(sweeps.c.state == "sealed").values(state="done"))
    connection.execute(delete(meta).where(meta.c.name == _UNRECONCILED))
    connection.execute(insert(meta).values(name=_UNRECONCILED, number=int(is_so)))


# What the catalogue says of shards that lie on a node


@dataclass(frozen=True, slots=True)
class _Row:
    generation: UploadId
    group: int


def standings(
    connection: Connection,
    node: NodeId,
    shards: Sequence[DeletionEntry],
    *,
    away: Collection[NodeId],
    is_settled: bool,
) -> list[Standing]:
    """Each shard's standing on a node, in order; see coordinator.comparing and :func:`facts_of`."""
    facts = facts_of(connection, shards, away)
    return [judge(node, shard, f, is_settled=is_settled) for shard, f in zip(shards, facts, strict=True)]


def facts_of(
    connection: Connection, shards: Sequence[DeletionEntry], away: Collection[NodeId]
) -> list[Facts]:
    """What the catalogue says around each shard, in order.

    Args:
        away: nodes that are out of reach, or whose store does not work; no group they hold is whole.
    """
    rows = _chunk_rows(connection, shards)
    known = {shard.group for shard in shards} | {row.group for row in rows.values()}
    holders = _holders(connection, known)
    olds = {
        (row.group_id, row.slot): NodeId(row.old) if row.old is not None else None
        for portion in batched(sorted(known))
        for row in connection.execute(
            select(moves.c.group_id, moves.c.slot, moves.c.old).where(moves.c.group_id.in_(portion))
        )
    }
    whole = _whole_groups(connection, {row.group for row in rows.values()}, holders, olds, away)
    states = _upload_states(connection, {shard.generation for shard in shards})
    told: list[Facts] = []
    for shard in shards:
        row = rows.get((shard.account, shard.chunk))
        here = (shard.group, shard.slot)
        told.append(
            Facts(
                row.generation if row is not None else None,
                row.group if row is not None else None,
                holders.get(here),
                olds.get(here),
                row is not None and row.group in whole,
                states.get(shard.generation, "unknown"),
            )
        )
    return told


def _chunk_rows(
    connection: Connection, shards: Sequence[DeletionEntry]
) -> dict[tuple[AccountId, ChunkId], _Row]:
    by_account: dict[AccountId, set[ChunkId]] = defaultdict(set)
    for shard in shards:
        by_account[shard.account].add(shard.chunk)
    found = {}
    for account, wanted in by_account.items():
        number = connection.execute(select(accounts.c.number).where(accounts.c.id == bytes(account))).scalar()
        if number is None:
            continue
        for portion in batched(sorted(wanted)):
            query = select(chunks.c.id, chunks.c.generation, chunks.c.group_id).where(
                chunks.c.account == number, chunks.c.id.in_([bytes(chunk) for chunk in portion])
            )
            for row in connection.execute(query):
                found[(account, ChunkId(row.id))] = _Row(UploadId(row.generation), row.group_id)
    return found


def _holders(connection: Connection, known: Collection[int]) -> dict[tuple[int, int], NodeId]:
    return {
        (row.group_id, row.slot): NodeId(row.node)
        for portion in batched(sorted(known))
        for row in connection.execute(select(group_slots).where(group_slots.c.group_id.in_(portion)))
    }


def _whole_groups(
    connection: Connection,
    asked: Collection[int],
    holders: Mapping[tuple[int, int], NodeId],
    olds: Mapping[tuple[int, int], NodeId | None],
    away: Collection[NodeId],
) -> set[int]:
    """Those of the groups whose every slot is filled and proven; see coordinator.comparing."""
    whole: set[int] = set()
    for portion in batched(sorted(asked)):
        usual = select(groups.c.id).where(groups.c.id.in_(portion), groups.c.kind != "fallback")
        whole.update(connection.execute(usual).scalars())
        gaps = select(missing.c.group_id).where(missing.c.group_id.in_(portion)).distinct()
        whole.difference_update(connection.execute(gaps).scalars())
    whole -= {group for group, _ in olds}
    return whole - {group for (group, _), node in holders.items() if node in away}


def _upload_states(connection: Connection, asked: Collection[UploadId]) -> dict[UploadId, UploadState]:
    return {
        UploadId(row.id): "open" if row.state == "open" else "ended"
        for portion in batched([bytes(upload) for upload in asked])
        for row in connection.execute(select(uploads.c.id, uploads.c.state).where(uploads.c.id.in_(portion)))
    }


# Erasures and their orders


def erase(connection: Connection, node: NodeId, shards: Sequence[DeletionEntry], hold_s: int) -> int:
    """Have a node erase shards; what is to be erased already is not noted twice. Gives how many are new."""
    known = noted(connection, node, shards)
    fresh = [shard for shard in dict.fromkeys(shards) if shard not in known]
    if fresh:
        connection.execute(
            insert(erasures),
            [
                {
                    "node": bytes(node),
                    "group_id": shard.group,
                    "slot": shard.slot,
                    "account": bytes(shard.account),
                    "chunk": bytes(shard.chunk),
                    "generation": bytes(shard.generation),
                    "hold_s": hold_s,
                }
                for shard in fresh
            ],
        )
    return len(fresh)


def noted(connection: Connection, node: NodeId, shards: Sequence[DeletionEntry]) -> set[DeletionEntry]:
    """Those (and more of the same chunks) that a node is to erase already."""
    known: set[DeletionEntry] = set()
    for portion in batched([bytes(shard.chunk) for shard in shards]):
        query = select(erasures).where(erasures.c.chunk.in_(portion), erasures.c.node == bytes(node))
        known.update(_entry(row) for row in connection.execute(query))
    return known


def _entry(row: Row[Any]) -> DeletionEntry:
    return DeletionEntry(
        row.group_id,
        row.slot,
        AccountId(row.account),
        ChunkId(row.chunk),
        UploadId(row.generation),
    )


def nodes_asked(connection: Connection) -> dict[NodeId, bool]:
    """Nodes that have something to erase; is an order of theirs in flight?"""
    query = select(erasures.c.node, func.max(erasures.c.order_number)).group_by(erasures.c.node)
    return {NodeId(node): number is not None for node, number in connection.execute(query)}


def count_erasures(connection: Connection) -> int:
    """Shards that nodes have still to be told of."""
    return int(connection.execute(select(func.count()).select_from(erasures)).scalar() or 0)


def last_order(connection: Connection, node: NodeId) -> int:
    """The number of the last order a node was given; 0: none yet."""
    query = select(deletion_orders.c.number).where(deletion_orders.c.node == bytes(node))
    return int(connection.execute(query).scalar() or 0)


def _set_last_order(connection: Connection, node: NodeId, number: int) -> None:
    connection.execute(delete(deletion_orders).where(deletion_orders.c.node == bytes(node)))
    connection.execute(insert(deletion_orders).values(node=bytes(node), number=number))


def next_order(connection: Connection, node: NodeId, away: Collection[NodeId]) -> Order | None:
    """The order in flight, or a new one with the next number; None when there is nothing to erase.

    What the catalogue needs by now (it was stored again; its group lost a holder) is left out. Of an
    order in flight it stays on the books until the answer, since the order may be taken as it was.
    """
    flight = _flight(connection, node)
    if flight:
        free, _ = _divided(connection, node, flight, away)
        return Order(flight[0].order_number, flight[0].hold_s, [_entry(row) for row in free])
    while waiting := _waiting(connection, node):
        free, needed = _divided(connection, node, waiting, away)
        for portion in batched([row.number for row in needed]):
            connection.execute(delete(erasures).where(erasures.c.number.in_(portion)))
        if not free:
            continue
        number = last_order(connection, node) + 1
        _set_last_order(connection, node, number)
        for portion in batched([row.number for row in free]):
            connection.execute(
                update(erasures).where(erasures.c.number.in_(portion)).values(order_number=number)
            )
        return Order(number, free[0].hold_s, [_entry(row) for row in free])
    return None


def _divided(
    connection: Connection, node: NodeId, rows: Sequence[Row[Any]], away: Collection[NodeId]
) -> tuple[list[Row[Any]], list[Row[Any]]]:
    """(what may be erased, what may not)."""
    entries = [_entry(row) for row in rows]
    told = standings(connection, node, entries, away=away, is_settled=True)
    free = [row for row, standing in zip(rows, told, strict=True) if standing == "free"]
    return free, [row for row, standing in zip(rows, told, strict=True) if standing != "free"]


def _flight(connection: Connection, node: NodeId) -> Sequence[Row[Any]]:
    query = (
        select(erasures)
        .where(erasures.c.node == bytes(node), erasures.c.order_number.is_not(None))
        .order_by(erasures.c.number)
    )
    return connection.execute(query).all()


def _waiting(connection: Connection, node: NodeId) -> Sequence[Row[Any]]:
    """The first erasures that share one hold."""
    here = erasures.c.node == bytes(node)
    first = select(erasures.c.hold_s).where(here).order_by(erasures.c.number).limit(1)
    hold_s = connection.execute(first).scalar()
    if hold_s is None:
        return []
    query = select(erasures).where(here, erasures.c.hold_s == hold_s)
    return connection.execute(query.order_by(erasures.c.number).limit(DELETION_ENTRIES_MAX)).all()


def answered(connection: Connection, node: NodeId, number: int) -> int:
    """The node has taken an order: forget what was in it; gives how many shards."""
    done = connection.execute(
        delete(erasures).where(erasures.c.node == bytes(node), erasures.c.order_number == number)
    )
    return done.rowcount


def overtaken(connection: Connection, node: NodeId, number: int) -> bool:
    """A node has taken an order that this catalogue knows nothing of: it is older than the node's memory.

    The numbers go on from there, what is in flight waits for a new one, and nothing is erased before the
    catalogue has been compared with the nodes. False: the catalogue knows of the number after all.
    """
    if number <= last_order(connection, node):
        return False
    _set_last_order(connection, node, number)
    connection.execute(update(erasures).where(erasures.c.node == bytes(node)).values(order_number=None))
    set_unreconciled(connection, True)
    return True


def forget_node(connection: Connection, node: NodeId) -> None:
    """A node that left has nothing to erase any more."""
    connection.execute(delete(erasures).where(erasures.c.node == bytes(node)))


def is_in_flight(connection: Connection, node: NodeId, group: int) -> bool:
    """Is an order in flight that names shards of this group on this node?"""
    query = select(erasures.c.number).where(
        erasures.c.node == bytes(node),
        erasures.c.group_id == group,
        erasures.c.order_number.is_not(None),
    )
    return connection.execute(query.limit(1)).scalar() is not None
