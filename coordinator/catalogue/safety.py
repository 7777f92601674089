"""Counting stripes by which of their slots are not there: what the verdict is made of."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from typing import Any

from sqlalchemy import ColumnElement, Connection, String, and_, case, cast, func, not_, select, tuple_

from holdfast.coordinator.catalogue.moves import Move
from holdfast.coordinator.catalogue.schema import chunks, missing

__all__ = ["Gaps", "group_counts", "group_totals", "missing_gaps"]

Gaps = Counter[tuple[int, frozenset[int]]]
"""(group, slots that are not there) -> how many stripes; those that lack nothing are not in it."""


_Lacking = tuple[int, ColumnElement[bool]]
"""A slot, and which chunks of its group are not there."""


def _missing_slots(number: int | None) -> Any:
    """Chunks with missing rows, and those slots as text. Of one account or all."""
    # Counted by the database: after a long absence of one node nearly every stripe has a missing slot.
    slots = func.aggregate_strings(cast(missing.c.slot, String), ",").label("slots")
    query = select(missing.c.account, missing.c.chunk, func.max(missing.c.group_id).label("group_id"), slots)
    if number is not None:
        query = query.where(missing.c.account == number)
    return query.group_by(missing.c.account, missing.c.chunk).subquery()


def group_counts(
    connection: Connection,
    number: int | None = None,
    bare: Collection[Move] = (),
    halved: Collection[Move] = (),
) -> tuple[dict[int, int], Gaps]:
    """Chunks by group, and their gaps. Of one account (by its number) or of all.

    Args:
        bare: moves whose former holder is gone: what they have not filled yet is not there.
        halved: moves whose new holder is gone: all but that is not there.
    """
    totals = select(chunks.c.group_id, func.count()).group_by(chunks.c.group_id)
    if number is not None:
        totals = totals.where(chunks.c.account == number)
    by_group = {int(group): int(count) for group, count in connection.execute(totals)}
    by_move: dict[int, list[_Lacking]] = defaultdict(list)
    for move in bare:
        by_move[move.group].append((move.slot, _unfilled(move)))
    for move in halved:
        by_move[move.group].append((move.slot, not_(_unfilled(move))))
    found: Gaps = Counter()
    kinds = _missing_slots(number)
    counted = select(kinds.c.group_id, kinds.c.slots, func.count()).group_by(kinds.c.group_id, kinds.c.slots)
    if by_move:
        counted = counted.where(kinds.c.group_id.not_in(list(by_move)))
    for group, text, count in connection.execute(counted):
        found[(int(group), _slots(text))] += int(count)
    for group, lacking in by_move.items():
        for slots, count in _counts_with_moves(connection, number, group, lacking):
            if slots:
                found[(group, slots)] += count
    return by_group, found


def missing_gaps(connection: Connection) -> dict[int, set[frozenset[int]]]:
    """By group, every combination of slots that some stripe of it lacks by missing rows."""
    kinds = _missing_slots(None)
    query = select(kinds.c.group_id, kinds.c.slots).distinct()
    found: dict[int, set[frozenset[int]]] = defaultdict(set)
    for group, text in connection.execute(query):
        found[int(group)].add(_slots(text))
    return found


def group_totals(connection: Connection) -> dict[int, tuple[int, int]]:
    """(chunks, sealed bytes) by group."""
    query = select(chunks.c.group_id, func.count(), func.sum(chunks.c.sealed_bytes)).group_by(
        chunks.c.group_id
    )
    return {int(row[0]): (int(row[1]), int(row[2])) for row in connection.execute(query)}


def _slots(text: str | None) -> frozenset[int]:
    return frozenset(map(int, text.split(","))) if text else frozenset()


def _unfilled(move: Move) -> ColumnElement[bool]:
    """Chunks that a move still has to fill."""
    return and_(
        chunks.c.group_version < move.version,
        tuple_(chunks.c.account, chunks.c.id) > tuple_(*move.cursor),
    )


def _counts_with_moves(
    connection: Connection, number: int | None, group: int, lacking: list[_Lacking]
) -> list[tuple[frozenset[int], int]]:
    """(slots that are not there, how many stripes) of a group with slots that are being filled."""
    kinds = _missing_slots(number)
    flags = [case((clause, 1), else_=0).label(f"slot_{slot}") for slot, clause in lacking]
    joined = chunks.outerjoin(kinds, and_(kinds.c.account == chunks.c.account, kinds.c.chunk == chunks.c.id))
    query = select(kinds.c.slots, func.count(), *flags).select_from(joined).where(chunks.c.group_id == group)
    if number is not None:
        query = query.where(chunks.c.account == number)
    return [
        (
            _slots(row[0]) | {slot for (slot, _), is_gone in zip(lacking, row[2:], strict=True) if is_gone},
            int(row[1]),
        )
        for row in connection.execute(query.group_by(kinds.c.slots, *flags))
    ]
