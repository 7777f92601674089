"""The catalogue's side of comparing inventories: what must lie where, and what becomes of differences.

The pulse is a number that only grows and is durable before anybody is told of it.
Nodes remember the highest; a catalogue whose pulse is lower than what a node has heard
is an old copy of itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, exists, insert, select

from holdfast.coordinator.catalogue import erasures
from holdfast.coordinator.catalogue.missing import Gone, note_gone
from holdfast.coordinator.catalogue.nodes import all_nodes
from holdfast.coordinator.catalogue.schema import accounts, chunks, group_slots, groups, meta, missing, moves
from holdfast.coordinator.comparing import is_stray, judge
from holdfast.protocol.ids import AccountId, NodeId
from holdfast.protocol.inventories import Sum, position, position_parts
from holdfast.protocol.messages.nodes import DeletionEntry

__all__ = [
    "Expected",
    "SortedOut",
    "expected_positions",
    "expected_sum",
    "note_absent",
    "note_proven",
    "notice_pulse",
    "pulse",
    "raise_pulse",
    "sort_out",
]

_PULSE = "pulse"


def pulse(connection: Connection) -> int:
    """The catalogue's pulse; see the module."""
    return int(connection.execute(select(meta.c.number).where(meta.c.name == _PULSE)).scalar() or 0)


def raise_pulse(connection: Connection) -> int:
    """One more; gives the number that may be told when this is durable."""
    return _set_pulse(connection, pulse(connection) + 1)


def _set_pulse(connection: Connection, number: int) -> int:
    connection.execute(delete(meta).where(meta.c.name == _PULSE))
    connection.execute(insert(meta).values(name=_PULSE, number=number))
    return number


def notice_pulse(connection: Connection, told: int) -> bool:
    """A node has heard of this pulse. True: it is above the catalogue's own, which is therefore old."""
    if told <= pulse(connection):
        return False
    _set_pulse(connection, told)
    erasures.set_unreconciled(connection, True)
    return True


def note_proven(connection: Connection, compared: Set[NodeId]) -> bool:
    """All these nodes were compared: the catalogue is as good as it gets. False: it knows others by now."""
    is_so = all_nodes(connection).keys() <= compared
    if is_so:
        erasures.set_unreconciled(connection, False)
    return is_so


# What must lie in a slot


@dataclass(frozen=True, slots=True)
class Expected:
    """What a slot's holder must have: the group's version as of the look, and the sum of the positions."""

    version: int
    sum: Sum


def _must_be_there(group: int, slot: int) -> ColumnElement[bool]:
    """Stripes of a group whose shard in the slot is not noted as missing."""
    gap = exists().where(
        missing.c.account == chunks.c.account, missing.c.chunk == chunks.c.id, missing.c.slot == slot
    )
    return and_(chunks.c.group_id == group, ~gap)


def _held_version(connection: Connection, node: NodeId, group: int, slot: int) -> int | None:
    """The group's version, if the node holds the slot and no move is under way there."""
    query = (
        select(groups.c.version)
        .join(group_slots, group_slots.c.group_id == groups.c.id)
        .where(groups.c.id == group, group_slots.c.slot == slot, group_slots.c.node == bytes(node))
        .where(~exists().where(moves.c.group_id == group, moves.c.slot == slot))
    )
    version = connection.execute(query).scalar()
    return None if version is None else int(version)


def _positions(connection: Connection, query: Select[Any]) -> Iterator[bytes]:
    for row in connection.execute(query):
        yield position(row.account_id, row.id, row.generation)


_FIELDS = (accounts.c.id.label("account_id"), chunks.c.id, chunks.c.generation)


def expected_sum(connection: Connection, node: NodeId, group: int, slot: int) -> Expected | None:
    """What the node must have in the slot; None when it does not hold it, or it is being filled."""
    version = _held_version(connection, node, group, slot)
    if version is None:
        return None
    query = (
        select(*_FIELDS)
        .join(accounts, accounts.c.number == chunks.c.account)
        .where(_must_be_there(group, slot))
    )
    return Expected(version, Sum(_positions(connection, query)))


def expected_positions(
    connection: Connection, group: int, slot: int, after: bytes, until: bytes, most: int
) -> list[bytes]:
    """The first positions that must be in a slot, in order, behind one and up to another (b"": no bound)."""
    found: list[bytes] = []
    for number, account in _accounts_between(connection, group, after[:32], until[:32]):
        query = (
            select(*_FIELDS)
            .join(accounts, accounts.c.number == chunks.c.account)
            .where(chunks.c.account == number, _must_be_there(group, slot))
            .order_by(chunks.c.id)
            .limit(most + 1 - len(found))
        )
        if account == after[:32]:
            query = query.where(chunks.c.id >= after[32:64])
        if account == until[:32]:
            query = query.where(chunks.c.id <= until[32:64])
        for one in _positions(connection, query):
            if one > after and (not until or one <= until):
                found.append(one)
        if len(found) >= most:
            break
    return found[:most]


def _accounts_between(
    connection: Connection, group: int, first: bytes, last: bytes
) -> Iterator[tuple[int, bytes]]:
    """Accounts with chunks in a group, (number, id) in order of their ids."""
    here = exists().where(chunks.c.account == accounts.c.number, chunks.c.group_id == group)
    query = select(accounts.c.number, accounts.c.id).where(here).order_by(accounts.c.id)
    if first:
        query = query.where(accounts.c.id >= first)
    if last:
        query = query.where(accounts.c.id <= last)
    for row in connection.execute(query).all():
        yield row.number, row.id


# What becomes of the differences


def note_absent(
    connection: Connection, node: NodeId, group: int, slot: int, version: int, gone: Sequence[bytes]
) -> int:
    """Note shards that their holder does not have; gives how many.

    Nothing is noted when the group has changed since the look at what must be there: then
    somebody else may be the slot's holder, or it is being filled.
    """
    if _held_version(connection, node, group, slot) != version:
        return 0
    numbers: dict[AccountId, int | None] = {}
    found = []
    for packed in gone:
        account, chunk, generation = position_parts(packed)
        if account not in numbers:
            query = select(accounts.c.number).where(accounts.c.id == bytes(account))
            numbers[account] = connection.execute(query).scalar()
        number = numbers[account]
        if number is not None:
            found.append(Gone(number, chunk, generation, group, slot))
    return note_gone(connection, found, "inventory", renew=False)


@dataclass(slots=True)
class SortedOut:
    """Shards that lie on a node beside those that must: how many are used, wait, or were given up.

    Attributes:
        strays: stripes that no row names, and that this catalogue should perhaps know.
    """

    held: int = 0
    kept: int = 0
    freed: int = 0
    strays: list[DeletionEntry] = field(default_factory=list)

    def add(self, other: SortedOut) -> None:
        """Count together."""
        self.held += other.held
        self.kept += other.kept
        self.freed += other.freed
        self.strays += other.strays


def sort_out(
    connection: Connection,
    node: NodeId,
    shards: Sequence[DeletionEntry],
    away: Collection[NodeId],
    hold_s: int,
) -> SortedOut:
    """What becomes of shards that lie on a node beside those that must; see coordinator.comparing.

    Those that nobody needs are noted to be erased, by order and after a hold.
    """
    is_old = erasures.is_unreconciled(connection)
    decided = erasures.noted(connection, node, shards)
    found = SortedOut()
    free: list[DeletionEntry] = []
    for shard, facts in zip(shards, erasures.facts_of(connection, shards, away), strict=True):
        standing = judge(node, shard, facts, is_settled=True)
        if shard in decided:
            found.kept += 1
        elif standing != "held" and is_stray(shard, facts, is_unreconciled=is_old):
            found.strays.append(shard)
        elif standing == "free" and not is_old:
            free.append(shard)
        elif standing == "held":
            found.held += 1
        else:
            found.kept += 1
    found.freed = erasures.erase(connection, node, free, hold_s)
    return found
