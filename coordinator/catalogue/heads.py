"""Heads and snapshot lists, and the snapshot records that come with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from blake3 import blake3
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from holdfast.coordinator.catalogue.accounts import AccountRow
from holdfast.coordinator.catalogue.chunks import commit
from holdfast.coordinator.catalogue.engine import batched
from holdfast.coordinator.catalogue.prepared import Prepared
from holdfast.coordinator.catalogue.schema import accounts, heads, pending_heads, snapshot_records
from holdfast.coordinator.catalogue.snapshot_records import insert_records, known_records, records
from holdfast.coordinator.catalogue.uploads import end_upload, require_open, take_quota
from holdfast.coordinator.quorum import DurableStripe
from holdfast.protocol.accounts import (
    NO_DIGEST,
    Head,
    Witness,
    check_snapshot_list,
    listed_ids,
    open_device_list,
    open_head,
    signed_digest,
)
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import BadRequest, Conflict, HeadMoved, SweptSince
from holdfast.protocol.failpoints import reached
from holdfast.protocol.ids import AccountId, ClusterId, Digest, NodeId, PublicKey, SnapshotId, UploadId
from holdfast.protocol.limits import (
    HEAD_LINKS_MAX,
    HEAD_NEW_RECORDS_MAX,
    MESSAGE_BYTES_MAX,
    SNAPSHOT_RECORD_BYTES_MAX,
)
from holdfast.protocol.messages.heads import HeadState, PostHead
from holdfast.protocol.signing import Signed

__all__ = [
    "Pending",
    "accounts_with_pending",
    "begin_head",
    "drop_pending",
    "head_state",
    "insert_head",
    "insert_records",
    "kept_head",
    "known_records",
    "newest_witnesses",
    "pending_head",
    "records",
    "settle_head",
]


MayTake = Callable[[Collection[Witness], Collection[Witness]], None]
"""Told the witnesses of a head and of its predecessor: raises what speaks against taking it now."""


_NEWEST: Final = Prepared(
    select(heads.c.seq, heads.c.signed, heads.c.snapshot_list, heads.c.device_list_seq)
    .where(heads.c.account == bindparam("account"))
    .order_by(heads.c.seq.desc())
    .limit(1)
)
_PENDING: Final = Prepared(
    select(
        pending_heads.c.seq,
        pending_heads.c.signed,
        pending_heads.c.digest,
        pending_heads.c.snapshot_list,
        pending_heads.c.records,
        pending_heads.c.device_list,
        pending_heads.c.posted_ms,
    ).where(pending_heads.c.account == bindparam("account"))
)
_WITH_PENDING: Final = Prepared(
    select(accounts.c.id).join(pending_heads, pending_heads.c.account == accounts.c.number)
)
_LINKS: Final = Prepared(
    select(heads.c.signed)
    .where(heads.c.account == bindparam("account"), heads.c.seq > bindparam("since"))
    .order_by(heads.c.seq)
    .limit(bindparam("most"))
)
_ADD: Final = Prepared(insert(heads))
_MOVE: Final = Prepared(
    update(accounts).where(accounts.c.number == bindparam("account")).values(head_seq=bindparam("seq"))
)
_ADD_PENDING: Final = Prepared(insert(pending_heads))
_NO_MORE_PENDING: Final = Prepared(
    delete(pending_heads).where(pending_heads.c.account == bindparam("number"))
)
_LEFT: Final = Prepared(
    update(snapshot_records)
    .where(
        snapshot_records.c.account == bindparam("number"),
        snapshot_records.c.id.in_(bindparam("ids", expanding=True)),
    )
    .values(left_seq=bindparam("left"))
)


def _newest(connection: Connection, account: AccountRow) -> tuple[int, Signed, bytes, int] | None:
    """(seq, head, snapshot list, device-list seq) of the newest head."""
    row = _NEWEST.row(connection, account=account.number)
    return (row[0], decode(row[1], Signed), row[2], row[3]) if row is not None else None


@dataclass(frozen=True, slots=True)
class Pending:
    """A head that was taken and is not agreed yet: nobody sees it, and no other is taken before it.

    Attributes:
        device_list: the one it was verified by.
        records: ids of the records that came with it; they are stored already.
        before: the witnesses of the head before it.
    """

    account: AccountId
    seq: int
    signed: Signed
    digest: Digest
    snapshot_list: bytes
    device_list: Signed
    records: tuple[SnapshotId, ...]
    witnesses: tuple[Witness, ...]
    before: tuple[Witness, ...]


def pending_head(connection: Connection, account: AccountRow) -> Pending | None:
    """The account's head that waits for its witnesses."""
    row = _PENDING.row(connection, account=account.number)
    if row is None:
        return None
    seq, stored, digest, snapshot_list, records, device_list, _ = row
    signed, size = decode(stored, Signed), SnapshotId.SIZE
    return Pending(
        account.id,
        seq,
        signed,
        Digest(digest),
        snapshot_list,
        decode(device_list, Signed),
        tuple(SnapshotId(records[at : at + size]) for at in range(0, len(records), size)),
        tuple(decode(signed.payload, Head).witnesses),
        newest_witnesses(connection, account),
    )


def accounts_with_pending(connection: Connection) -> list[AccountId]:
    """Whose heads wait for their witnesses."""
    return [AccountId(found) for (found,) in _WITH_PENDING.rows(connection)]


def newest_witnesses(connection: Connection, account: AccountRow) -> tuple[Witness, ...]:
    """The witnesses of the newest head; none where there is no head."""
    newest = _newest(connection, account)
    return tuple(decode(newest[1].payload, Head).witnesses) if newest is not None else ()


def begin_head(
    connection: Connection,
    cluster: ClusterId,
    account: AccountRow,
    posted: PostHead,
    nodes: Mapping[NodeId, PublicKey],
    now_ms: int,
    *,
    stripes: Sequence[DurableStripe] = (),
    ends: bool = False,
    may_take: MayTake | None = None,
) -> Pending | HeadState:
    """Compare-and-swap on (seq, previous hash): take a head as pending, until :func:`settle_head`.

    Args:
        nodes: who may be a witness, with its key.
        stripes: what is committed with it; see :func:`chunks.commit`.
        ends: where nobody has to agree, the upload ends with it.
        may_take: asked before it is taken; not of one that was taken already.

    Returns:
        What waits for its witnesses, also when this very head did already. The state with the head in
        it, when it is the current one, or has no witnesses and its predecessor none either.

    Raises:
        HeadMoved: another head is there; details: seq.
        Conflict: another head waits for its witnesses.
        UploadEnded: its upload has ended. SweptSince: it started before the last sweep.
        QuotaExceeded: the new records or stripes do not fit. GroupMoved: see :func:`chunks.commit`.
        Refused, Rollback, ForkDetected, BadRequest: see protocol.accounts.open_head; or a witness is no
            node of the cluster.
        Whatever ``may_take`` raises.
    """
    newest = _newest(connection, account)
    if newest is not None and newest[1] == posted.head:
        return HeadState(head=posted.head, snapshot_list=newest[2], links=[posted.head])
    waiting = pending_head(connection, account)
    if waiting is not None:
        if waiting.signed == posted.head:
            return waiting
        raise Conflict(f"head {waiting.seq} of this account waits for its witnesses", seq=waiting.seq)
    # The list as it is now: the one that the request was admitted by may have been replaced since.
    head = open_head(
        posted.head,
        cluster,
        open_device_list(account.device_list, cluster),
        signed_digest(account.device_list),
        oldest_list_seq=newest[3] if newest else 0,
    )
    _check_witnesses(head, nodes)
    _check_follows(head, (newest[0] + 1, signed_digest(newest[1])) if newest else (1, NO_DIGEST))
    upload = require_open(connection, account, posted.upload)
    if upload.sweep_generation != account.sweep_generation:
        raise SweptSince(
            "unused chunks were swept since this upload opened",
            do="Claim everything the snapshot reaches in a new upload, then post again.",
        )
    listed = check_snapshot_list(posted.snapshot_list, head)
    before = tuple(decode(newest[1].payload, Head).witnesses) if newest else ()
    if may_take is not None:
        may_take(head.witnesses, before)
    fresh = _keep_records(connection, account, posted, listed, newest[2] if newest else None)
    records_bytes = sum(map(len, fresh.values()))
    if stripes:
        commit(connection, account, upload, stripes, records_bytes)
    else:
        take_quota(connection, account, upload, records_bytes)
    digest = signed_digest(posted.head)
    _add_pending(connection, account, posted, head.seq, digest, fresh, now_ms)
    if not head.witnesses and not before:
        return settle_head(connection, account, digest, ended=upload.id if ends else None)
    return Pending(
        account.id,
        head.seq,
        posted.head,
        digest,
        posted.snapshot_list,
        account.device_list,
        tuple(fresh),
        tuple(head.witnesses),
        before,
    )


def _check_witnesses(head: Head, nodes: Mapping[NodeId, PublicKey]) -> None:
    named = [witness.node for witness in head.witnesses]
    if len(set(named)) != len(named) or any(nodes.get(each.node) != each.key for each in head.witnesses):
        raise BadRequest("a head names a witness twice, or one that is no node of this cluster")


def _check_follows(head: Head, expected: tuple[int, Digest]) -> None:
    """The compare of compare-and-swap."""
    if (head.seq, head.previous) != expected:
        raise HeadMoved(
            f"the account's head is at number {expected[0] - 1} now",
            why="another device posted first",
            seq=expected[0] - 1,
        )


def _add_pending(
    connection: Connection,
    account: AccountRow,
    posted: PostHead,
    seq: int,
    digest: Digest,
    fresh: Collection[bytes],
    now_ms: int,
) -> None:
    """A head that waits for its witnesses, with the ids of the records that came with it."""
    _ADD_PENDING.run(
        connection,
        account=account.number,
        seq=seq,
        signed=encode(posted.head),
        digest=bytes(digest),
        snapshot_list=posted.snapshot_list,
        records=b"".join(fresh),
        device_list=encode(account.device_list),
        posted_ms=now_ms,
    )


def settle_head(
    connection: Connection, account: AccountRow, digest: Digest, *, ended: UploadId | None = None
) -> HeadState:
    """A pending head is agreed: it is the account's newest now. Again is fine.

    Args:
        ended: an upload that has nothing more to do then.

    Raises:
        HeadMoved: it is neither pending nor the newest.
    """
    if ended is not None:
        end_upload(connection, account, ended)
    row = _PENDING.row(connection, account=account.number)
    if row is None or row[2] != bytes(digest):
        newest = _newest(connection, account)
        if newest is not None and signed_digest(newest[1]) == digest:
            return HeadState(head=newest[1], snapshot_list=newest[2], links=[newest[1]])
        raise HeadMoved("the account's head moved on", seq=newest[0] if newest is not None else 0)
    _, stored, _, snapshot_list, _, _, posted_ms = row
    signed = decode(stored, Signed)
    insert_head(connection, account, signed, snapshot_list, posted_ms)
    _NO_MORE_PENDING.run(connection, number=account.number)
    return HeadState(head=signed, snapshot_list=snapshot_list, links=[signed])


def drop_pending(connection: Connection, account: AccountRow, digest: Digest) -> None:
    """A pending head can never be agreed: a majority of its witnesses keeps another one."""
    connection.execute(
        delete(pending_heads).where(
            pending_heads.c.account == account.number, pending_heads.c.digest == bytes(digest)
        )
    )


def insert_head(
    connection: Connection, account: AccountRow, signed: Signed, snapshot_list: bytes, posted_ms: int
) -> None:
    """Make a verified head the account's newest."""
    head, newest = decode(signed.payload, Head), _newest(connection, account)
    _note_left(connection, account, newest[2] if newest else None, snapshot_list, head.seq)
    _ADD.run(
        connection,
        account=account.number,
        seq=head.seq,
        signed=encode(signed),
        digest=bytes(signed_digest(signed)),
        snapshot_list=snapshot_list,
        device_list_seq=head.device_list_seq,
        posted_ms=posted_ms,
    )
    _MOVE.run(connection, account=account.number, seq=head.seq)
    reached("coordinator.head.written")


def kept_head(connection: Connection, account: AccountRow, seq: int) -> tuple[Signed, bytes] | None:
    """A head by its number, with its snapshot list."""
    row = connection.execute(
        select(heads.c.signed, heads.c.snapshot_list).where(
            heads.c.account == account.number, heads.c.seq == seq
        )
    ).one_or_none()
    return (decode(row.signed, Signed), row.snapshot_list) if row is not None else None


def _keep_records(
    connection: Connection,
    account: AccountRow,
    posted: PostHead,
    listed: Sequence[bytes],
    before: bytes | None,
) -> dict[SnapshotId, bytes]:
    """Insert the new records, and give them; every one that the list names must then be here.

    Args:
        before: the newest head's list. What it names was looked for when it was posted, and is not again:
            else each snapshot would cost more than the one before.
    """
    if len(posted.records) > HEAD_NEW_RECORDS_MAX:
        raise BadRequest(f"a head brings at most {HEAD_NEW_RECORDS_MAX} new records")
    new = {SnapshotId(blake3(sealed).digest()): sealed for sealed in posted.records}
    if any(len(sealed) > SNAPSHOT_RECORD_BYTES_MAX for sealed in posted.records):
        raise BadRequest(f"a snapshot record has at most {SNAPSHOT_RECORD_BYTES_MAX} bytes")
    if not set(new) <= set(listed):
        raise BadRequest("a head brings a record that its list does not name")
    earlier = frozenset(listed_ids(before)) if before is not None else frozenset()
    added = [SnapshotId(snapshot) for snapshot in listed if snapshot not in earlier]
    known = known_records(connection, account, [*added, *(each for each in new if each in earlier)])
    if unknown := [snapshot for snapshot in added if snapshot not in known and snapshot not in new]:
        raise BadRequest(f"the snapshot list names {unknown[0].short}, whose record is not here")
    fresh = {snapshot: sealed for snapshot, sealed in new.items() if snapshot not in known}
    insert_records(connection, account, fresh)
    return fresh


def _note_left(
    connection: Connection, account: AccountRow, before: bytes | None, now: bytes, seq: int
) -> None:
    """Note on the records which head left their snapshots out, to find them when they are missed."""
    listed = set(listed_ids(now))
    earlier = set(listed_ids(before)) if before is not None else set()
    for changed, left_seq in ((earlier - listed, seq), (listed - earlier, None)):
        for portion in batched(list(changed)):
            _LEFT.run(connection, number=account.number, ids=portion, left=left_seq)


def head_state(connection: Connection, account: AccountRow, since: int) -> HeadState:
    """The newest head with its list, and heads after ``since``, oldest first: as many as fit in an answer."""
    newest = _newest(connection, account)
    if newest is None:
        return HeadState(head=None, snapshot_list=b"", links=[])
    links: list[Signed] = []
    room = MESSAGE_BYTES_MAX // 2
    for (signed,) in _LINKS.each(connection, account=account.number, since=since, most=HEAD_LINKS_MAX):
        room -= len(signed)
        if room < 0 and links:
            break
        links.append(decode(signed, Signed))
    return HeadState(head=newest[1], snapshot_list=newest[2], links=links)
