"""Heads, snapshot lists and snapshot records."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from blake3 import blake3
from sqlalchemy import Connection, func, insert, select, update

from holdfast.coordinator.catalogue.accounts import AccountRow
from holdfast.coordinator.catalogue.engine import batched
from holdfast.coordinator.catalogue.schema import accounts, heads, snapshot_records
from holdfast.coordinator.catalogue.uploads import require_open, take_quota
from holdfast.protocol.accounts import (
    NO_DIGEST,
    SnapshotList,
    open_device_list,
    open_head,
    open_snapshot_list,
    signed_digest,
)
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import BadRequest, HeadMoved, SweptSince
from holdfast.protocol.failpoints import reached
from holdfast.protocol.ids import ClusterId, SnapshotId
from holdfast.protocol.limits import (
    HEAD_LINKS_MAX,
    HEAD_NEW_RECORDS_MAX,
    MESSAGE_BYTES_MAX,
    RECORDS_FETCH_MAX,
    SNAPSHOT_RECORD_BYTES_MAX,
)
from holdfast.protocol.messages.heads import HeadState, PostHead
from holdfast.protocol.signing import Signed

__all__ = ["head_state", "post_head", "records"]


def _newest(connection: Connection, account: AccountRow) -> tuple[int, Signed, bytes, int] | None:
    """(seq, head, snapshot list, device-list seq) of the newest head."""
    row = connection.execute(
        select(heads).where(heads.c.account == account.number).order_by(heads.c.seq.desc()).limit(1)
    ).one_or_none()
    return (row.seq, decode(row.signed, Signed), row.snapshot_list, row.device_list_seq) if row else None


def post_head(
    connection: Connection,
    cluster: ClusterId,
    account: AccountRow,
    posted: PostHead,
    now_ms: int,
) -> HeadState:
    """Compare-and-swap on (seq, previous hash). Posting the current head again succeeds.

    Returns:
        The state with the posted head in it.

    Raises:
        HeadMoved: another head is there; details: seq.
        UploadEnded: its upload has ended. SweptSince: it started before the last sweep.
        QuotaExceeded: the new records do not fit.
        Refused, Rollback, ForkDetected, BadRequest: see protocol.accounts.open_head.
    """
    newest = _newest(connection, account)
    if newest is not None and newest[1] == posted.head:
        return HeadState(head=posted.head, snapshot_list=newest[2], links=[posted.head])
    # The list as it is now: the one that the request was admitted by may have been replaced since.
    head = open_head(
        posted.head,
        cluster,
        open_device_list(account.device_list, cluster),
        signed_digest(account.device_list),
        oldest_list_seq=newest[3] if newest else 0,
    )
    if head.witnesses:
        raise BadRequest("this coordinator does not keep witnesses yet")
    expected = (newest[0] + 1, signed_digest(newest[1])) if newest else (1, NO_DIGEST)
    if (head.seq, head.previous) != expected:
        raise HeadMoved(
            f"the account's head is at number {expected[0] - 1} now",
            why="another device posted first",
            seq=expected[0] - 1,
        )
    upload = require_open(connection, account, posted.upload)
    if upload.sweep_generation != account.sweep_generation:
        raise SweptSince(
            "unused chunks were swept since this upload opened",
            do="Claim everything the snapshot reaches in a new upload, then post again.",
        )
    added = _keep_records(connection, account, posted, open_snapshot_list(posted.snapshot_list, head))
    take_quota(connection, account, upload, added)
    _note_left(connection, account, newest[2] if newest else None, posted.snapshot_list, head.seq)
    connection.execute(
        insert(heads).values(
            account=account.number,
            seq=head.seq,
            signed=encode(posted.head),
            digest=bytes(signed_digest(posted.head)),
            snapshot_list=posted.snapshot_list,
            device_list_seq=head.device_list_seq,
            posted_ms=now_ms,
        )
    )
    connection.execute(update(accounts).where(accounts.c.number == account.number).values(head_seq=head.seq))
    reached("coordinator.head.written")
    return HeadState(head=posted.head, snapshot_list=posted.snapshot_list, links=[posted.head])


def _keep_records(connection: Connection, account: AccountRow, posted: PostHead, listed: SnapshotList) -> int:
    """Insert the new records, and give their bytes; every one that the list names must then be here."""
    if len(posted.records) > HEAD_NEW_RECORDS_MAX:
        raise BadRequest(f"a head brings at most {HEAD_NEW_RECORDS_MAX} new records")
    new = {SnapshotId(blake3(sealed).digest()): sealed for sealed in posted.records}
    if any(len(sealed) > SNAPSHOT_RECORD_BYTES_MAX for sealed in posted.records):
        raise BadRequest(f"a snapshot record has at most {SNAPSHOT_RECORD_BYTES_MAX} bytes")
    if not set(new) <= set(listed.snapshots):
        raise BadRequest("a head brings a record that its list does not name")
    known = _known(connection, account, listed.snapshots)
    if unknown := [
        snapshot for snapshot in listed.snapshots if snapshot not in known and snapshot not in new
    ]:
        raise BadRequest(f"the snapshot list names {unknown[0].short}, whose record is not here")
    fresh = {snapshot: sealed for snapshot, sealed in new.items() if snapshot not in known}
    if fresh:
        connection.execute(
            insert(snapshot_records),
            [
                {"account": account.number, "id": bytes(snapshot), "sealed": sealed}
                for snapshot, sealed in fresh.items()
            ],
        )
    return sum(map(len, fresh.values()))


def _note_left(
    connection: Connection, account: AccountRow, before: bytes | None, now: bytes, seq: int
) -> None:
    """Note on the records which head left their snapshots out, to find them when they are missed."""
    listed = set(decode(now, SnapshotList).snapshots)
    earlier = set(decode(before, SnapshotList).snapshots) if before is not None else set()
    for changed, left_seq in ((earlier - listed, seq), (listed - earlier, None)):
        for portion in batched([bytes(snapshot) for snapshot in changed]):
            connection.execute(
                update(snapshot_records)
                .where(snapshot_records.c.account == account.number, snapshot_records.c.id.in_(portion))
                .values(left_seq=left_seq)
            )


def _known(connection: Connection, account: AccountRow, wanted: Sequence[SnapshotId]) -> set[SnapshotId]:
    found: set[SnapshotId] = set()
    for portion in batched(list(wanted)):
        query = select(snapshot_records.c.id).where(
            snapshot_records.c.account == account.number,
            snapshot_records.c.id.in_([bytes(snapshot) for snapshot in portion]),
        )
        found.update(SnapshotId(row.id) for row in connection.execute(query))
    return found


def head_state(connection: Connection, account: AccountRow, since: int) -> HeadState:
    """The newest head with its list, and heads after ``since``, oldest first: as many as fit in an answer."""
    newest = _newest(connection, account)
    if newest is None:
        return HeadState(head=None, snapshot_list=b"", links=[])
    query = (
        select(heads.c.signed)
        .where(heads.c.account == account.number, heads.c.seq > since)
        .order_by(heads.c.seq)
        .limit(HEAD_LINKS_MAX)
    )
    links: list[Signed] = []
    room = MESSAGE_BYTES_MAX // 2
    for row in connection.execute(query):
        room -= len(row.signed)
        if room < 0 and links:
            break
        links.append(decode(row.signed, Signed))
    return HeadState(head=newest[1], snapshot_list=newest[2], links=links)


def records(connection: Connection, account: AccountRow, wanted: Sequence[SnapshotId]) -> list[bytes | None]:
    """Sealed records, in order; stops early when the answer grows too long."""
    if len(wanted) > RECORDS_FETCH_MAX:
        raise BadRequest(f"at most {RECORDS_FETCH_MAX} records are fetched at once")
    own = snapshot_records.c.account == account.number
    asked = [bytes(snapshot) for snapshot in wanted]
    sizes: dict[bytes, int] = {}
    for portion in batched(asked):
        lengths = select(snapshot_records.c.id, func.length(snapshot_records.c.sealed))
        rows = connection.execute(lengths.where(own, snapshot_records.c.id.in_(portion)))
        sizes.update((row[0], row[1]) for row in rows)
    ends = list(accumulate(sizes.get(snapshot, 0) for snapshot in asked))
    fitting = asked[: max(1, bisect_right(ends, MESSAGE_BYTES_MAX // 2))]
    found: dict[bytes, bytes] = {}
    for portion in batched(fitting):
        query = select(snapshot_records.c.id, snapshot_records.c.sealed)
        rows = connection.execute(query.where(own, snapshot_records.c.id.in_(portion)))
        found.update((row[0], row[1]) for row in rows)
    return [found.get(snapshot) for snapshot in fitting]
