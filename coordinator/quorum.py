"""Which slots of a stripe are durable, by the receipts. Pure.

The client's word counts for nothing: a slot is durable when the node that holds
it in the group's current version signed a receipt for this upload with the very
shard digest of the stripe.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.coordinator.placement import Group
from holdfast.protocol.errors import BadRequest, GroupMoved, NoQuorum, NotFound, Refused
from holdfast.protocol.ids import AccountId, ChunkId, ClusterId, Digest, NodeId, PublicKey, UploadId
from holdfast.protocol.messages.uploads import CommitChunk
from holdfast.protocol.receipts import Receipt, open_receipt_of_any
from holdfast.protocol.signing import Signed
from holdfast.protocol.stripes import StripeHeader

__all__ = ["DurableStripe", "durable_stripes", "open_receipts"]

_DIGEST: Final = Digest.SIZE


@dataclass(frozen=True, slots=True)
class DurableStripe:
    """A stripe at or above its write quorum: what the catalogue keeps of it."""

    chunk: ChunkId
    group: Group
    sealed_bytes: int
    stripe: Digest
    durable: frozenset[int]
    replaces: bytes

    @property
    def missing(self) -> list[int]:
        """Slots without a receipt."""
        count = self.group.profile.n
        if len(self.durable) == count:
            return []
        return [slot for slot in range(count) if slot not in self.durable]


def open_receipts(
    envelopes: Sequence[Signed],
    keys: Mapping[NodeId, PublicKey],
    *,
    cluster: ClusterId,
    account: AccountId,
    upload: UploadId,
    term: int,
) -> list[Receipt]:
    """The receipts, each verified against its node's key and for this very upload and term.

    Raises:
        Refused: one is another upload's, another term's, or not signed by a known node.
    """
    opened = []
    for envelope in envelopes:
        receipt = open_receipt_of_any(envelope, cluster, keys)
        if receipt.account != account or receipt.upload != upload:
            raise Refused("a receipt was given for another upload")
        if receipt.term != term:
            raise Refused(f"a receipt is of term {receipt.term}, and the cluster is in term {term}")
        opened.append(receipt)
    return opened


def durable_stripes(
    chunks: Sequence[CommitChunk], receipts: Sequence[Receipt], groups: Mapping[int, Group], upload: UploadId
) -> list[DurableStripe]:
    """What may be committed.

    Raises:
        GroupMoved: a group's version is not the current one.
        NoQuorum: a stripe has fewer durable slots than its write quorum.
        NotFound, BadRequest: an unknown group, or sizes that do not fit.
    """
    # By node and group. Digests are compared as bytes: a commit names some dozens, and an id is made slowly.
    proven: dict[tuple[NodeId, int], set[tuple[bytes, int, bytes]]] = defaultdict(set)
    for receipt in receipts:
        group = groups.get(receipt.group)
        if group is None or receipt.group_version != group.version:
            continue
        vouched_for = proven[receipt.node, receipt.group]
        for entry in receipt.entries:
            if entry.generation == upload:
                vouched_for.add((entry.chunk, entry.slot, entry.digest))
    made, short = [], []
    for chunk in chunks:
        group = groups.get(chunk.group)
        if group is None:
            raise NotFound(f"there is no group {chunk.group}")
        if chunk.group_version != group.version:
            raise GroupMoved(f"group {group.id} is at version {group.version} now", group=group.id)
        if len(chunk.replaces) not in (0, UploadId.SIZE):
            raise BadRequest("a replaced generation has 16 bytes")
        header = StripeHeader(group.profile, chunk.sealed_bytes, chunk.digests)
        durable = frozenset(
            slot
            for slot, node in enumerate(group.members)
            if (chunk.chunk, slot, header.digests[_DIGEST * slot : _DIGEST * (slot + 1)])
            in proven.get((node, group.id), ())
        )
        if len(durable) < group.profile.write_quorum:
            short.append(chunk.chunk.hex())
            continue
        made.append(
            DurableStripe(
                chunk.chunk, group, chunk.sealed_bytes, header.stripe_digest, durable, chunk.replaces
            )
        )
    if short:
        raise NoQuorum(
            f"{len(short)} chunks have fewer durable shards than their write quorum",
            do="Send their shards again, to this group or another.",
            chunks=short[:64],
        )
    return made
