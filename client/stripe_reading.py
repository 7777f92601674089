"""Putting one stripe together while its shards come in. Runs in threads; touches no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import Self

from blake3 import blake3

from holdfast.client.limits import DECODE_TRIES_MAX
from holdfast.protocol import erasure
from holdfast.protocol.errors import BadRequest, IntegrityFailure
from holdfast.protocol.ids import ChunkId, Digest, NodeId, UploadId
from holdfast.protocol.messages.nodes import ReadResult
from holdfast.protocol.messages.uploads import LocatedChunk, ReportEntry
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripes import ShardRecord, digest_of

__all__ = ["Reading", "Sealed", "finish", "take_answer"]

Sealed = bytes | bytearray


@dataclass(slots=True, eq=False)
class Reading:
    """One chunk being read: what the catalogue says, what has come, what was tried."""

    chunk: ChunkId
    group: int
    generation: UploadId
    sealed_bytes: int
    stripe: Digest
    profile: Profile
    missing: frozenset[int]
    tried: set[tuple[int, NodeId]] = field(default_factory=set)
    shards: dict[int, memoryview] = field(default_factory=dict)
    integrity: IntegrityFailure | None = None

    @classmethod
    def of(cls, chunk: ChunkId, row: LocatedChunk, profile: Profile) -> Self:
        """A reading of a located chunk."""
        return cls(
            chunk, row.group, row.generation, row.sealed_bytes, row.stripe, profile, frozenset(row.missing)
        )

    @property
    def good_count(self) -> int:
        """Verified shards so far."""
        return len(self.shards)

    @property
    def has_enough(self) -> bool:
        """Can it be decoded?"""
        return len(self.shards) >= self.profile.k

    def has_slot(self, slot: int) -> bool:
        """Is this slot's shard here?"""
        return slot in self.shards

    def tried_source(self, slot: int, node: NodeId) -> bool:
        """Was it asked for this slot already?"""
        return (slot, node) in self.tried


def take_answer(
    readings: Sequence[Reading],
    slot: int,
    node: NodeId,
    results: Sequence[ReadResult],
    shards: Sequence[memoryview],
) -> list[ReportEntry]:
    """Keep the shards that prove to be right; gives reports of those that do not."""
    reports: list[ReportEntry] = []
    following = iter(shards)
    for reading, result in zip(readings, results, strict=True):
        if result.status != "ok":
            kind = "absent" if result.status == "absent" else "damaged"
            reports.append(ReportEntry(reading.chunk, reading.generation, slot, node, kind, b""))
            continue
        shard = next(following)
        if _is_right(reading, slot, result.record, shard):
            reading.shards[slot] = shard
        else:
            reports.append(
                ReportEntry(reading.chunk, reading.generation, slot, node, "wrong", result.record[:8192])
            )
    return reports


def _is_right(reading: Reading, slot: int, header: bytes, shard: memoryview) -> bool:
    """Is this the shard that the catalogue's stripe digest stands for?"""
    try:
        record = ShardRecord.unpack_header(header)
    except (IntegrityFailure, BadRequest):
        return False
    stripe = record.stripe
    return (
        stripe.stripe_digest == reading.stripe
        and stripe.sealed_bytes == reading.sealed_bytes
        and stripe.profile == reading.profile
        and record.chunk == reading.chunk
        and record.slot == slot
        and len(shard) == stripe.shard_bytes
        and digest_of(shard) == stripe.digest(slot)
    )


def finish(readings: Sequence[Reading]) -> list[Sealed | None]:
    """Decode what has enough shards; None where there are too few (or the chunk does not verify).

    Shards that verify but decode to another chunk mean that the stripe digest itself is wrong; then
    other k-subsets of what is here are tried, a bounded number.
    """
    made: list[Sealed | None] = []
    for reading in readings:
        if not reading.has_enough:
            made.append(None)
            continue
        sealed = _decoded(reading)
        if sealed is None:
            reading.integrity = IntegrityFailure(
                f"chunk {reading.chunk.short} does not decode to what its id names",
                why="its shards agree with the catalogue, but not with the chunk",
                do="Run 'holdfast backup' on the device that still has the files.",
                chunk=reading.chunk.hex(),
            )
        made.append(sealed)
    return made


def _decoded(reading: Reading) -> Sealed | None:
    k = reading.profile.k
    slots = sorted(reading.shards)
    for subset in islice(combinations(slots, k), DECODE_TRIES_MAX):
        chosen = {slot: reading.shards[slot] for slot in subset}
        sealed = erasure.decode(reading.profile, chosen, reading.sealed_bytes)
        if blake3(sealed).digest() == reading.chunk:
            return sealed
    return None
