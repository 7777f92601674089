"""Nodes with the coordinator, and clients with nodes.

Coordinator (POST, msgpack):

- ``/v1/nodes/join``       Join -> Joined; signed by the node's key (role "node", the key in the body)
- ``/v1/nodes/heartbeat``  Heartbeat -> HeartbeatAnswer; signed by the node

Node:

- ``GET  /v1/node``           NodeInfo (unsigned)
- ``PUT  /v1/shards``         u32 BE length || PutHeader || the shards' bytes, in order -> PutAnswer
- ``POST /v1/shards/read``    ReadHeader -> u32 BE length || ReadAnswer || the shards' bytes, in order
- ``POST /v1/shards/delete``  DeletionOrder as Signed (kind "deletion-order", by the coordinator)
                              -> DeletionAnswer

Towards nodes a request's body digest is BLAKE3(msgpack header || ticket digest),
and the ticket goes into the Holdfast-Ticket header as base64url.
"""

from __future__ import annotations

from typing import Literal

from holdfast.protocol.codec import Message, Record
from holdfast.protocol.ids import AccountId, ChunkId, ClusterId, NodeId, PublicKey, StoreId, UploadId
from holdfast.protocol.signing import Signed

__all__ = [
    "DeletionAnswer",
    "DeletionEntry",
    "DeletionOrder",
    "Heartbeat",
    "HeartbeatAnswer",
    "Join",
    "Joined",
    "NodeInfo",
    "PutAnswer",
    "PutEntry",
    "PutHeader",
    "ReadAnswer",
    "ReadEntry",
    "ReadHeader",
    "ReadResult",
]


class Join(Message):
    """A node with a join token's secret. Idempotent for one key and token."""

    token: bytes
    key: PublicKey
    url: str
    zone: str
    capacity_bytes: int
    store: StoreId


class Joined(Message):
    """Accepted under this id. ``heartbeat_ms``: how often to report."""

    node: NodeId
    term: int
    heartbeat_ms: int


class Heartbeat(Message):
    """A node's report. ``state``: "ok", "full" (reads and deletes only) or "failed" (store stopped).

    Attributes:
        start: 16 random bytes drawn when the process started; tells two processes with one key apart.
        quarantined: damaged shards kept aside.
        scrubbed_ms: when the last whole pass over all shards ended (0: none yet).
        trouble: why the store has failed, for people; empty when it has not.
        order: the number of the last deletion order taken.
        pulse: the highest pulse of the catalogue heard of (HeartbeatAnswer): a catalogue with a lower one
            is older than what this node has seen.
        file_bytes: length of the store's data file.
        compacting: how far the copy is that gives room back to the disk, in per cent; -1: none under way.
    """

    url: str
    zone: str
    store: StoreId
    store_counter: int
    capacity_bytes: int
    used_bytes: int
    free_bytes: int
    shards: int
    state: Literal["ok", "full", "failed", "stopping"]
    start: bytes
    quarantined: int
    scrubbed_ms: int
    trouble: str
    order: int
    pulse: int
    file_bytes: int
    compacting: int


class HeartbeatAnswer(Message):
    """Term and epoch now. ``pulse``: a durable number of the catalogue, which grows every few seconds."""

    term: int
    epoch: int
    heartbeat_ms: int
    time_ms: int
    pulse: int


class NodeInfo(Message):
    """Who answers here."""

    cluster: ClusterId
    node: NodeId
    key: PublicKey
    store: StoreId
    program: str
    state: str


class PutEntry(Record):
    """One shard: its chunk, the sealed chunk's size in bytes, the n shard digests joined."""

    chunk: ChunkId
    sealed_bytes: int
    digests: bytes


class PutHeader(Message):
    """Shards of one group and slot; account, generation, k and m come from the ticket."""

    slot: int
    entries: list[PutEntry]


class PutAnswer(Message):
    """All of the batch is durable."""

    receipt: Signed


class ReadEntry(Record):
    """Wanted: the shard of this chunk, generation and slot."""

    chunk: ChunkId
    generation: UploadId
    slot: int


class ReadHeader(Message):
    """Shards wanted of one group; the account comes from the ticket."""

    entries: list[ReadEntry]


class ReadResult(Record):
    """``status``: "ok", "absent", or "damaged" (kept aside, not sent). ``record`` is the record header."""

    status: Literal["ok", "absent", "damaged"]
    record: bytes
    shard_bytes: int


class ReadAnswer(Message):
    """One result per entry, in order; may cover fewer than asked (a bounded answer): ask again."""

    results: list[ReadResult]


class DeletionEntry(Record):
    """One shard to erase."""

    group: int
    slot: int
    account: AccountId
    chunk: ChunkId
    generation: UploadId


class DeletionOrder(Record):
    """Numbered per node, growing; marks now, erases after ``hold_s`` what is still marked."""

    version: Literal[1]
    node: NodeId
    term: int
    number: int
    hold_s: int
    entries: list[DeletionEntry]


class DeletionAnswer(Message):
    """How many were marked now, and how many were not there."""

    number: int
    marked: int
    absent: int
