"""A batch of chunks as stripes: what each node gets, what the coordinator is told. Pure, runs in threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from holdfast.client.sealing import SealedChunk
from holdfast.protocol import erasure
from holdfast.protocol.errors import IntegrityFailure, Refused
from holdfast.protocol.ids import ChunkId, ClusterId, UploadId
from holdfast.protocol.messages.cluster import MapNode
from holdfast.protocol.messages.nodes import PutEntry, PutHeader
from holdfast.protocol.messages.uploads import CommitChunk, Lease, StoredChunk
from holdfast.protocol.profiles import Profile
from holdfast.protocol.receipts import open_receipt
from holdfast.protocol.signing import Signed
from holdfast.protocol.stripes import StripeHeader, digest_of

__all__ = ["StripeBatch", "check_receipt", "encode_batch", "proves_stored"]


class StripeBatch(Struct, frozen=True):
    """For each slot its header and shards; for the coordinator the chunks; the stripes in order."""

    lease: Lease
    headers: list[PutHeader]
    shards: list[list[bytes | memoryview]]
    commit: list[CommitChunk]
    stripes: list[StripeHeader]

    def committing(self, replaces: Mapping[ChunkId, bytes]) -> StripeBatch:
        """The same, where only these chunks are committed, in the place of those generations."""
        return StripeBatch(
            self.lease,
            self.headers,
            self.shards,
            [
                CommitChunk(
                    chunk.chunk,
                    chunk.group,
                    chunk.group_version,
                    chunk.sealed_bytes,
                    chunk.digests,
                    replaces[chunk.chunk],
                )
                for chunk in self.commit
                if chunk.chunk in replaces
            ],
            self.stripes,
        )


def _stripe(
    profile: Profile, sealed: bytes | bytearray, shards: Sequence[bytes | memoryview]
) -> StripeHeader:
    return StripeHeader(profile, len(sealed), b"".join(digest_of(shard) for shard in shards))


def encode_batch(lease: Lease, chunks: Sequence[SealedChunk]) -> StripeBatch:
    """Encode and hash all stripes of a batch for one group; none of them replaces anything yet."""
    profile = lease.profile
    coded = erasure.encode_many(profile, [chunk.sealed for chunk in chunks])
    stripes = [_stripe(profile, chunk.sealed, shards) for chunk, shards in zip(chunks, coded, strict=True)]
    entries = [
        PutEntry(chunk.chunk_id, len(chunk.sealed), stripe.digests)
        for chunk, stripe in zip(chunks, stripes, strict=True)
    ]
    commit = [
        CommitChunk(
            chunk.chunk_id,
            lease.group,
            lease.version,
            len(chunk.sealed),
            stripe.digests,
            b"",
        )
        for chunk, stripe in zip(chunks, stripes, strict=True)
    ]
    return StripeBatch(
        lease,
        [PutHeader(slot=slot, entries=entries) for slot in range(profile.n)],
        [[shards[slot] for shards in coded] for slot in range(profile.n)],
        commit,
        stripes,
    )


def proves_stored(told: Sequence[tuple[SealedChunk, StoredChunk]]) -> dict[ChunkId, bytes]:
    """Check "stored" answers against our own bytes; gives what must be sent anyway, with what it replaces.

    The stripe digest is recomputed from the sealed chunk: a catalogue that says "stored" of a
    stripe with other bytes is found out here, before the only good copy is thrown away.
    """
    wrong: dict[ChunkId, bytes] = {}
    by_profile: dict[Profile, list[tuple[SealedChunk, StoredChunk]]] = {}
    for chunk, answer in told:
        by_profile.setdefault(Profile(answer.k, answer.m), []).append((chunk, answer))
    for profile, group in by_profile.items():
        coded = erasure.encode_many(profile, [chunk.sealed for chunk, _ in group])
        for (chunk, answer), shards in zip(group, coded, strict=True):
            if _stripe(profile, chunk.sealed, shards).stripe_digest != answer.stripe:
                wrong[chunk.chunk_id] = answer.generation
    return wrong


def check_receipt(
    signed: Signed, batch: StripeBatch, slot: int, node: MapNode, cluster: ClusterId, upload: UploadId
) -> None:
    """A node's receipt must say exactly what was sent to it.

    Raises:
        Refused: signed by somebody else, or for another upload or group.
        IntegrityFailure: it names other shards.
    """
    receipt = open_receipt(signed, cluster, node.key)
    lease = batch.lease
    if (receipt.upload, receipt.group, receipt.group_version) != (upload, lease.group, lease.version):
        raise Refused(f"node {node.id.short} gave a receipt for something else")
    expected = {
        (chunk.chunk, slot, stripe.digest(slot))
        for chunk, stripe in zip(batch.commit, batch.stripes, strict=True)
    }
    if {(e.chunk, e.slot, e.digest) for e in receipt.entries if e.generation == upload} != expected:
        raise IntegrityFailure(f"node {node.id.short} gave a receipt for other shards than it was sent")
