"""How much there is, and how much of it lacks something: by sums that the database keeps.

Rows of chunks are millions, and many ask how things stand: operators, what scrapes the metrics, each turn of
repair. See migrations/versions/v0009_sums.py for what the sums are and how they are kept.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection, Select, bindparam, func, select

from holdfast.coordinator.catalogue.prepared import Prepared
from holdfast.coordinator.catalogue.schema import chunk_sums, gap_sums

__all__ = ["chunk_totals", "gap_totals", "group_totals", "slots_missing", "total_of_group"]

Totals = tuple[int, int]
"""(chunks, sealed bytes)"""


def _chunks(statement: Select[Any]) -> Select[Any]:
    return statement.add_columns(
        func.coalesce(func.sum(chunk_sums.c.chunks), 0), func.coalesce(func.sum(chunk_sums.c.sealed_bytes), 0)
    )


_ALL: Final = Prepared(_chunks(select()))
_OF_ACCOUNT: Final = Prepared(_chunks(select()).where(chunk_sums.c.account == bindparam("account")))
_OF_GROUP: Final = Prepared(_chunks(select()).where(chunk_sums.c.group_id == bindparam("group")))
_BY_GROUP: Final = Prepared(_chunks(select(chunk_sums.c.group_id)).group_by(chunk_sums.c.group_id))
_BY_GROUP_OF_ACCOUNT: Final = Prepared(
    _chunks(select(chunk_sums.c.group_id))
    .where(chunk_sums.c.account == bindparam("account"))
    .group_by(chunk_sums.c.group_id)
)
_GAPS_SELECTED: Final = select(
    gap_sums.c.group_id, gap_sums.c.slots, func.sum(gap_sums.c.chunks), func.sum(gap_sums.c.sealed_bytes)
).group_by(gap_sums.c.group_id, gap_sums.c.slots)
_GAPS: Final = Prepared(_GAPS_SELECTED)
_GAPS_OF_ACCOUNT: Final = Prepared(_GAPS_SELECTED.where(gap_sums.c.account == bindparam("account")))


def chunk_totals(connection: Connection, number: int | None = None) -> Totals:
    """(chunks, sealed bytes) of one account, by its number, or of all."""
    if number is None:
        found = _ALL.row(connection)
    else:
        found = _OF_ACCOUNT.row(connection, account=number)
    assert found is not None
    return found[0], found[1]


def group_totals(connection: Connection, number: int | None = None) -> dict[int, Totals]:
    """(chunks, sealed bytes) by group. Of one account, by its number, or of all."""
    if number is None:
        found = _BY_GROUP.rows(connection)
    else:
        found = _BY_GROUP_OF_ACCOUNT.rows(connection, account=number)
    return {group: (count, sealed_bytes) for group, count, sealed_bytes in found}


def total_of_group(connection: Connection, group: int) -> Totals:
    """(chunks, sealed bytes) of one group."""
    found = _OF_GROUP.row(connection, group=group)
    assert found is not None
    return found[0], found[1]


def gap_totals(connection: Connection, number: int | None = None) -> dict[tuple[int, frozenset[int]], Totals]:
    """(chunks, sealed bytes) by (group, slots whose shards are noted as missing); whole ones are left out."""
    if number is None:
        found = _GAPS.rows(connection)
    else:
        found = _GAPS_OF_ACCOUNT.rows(connection, account=number)
    return {
        (group, frozenset(map(int, slots.split(",")))): (count, sealed_bytes)
        for group, slots, count, sealed_bytes in found
    }


def slots_missing(connection: Connection) -> dict[tuple[int, int], Totals]:
    """(shards, sealed bytes of their chunks) noted as missing, by (group, slot)."""
    found: dict[tuple[int, int], Totals] = {}
    for (group, slots), (count, sealed_bytes) in gap_totals(connection).items():
        for slot in slots:
            shards, size = found.get((group, slot), (0, 0))
            found[group, slot] = (shards + count, size + sealed_bytes)
    return found
