"""The snapshot record: what one backup left behind, sealed to the account.

    sealed record = version(1) || HPKE(K_read public, record, info = label || cluster || account)
    snapshot id   = BLAKE3(sealed record)

It names the manifest's pages in order; who cannot open it learns its size only.
"""

from __future__ import annotations

from typing import Final, Literal

from blake3 import blake3
from cryptography.exceptions import InvalidTag

from holdfast.client.identity import HPKE, AccountKeys
from holdfast.client.sealing import PlainId
from holdfast.protocol.codec import Record, decode, encode
from holdfast.protocol.errors import BadRequest, IntegrityFailure
from holdfast.protocol.ids import AccountId, ChunkId, ClusterId, DeviceId, SnapshotId
from holdfast.protocol.limits import SNAPSHOT_RECORD_BYTES_MAX

__all__ = ["ChunkRef", "SnapshotRecord", "open_record", "seal_record", "snapshot_id"]

_VERSION: Final = b"\x01"


class ChunkRef(Record):
    """A sealed chunk as its owner finds and opens it."""

    pid: PlainId
    chunk: ChunkId
    plain_bytes: int
    epoch: int


class SnapshotRecord(Record):
    """One moment of a person's files.

    Attributes:
        paths: what was asked to be backed up, as absolute path bytes.
        pages: the manifest's pages in order.
        total_bytes: sum of the sizes of all files.
        new_bytes: sealed bytes that were not stored before.
        skipped: how many files could not be read.
        parent: the snapshot it was compared with, or empty.
    """

    version: Literal[1]
    time_ns: int
    device: DeviceId
    device_name: str
    paths: list[bytes]
    tags: list[str]
    pages: list[ChunkRef]
    files: int
    entries: int
    total_bytes: int
    new_bytes: int
    skipped: int
    parent: bytes
    program: str


def _info(cluster: ClusterId, account: AccountId) -> bytes:
    return b"holdfast/v1/snapshot-record\0" + _VERSION + cluster + account


def snapshot_id(sealed: bytes) -> SnapshotId:
    """BLAKE3 of the sealed record."""
    return SnapshotId(blake3(sealed).digest())


def seal_record(keys: AccountKeys, cluster: ClusterId, account: AccountId, record: SnapshotRecord) -> bytes:
    """The sealed record, version byte first.

    Raises:
        BadRequest: it is longer than SNAPSHOT_RECORD_BYTES_MAX.
    """
    sealed = _VERSION + HPKE.encrypt(encode(record), keys.read_key.public_key(), _info(cluster, account))
    if len(sealed) > SNAPSHOT_RECORD_BYTES_MAX:
        raise BadRequest("the snapshot has too many manifest pages", do="Back up its folders separately.")
    return sealed


def open_record(
    keys: list[AccountKeys], cluster: ClusterId, account: AccountId, wanted: SnapshotId, sealed: bytes
) -> SnapshotRecord:
    """The record inside, opened with whichever epoch's key fits (newest first).

    Raises:
        IntegrityFailure: it is not the record of that id, or does not open.
    """
    if snapshot_id(sealed) != wanted:
        raise IntegrityFailure(f"the record of snapshot {wanted.short} is not the one its list names")
    if sealed[:1] != _VERSION:
        raise IntegrityFailure(f"the record of snapshot {wanted.short} has a version not known here")
    for epoch_keys in reversed(keys):
        try:
            plain = HPKE.decrypt(sealed[1:], epoch_keys.read_key, _info(cluster, account))
        except (InvalidTag, ValueError):
            continue
        try:
            return decode(plain, SnapshotRecord)
        except BadRequest as error:
            raise IntegrityFailure(
                f"the record of snapshot {wanted.short} is malformed", why=error.why
            ) from error
    raise IntegrityFailure(f"the record of snapshot {wanted.short} does not open with this account's keys")
