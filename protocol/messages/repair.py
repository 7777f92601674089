"""The coordinator with nodes: bringing one slot's shards back; and nodes with each other.

Node, asked by the coordinator (signed request, role "coordinator", body covered whole):

- ``POST /v1/rebuild``       Rebuild -> RebuildAnswer

Node, asked by another node:

- ``POST /v1/shards/pull``   PullHeader -> u32 BE length || ReadAnswer || the shards' bytes, in order;
                             the PullOrder (kind "pull-order", by the coordinator) stands in the ticket's
                             place, the request is signed by the key it names (role "node")

The node that is asked to rebuild pulls from the sources it is told, proves every
chunk by its id, stores its own slot's shard, and answers only when that is durable.
"""

from __future__ import annotations

from typing import Literal

from holdfast.protocol.codec import Message, Record
from holdfast.protocol.ids import AccountId, ChunkId, Digest, NodeId, PublicKey, StoreId, UploadId
from holdfast.protocol.profiles import Profile
from holdfast.protocol.signing import Signed

__all__ = [
    "PullEntry",
    "PullHeader",
    "PullOrder",
    "PullSource",
    "Rebuild",
    "RebuildAnswer",
    "RebuildEntry",
    "Rebuilt",
    "RebuiltEntry",
    "WrongShard",
]


class PullOrder(Record):
    """Permission for one node to read one group's shards from its peers; at most TICKET_LIFETIME_MS long."""

    version: Literal[1]
    order: bytes
    node: NodeId
    key: PublicKey
    group: int
    expires_ms: int
    term: int


class PullEntry(Record):
    """Wanted: the shard of this account, chunk, generation and slot."""

    account: AccountId
    chunk: ChunkId
    generation: UploadId
    slot: int


class PullHeader(Message):
    """Shards wanted of the order's group."""

    entries: list[PullEntry]


class PullSource(Record):
    """A node that may have the shards of a slot; verified like any other."""

    slot: int
    node: NodeId
    url: str


class RebuildEntry(Record):
    """One stripe as the catalogue knows it; ``missing`` slots are asked last."""

    account: AccountId
    chunk: ChunkId
    generation: UploadId
    sealed_bytes: int
    stripe: Digest
    missing: list[int]


class Rebuild(Message):
    """Store shards of ``group`` and ``slot``, of stripes that lie in the group the pull order names.

    Attributes:
        group_version: the version of ``group`` in which this node holds the slot.
        k, m: the profile of ``group``.
        from_k, from_m: the profile of the group they are pulled from; the same, unless a stripe
            is encoded anew for another group.
    """

    pull: Signed
    group: int
    group_version: int
    slot: int
    k: int
    m: int
    from_k: int
    from_m: int
    sources: list[PullSource]
    entries: list[RebuildEntry]

    @property
    def profile(self) -> Profile:
        """What is stored."""
        return Profile(self.k, self.m)

    @property
    def from_profile(self) -> Profile:
        """What is pulled."""
        return Profile(self.from_k, self.from_m)


class RebuiltEntry(Record):
    """One stripe's outcome, in the order asked; ``stripe`` is the digest of the stripe stored ("ok").

    ``status``: "ok" (durable here, proven by the chunk id), "short" (fewer than k good shards could be
    had now), "wrong" (k good shards give another chunk than the id names), "full" (no room here).
    """

    status: Literal["ok", "short", "wrong", "full"]
    stripe: Digest


class WrongShard(Record):
    """A source did not have what it should: entry's place in the request, slot, node, what was met."""

    entry: int
    slot: int
    node: NodeId
    status: Literal["absent", "damaged", "wrong"]


class Rebuilt(Record):
    """What a node vouches for after a rebuild; ``store_counter`` is its commit counter after it."""

    version: Literal[1]
    node: NodeId
    order: bytes
    term: int
    group: int
    group_version: int
    slot: int
    store: StoreId
    store_counter: int
    entries: list[RebuiltEntry]
    wrong: list[WrongShard]


class RebuildAnswer(Message):
    """The signed word (kind "rebuilt"), and what it took in bytes."""

    rebuilt: Signed
    pulled_bytes: int
    stored_bytes: int
