"""Heads, snapshot lists and snapshot records.

- ``POST /v1/heads``           PostHead -> HeadState; signed by a listed device
- ``GET  /v1/heads?since=N``   HeadState; ``links`` are the heads after N (oldest first), the newest included
- ``POST /v1/records``         FetchRecords -> Records
"""

from __future__ import annotations

from holdfast.protocol.accounts import Witness
from holdfast.protocol.codec import Message
from holdfast.protocol.ids import SnapshotId, UploadId
from holdfast.protocol.signing import Signed

__all__ = ["FetchRecords", "HeadState", "PostHead", "Records"]


class PostHead(Message):
    """The next head, its exact snapshot list, the sealed records that are new in it, its upload.

    Compare-and-swap on (seq, previous hash). Posting the current head again succeeds.
    """

    head: Signed
    snapshot_list: bytes
    records: list[bytes]
    upload: UploadId


class HeadState(Message):
    """The account's newest head with its list (None: no snapshot yet), and links since one known.

    Attributes:
        proposed: who shall witness the next head, as the coordinator sees it.
        statements: of witnesses that keep the head just posted (kind "witness").
    """

    head: Signed | None
    snapshot_list: bytes
    links: list[Signed]
    proposed: list[Witness] = []  # noqa: RUF012 - msgspec copies it
    statements: list[Signed] = []  # noqa: RUF012


class FetchRecords(Message):
    """Sealed snapshot records by id; at most RECORDS_FETCH_MAX."""

    snapshots: list[SnapshotId]


class Records(Message):
    """One per id, in order; None where there is none. May stop early: ask again for the rest."""

    records: list[bytes | None]
