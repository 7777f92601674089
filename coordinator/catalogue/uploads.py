"""Uploads: opened, kept alive, ended, or abandoned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, bindparam, func, insert, select, update

from holdfast.coordinator.catalogue.accounts import AccountRow
from holdfast.coordinator.catalogue.prepared import Prepared
from holdfast.coordinator.catalogue.schema import accounts, uploads
from holdfast.coordinator.limits import UPLOADS_OPEN_MAX
from holdfast.protocol.errors import Conflict, QuotaExceeded, UploadEnded
from holdfast.protocol.ids import DeviceId, UploadId
from holdfast.protocol.limits import UPLOAD_SILENCE_MS

__all__ = [
    "UploadRow",
    "count_open",
    "end_upload",
    "expire_uploads",
    "hear_again",
    "open_upload",
    "renew_upload",
    "require_open",
    "take_quota",
]


_BY_ID: Final = Prepared(
    select(
        uploads.c.account,
        uploads.c.device,
        uploads.c.state,
        uploads.c.reserved_bytes,
        uploads.c.sweep_generation,
        uploads.c.head_seq,
    ).where(uploads.c.id == bindparam("id"))
)
_RUNNING: Final = Prepared(
    select(func.count()).where(uploads.c.account == bindparam("account"), uploads.c.state == "open")
)
_RESERVED: Final = Prepared(
    select(func.coalesce(func.sum(uploads.c.reserved_bytes), 0)).where(
        uploads.c.account == bindparam("account"), uploads.c.state == "open", uploads.c.id != bindparam("own")
    )
)
_RESERVE: Final = Prepared(
    update(uploads).where(uploads.c.id == bindparam("upload")).values(reserved_bytes=bindparam("left"))
)
_OPEN: Final = Prepared(insert(uploads))
_USED: Final = Prepared(
    update(accounts)
    .where(accounts.c.number == bindparam("account"))
    .values(used_bytes=accounts.c.used_bytes + bindparam("added"))
)
_RENEW: Final = Prepared(
    update(uploads).where(uploads.c.id == bindparam("upload")).values(renewed_ms=bindparam("now_ms"))
)
_END: Final = Prepared(
    update(uploads)
    .where(uploads.c.id == bindparam("upload"), uploads.c.account == bindparam("number"))
    .values(state="ended", reserved_bytes=0)
)


@dataclass(frozen=True, slots=True)
class UploadRow:
    """An upload; ``head_seq`` and ``sweep_generation`` as they were when it opened."""

    id: UploadId
    account: int
    device: DeviceId
    state: str
    reserved_bytes: int
    sweep_generation: int
    head_seq: int


def _find(connection: Connection, upload: UploadId) -> UploadRow | None:
    row = _BY_ID.row(connection, id=bytes(upload))
    if row is None:
        return None
    account, device, *rest = row
    return UploadRow(upload, account, DeviceId(device), *rest)


def _require_room(connection: Connection, account: AccountRow, wanted: int, own: UploadId) -> None:
    """Is there room for so many bytes beside what is used, and what other uploads have reserved?"""
    if not account.quota_bytes:
        return  # nothing bounds what is reserved then: the sum may be more than the database counts to
    ((reserved,),) = _RESERVED.rows(connection, account=account.number, own=bytes(own))
    taken = account.used_bytes + int(reserved)
    if taken + wanted > account.quota_bytes:
        raise QuotaExceeded(
            f"the account's quota of {account.quota_bytes:,} bytes does not hold this backup",
            why=f"{taken:,} are used or reserved and {wanted:,} more are wanted",
            do="Ask the operator for more room, or back up less.",
            quota_bytes=account.quota_bytes,
            used_bytes=account.used_bytes,
        )


def take_quota(connection: Connection, account: AccountRow, upload: UploadRow, added: int) -> None:
    """Count bytes that an upload stored; what it had reserved goes first.

    Raises:
        QuotaExceeded: the account's quota does not hold them.
    """
    if added > 0:
        _require_room(connection, account, added, upload.id)
        left = max(0, upload.reserved_bytes - added)
        if left != upload.reserved_bytes:
            _RESERVE.run(connection, upload=bytes(upload.id), left=left)
    if added:
        _USED.run(connection, account=account.number, added=added)


def open_upload(
    connection: Connection,
    account: AccountRow,
    upload: UploadId,
    device: DeviceId,
    expected_bytes: int,
    now_ms: int,
) -> UploadRow:
    """Open an upload under the client's own random id; asking again is fine while it is open.

    Raises:
        QuotaExceeded: the expected bytes do not fit.
        Conflict: the id is another account's or device's, or the account has too many open.
        UploadEnded: it has ended already.
    """
    known = _find(connection, upload)
    if known is not None:
        if known.account != account.number or known.device != device:
            raise Conflict("this upload id is taken", do="Draw another one.")
        return require_open(connection, account, upload)
    ((running,),) = _RUNNING.rows(connection, account=account.number)
    if running >= UPLOADS_OPEN_MAX:
        raise Conflict(
            f"the account has {UPLOADS_OPEN_MAX} backups under way",
            do=f"Wait until some have ended; abandoned ones end after {UPLOAD_SILENCE_MS // 60_000} minutes.",
        )
    _require_room(connection, account, expected_bytes, upload)
    opened = UploadRow(
        upload, account.number, device, "open", expected_bytes, account.sweep_generation, account.head_seq
    )
    _OPEN.run(
        connection,
        id=bytes(upload),
        account=opened.account,
        device=bytes(device),
        state=opened.state,
        opened_ms=now_ms,
        renewed_ms=now_ms,
        reserved_bytes=opened.reserved_bytes,
        sweep_generation=opened.sweep_generation,
        head_seq=opened.head_seq,
    )
    return opened


def require_open(connection: Connection, account: AccountRow, upload: UploadId) -> UploadRow:
    """The open upload of this account; raises UploadEnded."""
    found = _find(connection, upload)
    if found is None or found.account != account.number or found.state != "open":
        raise UploadEnded(
            f"upload {upload.short} has ended",
            do="Run the backup again: what it stored is not sent twice.",
        )
    return found


def renew_upload(connection: Connection, account: AccountRow, upload: UploadId, now_ms: int) -> UploadRow:
    """A sign of life; raises UploadEnded."""
    found = require_open(connection, account, upload)
    _RENEW.run(connection, upload=bytes(upload), now_ms=now_ms)
    return found


def end_upload(connection: Connection, account: AccountRow, upload: UploadId) -> None:
    """End it; ending twice, or what was never opened, is fine."""
    _END.run(connection, upload=bytes(upload), number=account.number)


def hear_again(connection: Connection, now_ms: int) -> None:
    """After a start of the coordinator: nobody could renew while it was away, so silence counts from now."""
    connection.execute(update(uploads).where(uploads.c.state == "open").values(renewed_ms=now_ms))


def expire_uploads(connection: Connection, now_ms: int) -> int:
    """End uploads that have been silent for UPLOAD_SILENCE_MS; gives how many."""
    done = connection.execute(
        update(uploads)
        .where(uploads.c.state == "open", uploads.c.renewed_ms < now_ms - UPLOAD_SILENCE_MS)
        .values(state="ended", reserved_bytes=0)
    )
    return done.rowcount


def count_open(connection: Connection) -> int:
    """How many uploads are open."""
    query = select(func.count()).select_from(uploads).where(uploads.c.state == "open")
    return int(connection.execute(query).scalar() or 0)
