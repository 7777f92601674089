"""The coordinator challenges nodes: show what you vouched for. And what operators ask about it.

Node, asked by the coordinator (signed request, role "coordinator"):

- ``POST /v1/audit``         Audit -> AuditAnswer

Coordinator, asked by an operator:

- ``POST /v1/admin/audit``   AskAudit -> Audits

The coordinator has no shard, only each stripe's digest. What it asks for are bytes at places that nobody
can know beforehand, and the record beside them; every such column of a stripe is a codeword, so who has not
the shard cannot make its byte without k others. Who does not fit has to show its whole shard, whose digest
stands in the record that the catalogue's stripe digest names.
"""

from __future__ import annotations

from typing import Literal

from holdfast.protocol.codec import Message, Record
from holdfast.protocol.ids import AccountId, ChunkId, NodeId, UploadId
from holdfast.protocol.signing import Signed

__all__ = [
    "AskAudit",
    "Audit",
    "AuditAnswer",
    "AuditEntry",
    "AuditResult",
    "Audited",
    "Audits",
    "FalseAnswer",
]


class AuditEntry(Record):
    """Show these bytes of one shard: their places in it; ``whole``: all of it (then alone in its request)."""

    group: int
    slot: int
    account: AccountId
    chunk: ChunkId
    generation: UploadId
    columns: list[int]
    whole: bool


class Audit(Message):
    """``nonce`` is 16 random bytes and comes back in the answer."""

    nonce: bytes
    entries: list[AuditEntry]


class AuditResult(Record):
    """``status``: "ok", "absent", or "damaged" (kept aside). ``record`` is the shard record's header,
    ``columns`` the bytes asked for in their order, ``shard`` all of them where that was asked."""

    status: Literal["ok", "absent", "damaged"]
    record: bytes
    columns: bytes
    shard: bytes


class Audited(Record):
    """A node's answer to a challenge, in the order asked."""

    version: Literal[1]
    node: NodeId
    nonce: bytes
    results: list[AuditResult]


class AuditAnswer(Message):
    """:class:`Audited`, signed by the node (kind "audited"): nobody else can lie in its name."""

    audited: Signed


class AskAudit(Message):
    """Challenge the holders of so many stripes now; 0 only tells what is known."""

    chunks: int


class FalseAnswer(Record):
    """A node showed a shard that is not what it vouched for, twice."""

    number: int
    node: NodeId
    at_ms: int
    group: int
    slot: int
    account: AccountId
    chunk: ChunkId
    generation: UploadId


class Audits(Message):
    """What an audit found.

    Attributes:
        stripes, shards: challenged.
        right: shards shown as they should be.
        gone: shards that their nodes said they do not have, or have damaged; they are being brought back.
        silent: nodes that did not answer, each once.
        undecided: stripes whose holders contradict each other, and of which nobody has the record that
            the catalogue names: nobody can be blamed.
        lying: false answers of this audit.
        distrusted: nodes that are not trusted any more since then.
        held_back: nodes that lied and keep their slots, because too many are distrusted already.
        known: false answers of all time, newest first, bounded.
    """

    stripes: int
    shards: int
    right: int
    gone: int
    silent: list[NodeId]
    undecided: int
    lying: list[FalseAnswer]
    distrusted: list[NodeId]
    held_back: list[NodeId]
    known: list[FalseAnswer]
