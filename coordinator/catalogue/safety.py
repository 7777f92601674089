"""Counting stripes by which of their slots are not there: what the verdict is made of."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Label, String, and_, case, cast, func, literal, select

from holdfast.coordinator.catalogue.moves import Move, unfilled, where_now
from holdfast.coordinator.catalogue.schema import chunks, missing
from holdfast.coordinator.catalogue.sums import gap_totals, group_totals

__all__ = ["Gaps", "counts_rows", "group_counts", "missing_gaps"]

Gaps = Counter[tuple[int, frozenset[int]]]
"""(group, slots that are not there) -> how many stripes; those that lack nothing are not in it."""

_OfGroup = Counter[frozenset[int]]
"""The same of one group."""

_Standing = tuple[int, ...]
"""Of one stripe, for each move of its group: 1 where the move still has to fill it, else 0."""


@dataclass(frozen=True, slots=True)
class _Moving:
    """A move, as far as it has come by now (None: it has ended); and whose shards are not there: see
    :func:`group_counts`.
    """

    move: Move
    now: Move | None
    is_bare: bool

    @property
    def flag(self) -> Label[int]:
        """1 for chunks that it still has to fill, else 0."""
        value = literal(0) if self.now is None else case((unfilled(self.now), 1), else_=0)
        return value.label(f"slot_{self.move.slot}")

    def lacks(self, behind: int) -> bool:
        """Is the shard in this slot not there, of a stripe that stands so?"""
        return bool(behind) is self.is_bare


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
    by_group = {group: count for group, (count, _) in group_totals(connection, number).items()}
    noted: dict[int, _OfGroup] = defaultdict(Counter)
    for (group, slots), (count, _) in gap_totals(connection, number).items():
        noted[group][slots] = count
    moving: dict[int, list[_Moving]] = defaultdict(list)
    for which, is_bare in ((bare, True), (halved, False)):
        for move in which:
            moving[move.group].append(_Moving(move, where_now(connection, move), is_bare))
    found: Gaps = Counter()
    for group, kinds in noted.items():
        if group not in moving:
            found.update({(group, slots): count for slots, count in kinds.items()})
    for group, moves in moving.items():
        standing = _by_standing(connection, number, moves, by_group.get(group, 0))
        has_gaps = bool(noted[group])
        for slots, count in _with_moves(connection, number, moves, standing, has_gaps).items():
            if slots and count:
                found[group, slots] += count
    return by_group, found


def counts_rows(connection: Connection, number: int | None, moves: Sequence[Move]) -> bool:
    """Does :func:`group_counts` have to go through rows for it, which may take long?

    Args:
        moves: bare and halved ones.
    """
    groups = {move.group for move in moves}
    if not groups:
        return False
    return (
        number is not None
        or len(groups) < len(moves)
        or any(group in groups for group, _ in gap_totals(connection))
    )


def missing_gaps(connection: Connection) -> dict[int, set[frozenset[int]]]:
    """By group, every combination of slots that some stripe of it lacks by missing rows."""
    found: dict[int, set[frozenset[int]]] = defaultdict(set)
    for group, slots in gap_totals(connection):
        found[group].add(slots)
    return found


def _by_standing(
    connection: Connection, number: int | None, moves: Sequence[_Moving], total: int
) -> Counter[_Standing]:
    """How many stripes of a group stand how in its moves; they are gone through if no sum tells it."""
    if len(moves) == 1 and number is None:
        left = moves[0].now.left_chunks if moves[0].now is not None else 0
        return Counter({(1,): left, (0,): total - left})
    flags = [each.flag for each in moves]
    query = select(func.count(), *flags).where(chunks.c.group_id == moves[0].move.group).group_by(*flags)
    if number is not None:
        query = query.where(chunks.c.account == number)
    return Counter({tuple(stands): count for count, *stands in connection.execute(query)})


def _with_moves(
    connection: Connection,
    number: int | None,
    moves: Sequence[_Moving],
    standing: Counter[_Standing],
    has_gaps: bool,
) -> _OfGroup:
    """What a group's stripes lack, some of whose slots are being filled.

    Those with something noted as missing are gone through; what is left lacks nothing else.
    """
    found: _OfGroup = Counter()

    def add(noted: frozenset[int], stands: _Standing, count: int) -> None:
        lacking = {each.move.slot for each, behind in zip(moves, stands, strict=True) if each.lacks(behind)}
        found[noted | lacking] += count

    if has_gaps:
        slots = func.aggregate_strings(cast(missing.c.slot, String), ",").label("slots")
        chunk = and_(chunks.c.account == missing.c.account, chunks.c.id == missing.c.chunk)
        # From each row of what is missing to its chunk: the other way round would be through all chunks.
        query = (
            select(slots, *(each.flag for each in moves))
            .join_from(missing, chunks, chunk)
            .where(missing.c.group_id == moves[0].move.group)
            .group_by(missing.c.account, missing.c.chunk)
        )
        if number is not None:
            query = query.where(missing.c.account == number)
        kinds = query.subquery()
        for count, text, *behind in connection.execute(select(func.count(), *kinds.c).group_by(*kinds.c)):
            standing[tuple(behind)] -= count
            add(frozenset(map(int, text.split(","))), tuple(behind), count)
    for stands, count in standing.items():
        add(frozenset(), stands, count)
    return found
