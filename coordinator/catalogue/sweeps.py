"""Sweeps of one account: the lease with its fencing number, the marks, the seal.

A sweep goes: *marking* (the lease is held, marks come in) -> *sealed* (it counts: what is
neither marked nor held goes to the trash, in catalogue.trash) -> *done*; or *void* (given up,
or taken over). The number only grows, so whoever lost the lease is told by the number alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, insert, select, update

from holdfast.coordinator.catalogue.accounts import AccountRow
from holdfast.coordinator.catalogue.engine import batched
from holdfast.coordinator.catalogue.erasures import is_unreconciled
from holdfast.coordinator.catalogue.schema import (
    accounts,
    heads,
    pending_heads,
    sweep_marks,
    sweeps,
)
from holdfast.coordinator.catalogue.sums import chunk_totals
from holdfast.coordinator.limits import MARKS_DROPPED_AT_ONCE, MARKS_UNKNOWN_MAX
from holdfast.protocol.accounts import NO_DIGEST
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import BadRequest, Conflict, HeadMoved, Locked, SweepRefused
from holdfast.protocol.ids import ChunkId, DeviceId, Digest
from holdfast.protocol.limits import SWEEP_LEASE_MS
from holdfast.protocol.messages.sweep import LiveSet, live_set_digest
from holdfast.protocol.signing import Signed

__all__ = [
    "Sweep",
    "begin",
    "drop_old_marks",
    "end",
    "mark",
    "newest_sealed",
    "require",
    "require_reconciled",
    "seal",
]

_READ_AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep; ``generation`` 0 until it is sealed, then the account's since."""

    account: int
    number: int
    device: DeviceId
    state: str
    expires_ms: int
    head_seq: int
    head_digest: Digest
    generation: int
    marks: int
    trashed_chunks: int
    trashed_bytes: int


def _made(row: Row[Any]) -> Sweep:
    return Sweep(
        row.account,
        row.number,
        DeviceId(row.device),
        row.state,
        row.expires_ms,
        row.head_seq,
        Digest(row.head_digest),
        row.generation,
        row.marks,
        row.trashed_chunks,
        row.trashed_bytes,
    )


def _here(account: int, number: int) -> ColumnElement[bool]:
    return and_(sweeps.c.account == account, sweeps.c.number == number)


def require_reconciled(connection: Connection) -> None:
    """Raises SweepRefused while the catalogue may know less than the nodes."""
    if is_unreconciled(connection):
        raise SweepRefused(
            "nothing is swept now",
            why="the coordinator's catalogue was restored or rebuilt; it is being compared with the nodes",
            do="Wait until 'holdfast admin status' says that the comparison is done, then prune again.",
            reason="unreconciled",
        )


def _require_head(connection: Connection, account: AccountRow, seq: int, digest: Digest) -> None:
    """The newest head must be this one (number 0 and zeros: there is none)."""
    query = select(heads.c.seq, heads.c.digest).where(heads.c.account == account.number)
    row = connection.execute(query.order_by(heads.c.seq.desc()).limit(1)).one_or_none()
    newest = (row.seq, Digest(row.digest)) if row is not None else (0, NO_DIGEST)
    if newest != (seq, digest):
        raise HeadMoved(
            f"the account's head is at number {newest[0]} now",
            why="a snapshot was made or forgotten meanwhile",
            do="Prune again: it begins with what is there now.",
            seq=newest[0],
        )
    waiting = select(pending_heads.c.seq).where(pending_heads.c.account == account.number)
    pending_seq = connection.execute(waiting).scalar()
    if pending_seq is not None:
        # What it reaches is not in any live set made by the head before it.
        raise HeadMoved(
            f"head {pending_seq} of the account waits for its witnesses",
            why="a snapshot is being made",
            do="Prune again when it is there.",
            seq=newest[0],
        )


def begin(
    connection: Connection, account: AccountRow, device: DeviceId, seq: int, head: Digest, now_ms: int
) -> Sweep:
    """Take the lease, to sweep by a head. A device takes its own lease over at once.

    Args:
        now_ms: on the coordinator's steady clock.

    Raises:
        Locked: another device holds it; details: device, left_ms. HeadMoved: it is not the newest head.
        SweepRefused: the catalogue is not reconciled.
    """
    require_reconciled(connection)
    _require_head(connection, account, seq, head)
    query = select(sweeps).where(sweeps.c.account == account.number)
    row = connection.execute(query.order_by(sweeps.c.number.desc()).limit(1)).one_or_none()
    if row is not None and row.state == "marking" and row.device != bytes(device):
        left_ms = row.expires_ms - now_ms
        # A lease that ends later than any can is of another clock: the coordinator started anew.
        if 0 < left_ms <= SWEEP_LEASE_MS:
            raise Locked(
                f"another device of this account is pruning: {DeviceId(row.device).short}",
                why=f"its lease is good for {-(-left_ms // 1000)} s after its last sign of life",
                do="Wait until it is done, then run it again.",
                device=row.device.hex(),
                left_ms=left_ms,
            )
    connection.execute(
        update(sweeps)
        .where(sweeps.c.account == account.number, sweeps.c.state == "marking")
        .values(state="void")
    )
    stored, _ = chunk_totals(connection, account.number)
    number = 1 if row is None else row.number + 1
    made = {
        "account": account.number,
        "number": number,
        "device": bytes(device),
        "state": "marking",
        "expires_ms": now_ms + SWEEP_LEASE_MS,
        "head_seq": seq,
        "head_digest": bytes(head),
        "generation": 0,
        "marks": 0,
        "marks_max": 2 * stored + MARKS_UNKNOWN_MAX,
        "live": b"",
        "trashed_chunks": 0,
        "trashed_bytes": 0,
    }
    connection.execute(
        delete(sweeps).where(
            sweeps.c.account == account.number, sweeps.c.state.in_(["void", "done"]), sweeps.c.marks == 0
        )
    )
    connection.execute(insert(sweeps).values(**made))
    return require(connection, account, device, number)


def require(connection: Connection, account: AccountRow, device: DeviceId, number: int) -> Sweep:
    """A sweep of this device that nobody took over; raises Conflict."""
    row = connection.execute(select(sweeps).where(_here(account.number, number))).one_or_none()
    if row is None or row.device != bytes(device) or row.state == "void":
        raise Conflict(
            f"sweep {number} of this account has ended",
            why="it was given up, or another one was begun",
            do="Prune again.",
        )
    return _made(row)


def _require_marking(connection: Connection, account: AccountRow, device: DeviceId, number: int) -> Sweep:
    found = require(connection, account, device, number)
    if found.state != "marking":
        raise Conflict(f"sweep {number} of this account is sealed", do="Prune again.")
    return found


def mark(
    connection: Connection,
    account: AccountRow,
    device: DeviceId,
    number: int,
    reached: Sequence[ChunkId],
    now_ms: int,
) -> int:
    """Mark chunks as reached, and renew the lease; gives how many are marked. Again is fine.

    Chunks without a row are marked too: one that is stored meanwhile is not swept.

    Raises:
        Conflict: the lease was taken over, or the sweep is sealed. BadRequest: too many are marked.
    """
    marks = _require_marking(connection, account, device, number).marks
    fresh = list(dict.fromkeys(map(bytes, reached)))
    own = and_(sweep_marks.c.account == account.number, sweep_marks.c.number == number)
    for portion in batched(fresh):
        query = select(sweep_marks.c.chunk).where(own, sweep_marks.c.chunk.in_(portion))
        known = set(connection.execute(query).scalars())
        rows = [
            {"account": account.number, "number": number, "chunk": chunk}
            for chunk in portion
            if chunk not in known
        ]
        if rows:
            connection.execute(insert(sweep_marks), rows)
            marks += len(rows)
    most = connection.execute(select(sweeps.c.marks_max).where(_here(account.number, number))).scalar_one()
    if marks > most:
        raise BadRequest("a live set cannot have that many chunks", why=f"the bound is {most:,}")
    connection.execute(
        update(sweeps)
        .where(_here(account.number, number))
        .values(marks=marks, expires_ms=now_ms + SWEEP_LEASE_MS)
    )
    return marks


def seal(
    connection: Connection, account: AccountRow, device: DeviceId, live: LiveSet, signed: Signed
) -> Sweep:
    """Let a sweep count, in this one transaction; the account's sweep generation rises.

    Sealing again with the same words gives how far it is.

    Args:
        live, signed: the device's word, its signature verified; device is the one that signed it.

    Raises:
        Conflict: the lease was taken over; or the marks are not the live set that was signed.
        HeadMoved: the head is another one by now. SweepRefused: the catalogue is not reconciled.
    """
    found = require(connection, account, device, live.number)
    words = encode(signed)
    if found.state != "marking":
        sealed = connection.execute(select(sweeps.c.live).where(_here(account.number, live.number))).scalar()
        if sealed != words:
            raise Conflict(f"sweep {live.number} of this account is sealed with another live set")
        return found
    require_reconciled(connection)
    if (found.head_seq, found.head_digest) != (live.head_seq, live.head):
        raise Conflict("the live set is of another head than this sweep")
    _require_head(connection, account, live.head_seq, live.head)
    own = and_(sweep_marks.c.account == account.number, sweep_marks.c.number == live.number)
    marked = connection.execute(
        select(sweep_marks.c.chunk).where(own).order_by(sweep_marks.c.chunk)
    ).yield_per(_READ_AT_ONCE)
    if (found.marks, live_set_digest(marked.scalars())) != (live.count, live.chunks):
        raise Conflict(
            "the live set is not complete",
            why=f"{found.marks:,} chunks are marked and {live.count:,} were signed",
            do="Prune again.",
        )
    generation = account.sweep_generation + 1
    # An earlier sweep that still waits is overtaken: these marks are newer, and what it would sweep they do.
    connection.execute(
        update(sweeps)
        .where(sweeps.c.account == account.number, sweeps.c.state == "sealed")
        .values(state="done")
    )
    connection.execute(
        update(sweeps)
        .where(_here(account.number, live.number))
        .values(state="sealed", generation=generation, live=words)
    )
    connection.execute(
        update(accounts).where(accounts.c.number == account.number).values(sweep_generation=generation)
    )
    return require(connection, account, device, live.number)


def end(connection: Connection, account: AccountRow, device: DeviceId, number: int) -> None:
    """Give up the lease; what is sealed goes on. Again, or of what never was, is fine."""
    connection.execute(
        update(sweeps)
        .where(_here(account.number, number), sweeps.c.device == bytes(device), sweeps.c.state == "marking")
        .values(state="void")
    )


def newest_sealed(connection: Connection, account: int) -> Sweep | None:
    """The sweep that counts and is not done, of an account (its number)."""
    query = select(sweeps).where(sweeps.c.account == account, sweeps.c.state == "sealed")
    row = connection.execute(query.order_by(sweeps.c.number.desc()).limit(1)).one_or_none()
    return _made(row) if row is not None else None


def drop_old_marks(connection: Connection) -> bool:
    """Forget some marks of a sweep that is over. Gives whether there may be more.

    The newest sweep of an account keeps its row, for its number.
    """
    over = and_(sweeps.c.state.in_(["void", "done"]), sweeps.c.marks > 0)
    row = connection.execute(select(sweeps.c.account, sweeps.c.number).where(over).limit(1)).one_or_none()
    if row is None:
        return False
    own = and_(sweep_marks.c.account == row.account, sweep_marks.c.number == row.number)
    some = connection.execute(select(sweep_marks.c.chunk).where(own).limit(MARKS_DROPPED_AT_ONCE))
    ids = list(some.scalars())
    for portion in batched(ids):
        connection.execute(delete(sweep_marks).where(own, sweep_marks.c.chunk.in_(portion)))
    if not ids:
        connection.execute(update(sweeps).where(_here(row.account, row.number)).values(marks=0))
    return True
