"""Nodes rereading their own shards: what they find, keep aside, and report.

Coordinator:

- ``POST /v1/nodes/findings``    Findings -> FindingsNoted; signed by the node, sent again until answered
- ``POST /v1/admin/scrub``       AskScrub -> Scrubbed; signed by the operator
- ``POST /v1/admin/quarantine``  AskQuarantine -> QuarantineShown; signed by the operator

Node, asked by the coordinator (role "coordinator"):

- ``POST /v1/scrub``             Scrub -> Scrubbed
- ``POST /v1/quarantine``        ReadQuarantine -> QuarantineRead
"""

from __future__ import annotations

from typing import Literal

from holdfast.protocol.codec import Message, Record
from holdfast.protocol.ids import AccountId, ChunkId, NodeId, UploadId

__all__ = [
    "AskQuarantine",
    "AskScrub",
    "FindingEntry",
    "Findings",
    "FindingsNoted",
    "NodeQuarantine",
    "QuarantineEntry",
    "QuarantineRead",
    "QuarantineShown",
    "ReadQuarantine",
    "Scrub",
    "Scrubbed",
]


class FindingEntry(Record):
    """A shard that is not (any more) what was stored: put into quarantine, or not readable at all."""

    group: int
    slot: int
    account: AccountId
    chunk: ChunkId
    generation: UploadId
    kind: Literal["damaged", "unreadable"]


class Findings(Message):
    """What a node found bad among its own shards; at most FINDINGS_MAX."""

    entries: list[FindingEntry]


class FindingsNoted(Message):
    """All were looked at; ``missing`` of them are noted as missing now. The rest concerns nobody any more."""

    missing: int


class Scrub(Message):
    """Reread every shard from the first one on, now and fast; without ``start`` only tell how it stands."""

    start: bool


class Scrubbed(Message):
    """How a node's scrub stands.

    Attributes:
        running: a pass is under way.
        started_ms, ended_ms: when the present or last pass began; when the last whole one ended (0: never).
        shards, read_bytes: reread since the present or last pass began.
        found: bad ones in it.
        quarantined: damaged shards kept aside, of all time less what was dropped.
        unreported: findings that the coordinator has not taken note of yet.
    """

    running: bool
    started_ms: int
    ended_ms: int
    shards: int
    read_bytes: int
    found: int
    quarantined: int
    unreported: int


class ReadQuarantine(Message):
    """Entries with numbers above ``after``, at most ``most``."""

    after: int
    most: int


class QuarantineEntry(Record):
    """A damaged shard kept aside: number, when, what it was stored as, its record's length in bytes."""

    number: int
    at_ms: int
    group: int
    slot: int
    account: AccountId
    chunk: ChunkId
    generation: UploadId
    stored_bytes: int


class QuarantineRead(Message):
    """Oldest first; ``total`` entries with ``kept_bytes`` are kept, ``dropped`` made room for newer ones."""

    entries: list[QuarantineEntry]
    total: int
    kept_bytes: int
    dropped: int


class AskScrub(Message):
    """``node`` is the beginning of its id in hex. See :class:`Scrub`."""

    node: str
    start: bool


class AskQuarantine(Message):
    """Of one node (the beginning of its id in hex), or of all (""); at most ``most`` entries of each."""

    node: str
    most: int


class NodeQuarantine(Message):
    """One node's quarantine; ``error`` says why it could not be asked."""

    node: NodeId
    error: str
    entries: list[QuarantineEntry]
    total: int
    kept_bytes: int
    dropped: int


class QuarantineShown(Message):
    """Every node that was asked, by id."""

    nodes: list[NodeQuarantine]
