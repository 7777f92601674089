"""The write path: uploads, claims, commits; and where stripes are.

Paths (POST, msgpack, signed by a listed device):

- ``/v1/uploads``               OpenUpload -> UploadOpened
- ``/v1/uploads/{id}/renew``    RenewUpload -> UploadOpened   (heartbeat; fresh leases and tickets)
- ``/v1/uploads/{id}/claim``    Claim -> Claimed
- ``/v1/uploads/{id}/commit``   Commit -> Committed           (again with late receipts: clears missing slots)
- ``/v1/uploads/{id}/end``      EndUpload -> Done
- ``/v1/locate``                Locate -> Located
- ``/v1/reports``               Report -> Done
"""

from __future__ import annotations

from holdfast.protocol.codec import Message, Record
from holdfast.protocol.ids import ChunkId, Digest, NodeId, UploadId
from holdfast.protocol.profiles import Profile
from holdfast.protocol.signing import Signed

__all__ = [
    "Claim",
    "Claimed",
    "Commit",
    "CommitChunk",
    "Committed",
    "CommittedChunk",
    "Done",
    "EndUpload",
    "Lease",
    "Locate",
    "Located",
    "LocatedChunk",
    "LocatedGroup",
    "OpenUpload",
    "RenewUpload",
    "Report",
    "ReportEntry",
    "SendChunk",
    "StoredChunk",
    "UploadOpened",
]


class Done(Message):
    """It happened (or had happened before)."""


class OpenUpload(Message):
    """Ask for an upload. ``upload`` is the client's random id, so that asking twice is safe.

    Attributes:
        expected_bytes: sealed bytes to reserve against the quota; 0 reserves nothing yet.
        exclude: nodes that failed this client; they count as down for this upload only.
    """

    upload: UploadId
    expected_bytes: int
    exclude: list[NodeId]


class RenewUpload(Message):
    """Keep the upload alive and get fresh leases; ``exclude`` replaces the earlier list."""

    exclude: list[NodeId]


class Lease(Message):
    """One group to write to. ``ticket`` is the encoded ``Signed`` ticket, sent on unchanged."""

    group: int
    version: int
    k: int
    m: int
    members: list[NodeId]
    up: list[bool]
    ticket: bytes
    expires_ms: int

    @property
    def profile(self) -> Profile:
        """The group's redundancy."""
        return Profile(self.k, self.m)


class UploadOpened(Message):
    """The upload and its leases, best groups first. Every lease has a write quorum up.

    Attributes:
        head_seq: the account's head number when the upload opened (0: none yet).
        silence_ms: abandoned when not renewed for so long.
    """

    upload: UploadId
    leases: list[Lease]
    epoch: int
    head_seq: int
    sweep_generation: int
    silence_ms: int


class Claim(Message):
    """Which of these chunks are stored already? At most CLAIM_CHUNKS_MAX."""

    chunks: list[ChunkId]


class StoredChunk(Record):
    """Stored and now pinned by this upload; the client recomputes the digest from its own bytes."""

    generation: UploadId
    k: int
    m: int
    stripe: Digest


class SendChunk(Record):
    """Send it. ``replaces`` is the generation of an unusable row to replace, or empty."""

    replaces: bytes


class Claimed(Message):
    """One answer per chunk, in order: exactly one of the two lists' element is not None."""

    stored: list[StoredChunk | None]
    send: list[SendChunk | None]


class CommitChunk(Record):
    """A stripe the client has stored: its group and version, sealed size, n digests joined.

    ``replaces``: what claim's "send" said, or empty.
    """

    chunk: ChunkId
    group: int
    group_version: int
    sealed_bytes: int
    digests: bytes
    replaces: bytes


class Commit(Message):
    """A batch of stripes with the receipts that prove them (a receipt may cover several)."""

    chunks: list[CommitChunk]
    receipts: list[Signed]


class CommittedChunk(Record):
    """The generation that the catalogue now holds (this upload's, or an earlier one that stays)

    and how many of its slots are noted as missing.
    """

    generation: UploadId
    missing: int


class Committed(Message):
    """One per chunk, in the order of the commit."""

    chunks: list[CommittedChunk]


class EndUpload(Message):
    """The upload is over; what it reserved and did not use is free again."""


class Locate(Message):
    """Where are these chunks? At most LOCATE_CHUNKS_MAX."""

    chunks: list[ChunkId]


class LocatedChunk(Record):
    """One stripe: its group, generation, size and digest; ``missing`` slots are known not to be there."""

    group: int
    generation: UploadId
    sealed_bytes: int
    stripe: Digest
    missing: list[int]


class LocatedGroup(Message):
    """A group with every verified source per slot (the present holder first), and a read ticket."""

    group: int
    version: int
    k: int
    m: int
    holders: list[list[NodeId]]
    ticket: bytes
    expires_ms: int

    @property
    def profile(self) -> Profile:
        """The group's redundancy."""
        return Profile(self.k, self.m)


class Located(Message):
    """One per chunk, in order (None: not stored); the groups they lie in; nodes believed down."""

    chunks: list[LocatedChunk | None]
    groups: list[LocatedGroup]
    down: list[NodeId]
    epoch: int


class ReportEntry(Record):
    """A shard that a node gave wrong or does not have; ``proof`` is the record header it sent."""

    chunk: ChunkId
    generation: UploadId
    slot: int
    node: NodeId
    kind: str
    proof: bytes


class Report(Message):
    """What a client met while reading. It degrades only the reporter's own chunks."""

    entries: list[ReportEntry]
