"""Putting one stripe together while its shards come in: for clients that read, and nodes that rebuild.

Each shard must be the one that the catalogue's stripe digest names, and the decoded chunk must
hash to its id. Where nobody has lied yet, a reader may take shards unproven: the chunk's id
proves each byte of the k shards that it was decoded from, and only when it does not are they hashed one
by one, to know which is wrong. So a byte is hashed once. Runs in threads; touches no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, islice
from typing import Literal

from blake3 import blake3
from msgspec import Struct, field

from holdfast.protocol import erasure
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, IntegrityFailure
from holdfast.protocol.ids import ChunkId, Digest, NodeId, UploadId
from holdfast.protocol.limits import DECODE_TRIES_MAX
from holdfast.protocol.messages.nodes import ReadAnswer, ReadResult
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripes import ShardRecord, StripeHeader, digest_of
from holdfast.protocol.transport import split_frame

__all__ = ["Reading", "Sealed", "Wrong", "finish", "open_read_answer", "take_answer"]

Sealed = bytes | bytearray


class Reading(Struct, eq=False):
    """One chunk being read: what the catalogue says, what has come, what was tried.

    Attributes:
        unproven: of the shards those that were not hashed yet: who gave it, and the header that came with it.
        lies: those that :func:`finish` has found to be wrong since: slot, who gave it, its header.
    """

    chunk: ChunkId
    group: int
    generation: UploadId
    sealed_bytes: int
    stripe: Digest
    profile: Profile
    missing: frozenset[int]
    header: StripeHeader | None = None
    tried: set[tuple[int, NodeId]] = field(default_factory=set)
    shards: dict[int, memoryview] = field(default_factory=dict)
    unproven: dict[int, tuple[NodeId, bytes]] = field(default_factory=dict)
    lies: list[tuple[int, NodeId, bytes]] = field(default_factory=list)
    integrity: IntegrityFailure | None = None

    @property
    def good_count(self) -> int:
        """Shards so far that were not found wrong."""
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


Wrong = tuple[Reading, Literal["absent", "damaged", "wrong"], bytes]
"""A shard that was not there or not right: of which reading, what was met, the header that came with it."""


def open_read_answer(body: bytes | memoryview, most: int) -> tuple[ReadAnswer, list[memoryview]]:
    """The framed answer to a read: results, and for each that is "ok" its shard's bytes, not yet verified.

    Raises:
        BadRequest: it does not cover what was asked, or is not as long as it says.
    """
    told, rest = split_frame(body)
    answer = decode(told, ReadAnswer)
    if not answer.results or len(answer.results) > most:
        raise BadRequest("a node's answer does not cover what was asked")
    shards, at = [], 0
    for result in answer.results:
        if result.status == "ok":
            shards.append(rest[at : at + result.shard_bytes])
            at += result.shard_bytes
    if at != len(rest):
        raise BadRequest("a node's answer is not as long as it says")
    return answer, shards


def take_answer(
    readings: Sequence[Reading],
    slot: int,
    results: Sequence[ReadResult],
    shards: Sequence[memoryview],
    unproven_from: NodeId | None = None,
) -> list[Wrong]:
    """Keep the shards that prove to be right; gives those that do not.

    Args:
        unproven_from: the node that gave them, to keep those whose header is right without hashing them:
            :func:`finish` does, where it must. Where a slot's shard is here from somebody else already (two
            nodes hold a slot that is moving) it is hashed: a wrong one must not take a right one's place.
    """
    wrong: list[Wrong] = []
    following = iter(shards)
    for reading, result in zip(readings, results, strict=True):
        if result.status != "ok":
            wrong.append((reading, result.status, b""))
            continue
        shard = next(following)
        stripe = _named(reading, slot, result.record, shard)
        giver = None if reading.has_slot(slot) else unproven_from
        if stripe is None or (giver is None and digest_of(shard) != stripe.digest(slot)):
            wrong.append((reading, "wrong", result.record))
            continue
        reading.header = stripe
        reading.shards[slot] = shard
        if giver is not None:
            reading.unproven[slot] = (giver, result.record)
    return wrong


def _named(reading: Reading, slot: int, header: bytes, shard: memoryview) -> StripeHeader | None:
    """The stripe's header if it is the one that the catalogue's stripe digest stands for, and fits."""
    try:
        record = ShardRecord.unpack_header(header)
    except (IntegrityFailure, BadRequest):
        return None
    stripe = record.stripe
    is_named = (
        stripe.stripe_digest == reading.stripe
        and stripe.sealed_bytes == reading.sealed_bytes
        and stripe.profile == reading.profile
        and record.chunk == reading.chunk
        and record.slot == slot
        and len(shard) == stripe.shard_bytes
    )
    return stripe if is_named else None


def finish(readings: Sequence[Reading]) -> list[Sealed | None]:
    """Decode what has enough shards; None where there are too few (or the chunk does not verify).

    Shards that were not proven and decode to another chunk are hashed now, and those that are wrong are
    lies: without them there may be too few. Shards that verify but decode to another chunk mean that the
    stripe digest itself is wrong; then other k-subsets of what is here are tried, a bounded number.
    """
    made: list[Sealed | None] = []
    for reading in readings:
        sealed = _first_decoded(reading) if reading.unproven and reading.has_enough else None
        if sealed is None and reading.unproven:
            _prove(reading)
        if sealed is None and not reading.has_enough:
            made.append(None)
            continue
        if sealed is None:
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


def _first_decoded(reading: Reading) -> Sealed | None:
    """The chunk, from the first k shards, if it is the one: then these are proven as well."""
    chosen = {slot: reading.shards[slot] for slot in sorted(reading.shards)[: reading.profile.k]}
    return _verified(reading, chosen)


def _prove(reading: Reading) -> None:
    """Hash what was not hashed, and drop what is not what its stripe says."""
    assert reading.header is not None
    for slot, (node, record) in reading.unproven.items():
        if digest_of(reading.shards[slot]) != reading.header.digest(slot):
            del reading.shards[slot]
            reading.lies.append((slot, node, record))
    reading.unproven.clear()


def _decoded(reading: Reading) -> Sealed | None:
    slots = sorted(reading.shards)
    for subset in islice(combinations(slots, reading.profile.k), DECODE_TRIES_MAX):
        sealed = _verified(reading, {slot: reading.shards[slot] for slot in subset})
        if sealed is not None:
            return sealed
    return None


def _verified(reading: Reading, chosen: dict[int, memoryview]) -> Sealed | None:
    sealed = erasure.decode(reading.profile, chosen, reading.sealed_bytes)
    return sealed if blake3(sealed).digest() == reading.chunk else None
