"""Stray shards: noted as they are found on nodes, adopted as rows, or given up. See coordinator.adopting.

A stripe of which k shards were found is never given up, even where it cannot be adopted now
(its account is not known to this catalogue, or its group cannot be made).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, delete, distinct, func, insert, select, tuple_, update

from holdfast.coordinator.adopting import FoundGroup, FoundShard, FoundStripe, SlotCount, fullest
from holdfast.coordinator.catalogue import erasures
from holdfast.coordinator.catalogue.engine import batched
from holdfast.coordinator.catalogue.nodes import all_groups, raise_epoch
from holdfast.coordinator.catalogue.prepared import Prepared
from holdfast.coordinator.catalogue.schema import (
    accounts,
    chunks,
    group_slots,
    groups,
    missing,
    strays,
)
from holdfast.coordinator.placement import Group
from holdfast.protocol.ids import AccountId, ChunkId, Digest, NodeId, UploadId
from holdfast.protocol.messages.nodes import DeletionEntry
from holdfast.protocol.profiles import Profile

__all__ = [
    "Adopted",
    "StrayCursor",
    "adopt",
    "count_strays",
    "forget_strays",
    "make_groups",
    "note_strays",
    "unknown_groups",
]

StrayCursor = tuple[bytes, bytes]
"""(account, chunk): everything up to it was looked at."""

_COUNT: Final = Prepared(select(func.count()).select_from(strays))


def note_strays(connection: Connection, node: NodeId, found: Sequence[FoundShard]) -> bool:
    """Keep what was found on a node, once; True when it makes a stripe readable that no row names."""
    is_readable = False
    for portion in batched(found):
        chunk_ids = list({bytes(shard.chunk) for shard in portion})
        here = select(*_KEY).where(strays.c.node == bytes(node), strays.c.chunk.in_(chunk_ids))
        known = {tuple(row) for row in connection.execute(here)}
        fresh = {
            tuple(key.values()): shard
            for shard in portion
            if tuple((key := _key(shard)).values()) not in known
        }
        if fresh:
            connection.execute(insert(strays), [_values(shard) for shard in fresh.values()])
        stripes = (
            select(
                strays.c.k,
                func.count(distinct(strays.c.slot)).label("slots"),
                func.count(distinct(strays.c.node)).label("nodes"),
            )
            .where(strays.c.chunk.in_(chunk_ids))
            .group_by(strays.c.account, strays.c.chunk, strays.c.generation, strays.c.group_id, strays.c.k)
        )
        is_readable |= any(min(row.slots, row.nodes) >= row.k for row in connection.execute(stripes))
    return is_readable


_KEY = (
    strays.c.account,
    strays.c.chunk,
    strays.c.generation,
    strays.c.group_id,
    strays.c.slot,
    strays.c.node,
)


def _key(shard: FoundShard) -> dict[str, Any]:
    return {
        "account": bytes(shard.account),
        "chunk": bytes(shard.chunk),
        "generation": bytes(shard.generation),
        "group_id": shard.group,
        "slot": shard.slot,
        "node": bytes(shard.node),
    }


def _values(shard: FoundShard) -> dict[str, Any]:
    return {
        **_key(shard),
        "k": shard.profile.k,
        "m": shard.profile.m,
        "sealed_bytes": shard.sealed_bytes,
        "stripe": bytes(shard.stripe),
    }


def forget_strays(connection: Connection, node: NodeId) -> None:
    """A node is compared anew, or is gone: what was found on it before says nothing any more."""
    connection.execute(delete(strays).where(strays.c.node == bytes(node)))


def count_strays(connection: Connection) -> int:
    """How many shards are noted."""
    ((count,),) = _COUNT.rows(connection)
    return int(count)


# Groups that this catalogue does not know


def unknown_groups(connection: Connection) -> list[SlotCount]:
    """How many strays of each slot of unknown groups lie on which node."""
    key = (strays.c.group_id, strays.c.slot, strays.c.k, strays.c.m, strays.c.node)
    query = (
        select(*key, func.count())
        .where(strays.c.group_id.not_in(select(groups.c.id)))
        .group_by(*key)
        .order_by(*key)
    )
    return [
        SlotCount(row[0], row[1], Profile(row[2], row[3]), NodeId(row[4]), int(row[5]))
        for row in connection.execute(query)
    ]


def make_groups(connection: Connection, made: Iterable[FoundGroup], usual: Profile | None) -> None:
    """Take groups up under the ids that the shards carry."""
    fresh = False
    for group in made:
        if connection.execute(select(groups.c.id).where(groups.c.id == group.id)).scalar() is not None:
            continue
        fresh = True
        kind = "usual" if group.profile == usual else "fallback"
        connection.execute(
            insert(groups).values(id=group.id, version=1, k=group.profile.k, m=group.profile.m, kind=kind)
        )
        connection.execute(
            insert(group_slots),
            [
                {"group_id": group.id, "slot": slot, "node": bytes(node)}
                for slot, node in enumerate(group.members)
            ],
        )
    if fresh:
        raise_epoch(connection)


# What becomes of strays


@dataclass(slots=True)
class Adopted:
    """What one look at some chunks' strays came to.

    Attributes:
        chunks, sealed_bytes: rows made.
        freed: shards that were given up.
        waiting: shards of stripes that can be read, and have no row yet.
        last: the last chunk looked at; None: there are no more.
    """

    chunks: int = 0
    sealed_bytes: int = 0
    freed: int = 0
    waiting: int = 0
    last: StrayCursor | None = None


def adopt(connection: Connection, after: StrayCursor, most: int, *, hold_s: int, may_free: bool) -> Adopted:
    """Look at the strays of up to ``most`` chunks: make rows of stripes, give up what nobody can use.

    Args:
        hold_s: for how long nodes keep what is given up.
        may_free: every node was looked at, and nobody can still be storing what this catalogue does not
            know of: so fewer than k shards are all there is.
    """
    found = Adopted()
    key = (strays.c.account, strays.c.chunk)
    names = connection.execute(
        select(*key).where(tuple_(*key) > tuple_(*after)).group_by(*key).order_by(*key).limit(most)
    ).all()
    known = all_groups(connection)
    free: dict[NodeId, list[DeletionEntry]] = defaultdict(list)
    for account, names_here in groupby(names, key=lambda row: bytes(row.account)):
        wanted = [bytes(row.chunk) for row in names_here]
        for portion in batched(wanted):
            rows = connection.execute(
                select(strays).where(strays.c.account == account, strays.c.chunk.in_(portion)).order_by(*_KEY)
            ).all()
            for _, shards in groupby(rows, key=lambda row: bytes(row.chunk)):
                _adopt_chunk(connection, [_found(row) for row in shards], known, found, free, may_free)
    for node, entries in free.items():
        found.freed += erasures.erase(connection, node, entries, hold_s)
        _drop(connection, node, entries)
    found.last = (bytes(names[-1].account), bytes(names[-1].chunk)) if len(names) == most else None
    return found


def _found(row: Row[Any]) -> FoundShard:
    return FoundShard(
        NodeId(row.node),
        AccountId(row.account),
        ChunkId(row.chunk),
        UploadId(row.generation),
        row.group_id,
        row.slot,
        Profile(row.k, row.m),
        row.sealed_bytes,
        Digest(row.stripe),
    )


def _adopt_chunk(
    connection: Connection,
    shards: list[FoundShard],
    known: dict[int, Group],
    found: Adopted,
    free: dict[NodeId, list[DeletionEntry]],
    may_free: bool,
) -> None:
    """One chunk: its fullest stripe becomes its row, unless the row it has is as full."""
    account = connection.execute(
        select(accounts.c.number, accounts.c.sweep_generation).where(
            accounts.c.id == bytes(shards[0].account)
        )
    ).one_or_none()
    stripe = fullest(shard for shard in shards if _fits(shard, known))
    left = shards
    if account is not None and stripe is not None:
        group = known[stripe.group]
        if len(stripe.lacking(group.members)) > group.profile.m:
            found.waiting += len(
                shards
            )  # its holders do not have it: a slot has moved, or it is another group
            return
        row = _row_beside(connection, account.number, stripe, group, known)
        if row == "worse":
            _insert(connection, account.number, account.sweep_generation, stripe, group)
            found.chunks += 1
            found.sealed_bytes += stripe.sealed_bytes
        if row != "better":
            here = (stripe.generation, stripe.group)
            left = [shard for shard in shards if (shard.generation, shard.group) != here]
            _drop_stripe(connection, stripe)
    elif fullest(shards) is not None:
        found.waiting += len(shards)
        return
    if may_free:
        for shard in left:
            free[shard.node].append(_entry(shard))
    else:
        found.waiting += len(left)


def _fits(shard: FoundShard, known: dict[int, Group]) -> bool:
    group = known.get(shard.group)
    return group is not None and group.profile == shard.profile


def _entry(shard: FoundShard) -> DeletionEntry:
    return DeletionEntry(shard.group, shard.slot, shard.account, shard.chunk, shard.generation)


def _drop(connection: Connection, node: NodeId, entries: Collection[DeletionEntry]) -> None:
    for entry in entries:
        connection.execute(
            delete(strays).where(
                strays.c.account == bytes(entry.account),
                strays.c.chunk == bytes(entry.chunk),
                strays.c.generation == bytes(entry.generation),
                strays.c.group_id == entry.group,
                strays.c.slot == entry.slot,
                strays.c.node == bytes(node),
            )
        )


def _drop_stripe(connection: Connection, stripe: FoundStripe) -> None:
    connection.execute(
        delete(strays).where(
            strays.c.account == bytes(stripe.account),
            strays.c.chunk == bytes(stripe.chunk),
            strays.c.generation == bytes(stripe.generation),
            strays.c.group_id == stripe.group,
        )
    )


def _row_beside(
    connection: Connection, account: int, stripe: FoundStripe, group: Group, known: dict[int, Group]
) -> Literal["same", "better", "worse"]:
    """How the chunk's row, if there is one, compares with a stripe that was found."""
    here = (chunks.c.account == account, chunks.c.id == bytes(stripe.chunk))
    row = connection.execute(select(chunks.c.generation, chunks.c.group_id).where(*here)).one_or_none()
    if row is None:
        return "worse"
    if (row.generation, row.group_id) == (bytes(stripe.generation), stripe.group):
        return "same"
    gone = select(func.count()).where(missing.c.account == account, missing.c.chunk == bytes(stripe.chunk))
    there = known[row.group_id].profile.n - int(connection.execute(gone).scalar() or 0)
    return "worse" if there < group.profile.n - len(stripe.lacking(group.members)) else "better"


def _insert(
    connection: Connection, account: int, sweep_generation: int, stripe: FoundStripe, group: Group
) -> None:
    """The row, in the place of the one there was; pinned, so that a sweep under way leaves it alone."""
    chunk = bytes(stripe.chunk)
    here = (chunks.c.account == account, chunks.c.id == chunk)
    before = connection.execute(select(chunks.c.sealed_bytes).where(*here)).scalar() or 0
    connection.execute(delete(chunks).where(*here))
    connection.execute(delete(missing).where(missing.c.account == account, missing.c.chunk == chunk))
    connection.execute(
        insert(chunks).values(
            account=account,
            id=chunk,
            generation=bytes(stripe.generation),
            group_id=group.id,
            group_version=0,
            sealed_bytes=stripe.sealed_bytes,
            stripe=bytes(stripe.stripe),
            pin=sweep_generation,
            state="live",
        )
    )
    gone = stripe.lacking(group.members)
    if gone:
        values = {"account": account, "chunk": chunk, "group_id": group.id, "why": "inventory"}
        connection.execute(insert(missing), [{**values, "slot": slot} for slot in gone])
    connection.execute(
        update(accounts)
        .where(accounts.c.number == account)
        .values(used_bytes=accounts.c.used_bytes + stripe.sealed_bytes - before)
    )
