"""Rows whose stripe was encoded anew: read from one group, switched to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, tuple_, update

from holdfast.coordinator.catalogue.moves import Cursor, ShardRow, shard_rows
from holdfast.coordinator.catalogue.schema import accounts, chunks, groups, missing
from holdfast.coordinator.placement import Group
from holdfast.protocol.errors import GroupMoved
from holdfast.protocol.ids import Digest

__all__ = ["Reencoded", "group_batch", "switch_group"]


@dataclass(frozen=True, slots=True)
class Reencoded:
    """A stripe as it was, the digest of the new one, and slots of the new group that lack theirs."""

    row: ShardRow
    stripe: Digest
    missing: frozenset[int]


def group_batch(
    connection: Connection, group: int, after: Cursor, most: int, most_bytes: int
) -> list[ShardRow]:
    """The next chunks of a group behind a cursor, in order; not those that are being erased for good."""
    query = (
        select(chunks, accounts.c.id.label("account_id"))
        .join(accounts, accounts.c.number == chunks.c.account)
        .where(
            chunks.c.group_id == group,
            chunks.c.state != "erasing",
            tuple_(chunks.c.account, chunks.c.id) > tuple_(*after),
        )
        .order_by(chunks.c.account, chunks.c.id)
        .limit(most)
    )
    return shard_rows(connection, query, 0, most_bytes)


def switch_group(connection: Connection, source: Group, target: Group, made: Sequence[Reencoded]) -> int:
    """Have rows name the new group; gives how many still were what they had been.

    A chunk that was swept, or stored again, meanwhile stays as it is: what was made of it is an orphan.

    Raises:
        GroupMoved: a slot of the new group has changed hands since the stripes were made.
    """
    version = connection.execute(select(groups.c.version).where(groups.c.id == target.id)).scalar()
    if version != target.version:
        raise GroupMoved(f"group {target.id} has moved on", group=target.id)
    switched = 0
    for each in made:
        row = each.row
        changed = connection.execute(
            update(chunks)
            .where(
                chunks.c.account == row.account_number,
                chunks.c.id == bytes(row.chunk),
                chunks.c.generation == bytes(row.generation),
                chunks.c.group_id == source.id,
                chunks.c.stripe == bytes(row.stripe),
                chunks.c.state != "erasing",
            )
            .values(group_id=target.id, group_version=target.version, stripe=bytes(each.stripe))
        )
        if changed.rowcount != 1:
            continue
        switched += 1
        here = (missing.c.account == row.account_number, missing.c.chunk == bytes(row.chunk))
        connection.execute(delete(missing).where(*here))
        for slot in sorted(each.missing):
            connection.execute(
                insert(missing).values(
                    account=row.account_number,
                    chunk=bytes(row.chunk),
                    group_id=target.id,
                    slot=slot,
                    why="re-encoded",
                )
            )
    return switched
