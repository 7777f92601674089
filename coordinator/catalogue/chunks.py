"""Chunks: claim, commit, locate, and what is missing of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from holdfast.coordinator.catalogue.accounts import AccountRow
from holdfast.coordinator.catalogue.engine import batched
from holdfast.coordinator.catalogue.prepared import Prepared
from holdfast.coordinator.catalogue.schema import chunks, missing
from holdfast.coordinator.catalogue.schema import groups as group_rows
from holdfast.coordinator.catalogue.uploads import UploadRow, take_quota
from holdfast.coordinator.placement import Group
from holdfast.coordinator.quorum import DurableStripe
from holdfast.protocol.errors import BadRequest, GroupMoved
from holdfast.protocol.failpoints import reached
from holdfast.protocol.ids import ChunkId, Digest, NodeId, UploadId
from holdfast.protocol.messages.uploads import (
    CommittedChunk,
    LocatedChunk,
    ReportEntry,
    SendChunk,
    StoredChunk,
)

__all__ = ["claim", "commit", "locate", "missing_by_chunk", "note_reports"]


_ROWS: Final = Prepared(
    select(
        chunks.c.id,
        chunks.c.generation,
        chunks.c.group_id,
        chunks.c.sealed_bytes,
        chunks.c.stripe,
        chunks.c.pin,
        chunks.c.state,
    ).where(chunks.c.account == bindparam("account"), chunks.c.id.in_(bindparam("ids", expanding=True)))
)
_MISSING: Final = Prepared(
    select(missing.c.chunk, missing.c.slot).where(
        missing.c.account == bindparam("account"), missing.c.chunk.in_(bindparam("ids", expanding=True))
    )
)
_PIN: Final = Prepared(
    update(chunks)
    .where(chunks.c.account == bindparam("number"), chunks.c.id.in_(bindparam("ids", expanding=True)))
    .values(pin=bindparam("generation"), state="live", trashed_ms=None)
)
_ADD: Final = Prepared(
    insert(chunks).values(state="live"),
    columns=("account", "id", "generation", "group_id", "group_version", "sealed_bytes", "stripe", "pin"),
)
_ADD_MISSING: Final = Prepared(
    insert(missing).values(why="unwritten"), columns=("account", "chunk", "group_id", "slot")
)
_GROUPS: Final = Prepared(
    select(group_rows.c.id, group_rows.c.version).where(group_rows.c.id.in_(bindparam("ids", expanding=True)))
)


@dataclass(frozen=True, slots=True)
class _Row:
    generation: UploadId
    group: int
    sealed_bytes: int
    stripe: Digest
    pin: int
    state: str
    missing: frozenset[int]

    def is_pinned(self, account: AccountRow) -> bool:
        return self.pin == account.sweep_generation and self.state == "live"

    def holds(self, stripe: DurableStripe, upload: UploadId) -> bool:
        """Is it this very stripe, by this upload? Then a commit only brings later receipts."""
        return (self.generation, self.group, self.stripe) == (upload, stripe.group.id, stripe.stripe)


def _rows(connection: Connection, account: AccountRow, wanted: Sequence[ChunkId]) -> dict[ChunkId, _Row]:
    """The rows there are, with their missing slots."""
    found: list[tuple[Any, ...]] = []
    for portion in batched(list(dict.fromkeys(wanted))):
        ids = [bytes(chunk) for chunk in portion]
        found.extend(_ROWS.rows(connection, account=account.number, ids=ids))
    if not found:
        return {}
    there = {ChunkId(row[0]): row for row in found}
    gone = missing_by_chunk(connection, account, list(there))
    nothing: frozenset[int] = frozenset()
    return {
        chunk: _Row(UploadId(upload), group, size, Digest(stripe), pin, state, gone.get(chunk, nothing))
        for chunk, (_, upload, group, size, stripe, pin, state) in there.items()
    }


def missing_by_chunk(
    connection: Connection, account: AccountRow, wanted: Sequence[ChunkId]
) -> dict[ChunkId, frozenset[int]]:
    """Slots noted as missing."""
    slots: dict[ChunkId, set[int]] = defaultdict(set)
    for portion in batched(list(dict.fromkeys(wanted))):
        ids = [bytes(chunk) for chunk in portion]
        for chunk, slot in _MISSING.rows(connection, account=account.number, ids=ids):
            slots[ChunkId(chunk)].add(slot)
    return {chunk: frozenset(found) for chunk, found in slots.items()}


def claim(
    connection: Connection,
    account: AccountRow,
    upload: UploadRow,
    wanted: Sequence[ChunkId],
    groups: Mapping[int, Group],
    bare: Mapping[int, Collection[int]] | None = None,
) -> tuple[list[StoredChunk | None], list[SendChunk | None]]:
    """What is stored already, and what is to be sent.

    "Stored" needs k shards not known to be missing or lost; it pins the row to the account's
    present sweep generation and revives it from the trash.

    Args:
        bare: slots by group whose shards may all be gone: their holder is lost, or they are still
            being filled and the holder before is gone.
    """
    lost = bare or {}
    rows = _rows(connection, account, wanted)
    stored: list[StoredChunk | None] = []
    send: list[SendChunk | None] = []
    pinned: list[ChunkId] = []
    for chunk in wanted:
        row = rows.get(chunk)
        profile = groups[row.group].profile if row is not None else None
        gone = row.missing.union(lost.get(row.group, ())) if row is not None else frozenset()
        if row is None or profile is None:
            stored.append(None)
            send.append(SendChunk(b""))
        elif row.state == "erasing" or profile.n - len(gone) < profile.k:
            stored.append(None)
            send.append(SendChunk(row.generation))
        else:
            stored.append(StoredChunk(row.generation, profile.k, profile.m, row.stripe))
            send.append(None)
            if not row.is_pinned(account):
                pinned.append(chunk)
    _pin(connection, account, pinned)
    return stored, send


def _pin(connection: Connection, account: AccountRow, pinned: Sequence[ChunkId]) -> None:
    """Hold rows against the sweep that is to come, and take them out of the trash."""
    for portion in batched(pinned):
        ids = [bytes(chunk) for chunk in portion]
        _PIN.run(connection, number=account.number, ids=ids, generation=account.sweep_generation)


def commit(
    connection: Connection,
    account: AccountRow,
    upload: UploadRow,
    stripes: Sequence[DurableStripe],
    beside_bytes: int = 0,
) -> list[CommittedChunk]:
    """Insert rows for stripes at their write quorum; note slots without a receipt as missing.

    A row that is there stays, and is pinned, unless claim told to replace its very generation.
    Committing the same stripe again with more receipts clears its missing slots.

    Args:
        beside_bytes: what the same transaction stores for the upload beside the stripes.

    Raises:
        GroupMoved: a group changed since the stripes were judged.
        QuotaExceeded: the account's quota does not hold them.
        BadRequest: a chunk is named twice.
    """
    if len({stripe.chunk for stripe in stripes}) != len(stripes):
        raise BadRequest("a commit names each chunk once")
    _require_groups(connection, {stripe.group.id: stripe.group.version for stripe in stripes})
    rows = _rows(connection, account, [stripe.chunk for stripe in stripes])
    answers: list[CommittedChunk] = []
    fresh: list[DurableStripe] = []
    replaced: list[ChunkId] = []
    pinned: list[ChunkId] = []
    added = 0
    for stripe in stripes:
        row = rows.get(stripe.chunk)
        if row is not None and row.holds(stripe, upload.id):
            gained = row.missing & stripe.durable
            if gained:
                _clear(connection, account, stripe.chunk, gained)
            answers.append(CommittedChunk(row.generation, len(row.missing - gained)))
        elif row is not None and row.generation != stripe.replaces:
            if not row.is_pinned(account) and row.state != "erasing":
                pinned.append(stripe.chunk)
            answers.append(CommittedChunk(row.generation, len(row.missing)))
        else:
            if row is not None:
                replaced.append(stripe.chunk)
                added -= row.sealed_bytes
            added += stripe.sealed_bytes
            fresh.append(stripe)
            answers.append(CommittedChunk(upload.id, len(stripe.missing)))
    take_quota(connection, account, upload, added + beside_bytes)
    _pin(connection, account, pinned)
    _remove(connection, account, replaced)
    _insert(connection, account, upload, fresh)
    reached("coordinator.commit.written")
    return answers


def _require_groups(connection: Connection, judged: Mapping[int, int]) -> None:
    """The groups (id -> version) must still be at the versions that the receipts were judged by."""
    for portion in batched(list(judged)):
        now = dict(_GROUPS.rows(connection, ids=portion))
        for group in portion:
            if now.get(group) != judged[group]:
                raise GroupMoved(f"group {group} has moved on", group=group)


def _clear(connection: Connection, account: AccountRow, chunk: ChunkId, slots: frozenset[int]) -> None:
    connection.execute(
        delete(missing).where(
            missing.c.account == account.number,
            missing.c.chunk == bytes(chunk),
            missing.c.slot.in_(sorted(slots)),
        )
    )


def _remove(connection: Connection, account: AccountRow, gone: Sequence[ChunkId]) -> None:
    for portion in batched(gone):
        ids = [bytes(chunk) for chunk in portion]
        connection.execute(delete(chunks).where(chunks.c.account == account.number, chunks.c.id.in_(ids)))
        connection.execute(
            delete(missing).where(missing.c.account == account.number, missing.c.chunk.in_(ids))
        )


def _insert(
    connection: Connection, account: AccountRow, upload: UploadRow, stripes: Sequence[DurableStripe]
) -> None:
    if not stripes:
        return
    _ADD.run_each(
        connection,
        [
            {
                "account": account.number,
                "id": bytes(stripe.chunk),
                "generation": bytes(upload.id),
                "group_id": stripe.group.id,
                "group_version": stripe.group.version,
                "sealed_bytes": stripe.sealed_bytes,
                "stripe": bytes(stripe.stripe),
                "pin": account.sweep_generation,
            }
            for stripe in stripes
        ],
    )
    gone = [
        {
            "account": account.number,
            "chunk": bytes(stripe.chunk),
            "group_id": stripe.group.id,
            "slot": slot,
        }
        for stripe in stripes
        for slot in stripe.missing
    ]
    if gone:
        _ADD_MISSING.run_each(connection, gone)


def locate(
    connection: Connection, account: AccountRow, wanted: Sequence[ChunkId]
) -> list[LocatedChunk | None]:
    """Where chunks lie; trash is served too."""
    rows = _rows(connection, account, wanted)
    return [
        LocatedChunk(row.group, row.generation, row.sealed_bytes, row.stripe, sorted(row.missing))
        if (row := rows.get(chunk)) is not None
        else None
        for chunk in wanted
    ]


def note_reports(
    connection: Connection,
    account: AccountRow,
    entries: Sequence[ReportEntry],
    groups: Mapping[int, Group],
    moving: Collection[tuple[int, int]] = (),
) -> int:
    """Note slots of the reporter's own chunks as missing; gives how many were new.

    Only what the catalogue could have believed counts: the generation must be the row's and the
    node the slot's present holder. A slot that is being filled is not there yet, and is proven anyway.
    """
    rows = _rows(connection, account, [entry.chunk for entry in entries])
    noted: set[tuple[ChunkId, int]] = set()
    for entry in entries:
        row = rows.get(entry.chunk)
        if row is None or row.generation != entry.generation or entry.slot in row.missing:
            continue
        group = groups[row.group]
        if not 0 <= entry.slot < group.profile.n or group.members[entry.slot] != NodeId(entry.node):
            continue
        if (group.id, entry.slot) in moving:
            continue
        if (entry.chunk, entry.slot) not in noted:
            noted.add((entry.chunk, entry.slot))
            connection.execute(
                insert(missing).values(
                    account=account.number,
                    chunk=bytes(entry.chunk),
                    group_id=row.group,
                    slot=entry.slot,
                    why="reported",
                )
            )
    return len(noted)
