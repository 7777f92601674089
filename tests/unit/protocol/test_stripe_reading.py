"""A stripe is put together only from shards that prove to be its own, and counts only if the chunk does."""

from __future__ import annotations

import pytest
from blake3 import blake3
from msgspec.structs import replace

from holdfast.protocol import erasure, stripe_reading
from holdfast.protocol.ids import AccountId, ChunkId, NodeId, UploadId
from holdfast.protocol.messages.nodes import ReadResult
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripe_reading import Reading, finish, take_answer
from holdfast.protocol.stripes import ShardRecord, StripeHeader, digest_of

PROFILE = Profile(4, 2)
SEALED = b"".join(digest_of(b"%d" % number) for number in range(320))
UPLOAD = UploadId(b"u" * 16)


def shards_of(sealed: bytes) -> list[bytes]:
    return [bytes(shard) for shard in erasure.encode(PROFILE, sealed)]


def header_of(shards: list[bytes]) -> StripeHeader:
    return StripeHeader(PROFILE, len(SEALED), b"".join(digest_of(shard) for shard in shards))


def reading_of(header: StripeHeader, chunk: bytes = SEALED) -> Reading:
    chunk_id = ChunkId(blake3(chunk).digest())
    return Reading(chunk_id, 7, UPLOAD, len(SEALED), header.stripe_digest, PROFILE, frozenset())


def answer(reading: Reading, slot: int, header: StripeHeader, shard: bytes) -> list[str]:
    """A node hands out a shard of a slot; gives what was wrong with it."""
    record = ShardRecord(AccountId(b"a" * 32), reading.chunk, UPLOAD, 7, slot, header)
    result = ReadResult("ok", record.pack(), len(shard))
    return [kind for _, kind, _ in take_answer([reading], slot, [result], [memoryview(shard)])]


def test_any_k_right_shards_give_the_chunk() -> None:
    shards = shards_of(SEALED)
    for slots in ((0, 1, 2, 3), (2, 3, 4, 5), (0, 2, 3, 5)):
        reading = reading_of(header_of(shards))
        for slot in slots:
            assert answer(reading, slot, header_of(shards), shards[slot]) == []
        assert finish([reading]) == [SEALED]


def test_a_shard_that_is_not_the_catalogue_s_does_not_count() -> None:
    shards = shards_of(SEALED)
    other = shards_of(SEALED[::-1])
    reading = reading_of(header_of(shards))
    flipped = bytes([shards[0][0] ^ 1]) + shards[0][1:]
    assert answer(reading, 0, header_of(shards), flipped) == ["wrong"]
    assert answer(reading, 0, header_of(shards), shards[1]) == ["wrong"]
    assert answer(reading, 0, header_of(other), other[0]) == ["wrong"]
    assert answer(reading, 0, header_of(shards), shards[0][:-1]) == ["wrong"]
    assert reading.good_count == 0
    assert finish([reading]) == [None]


def test_shards_that_fit_the_catalogue_and_not_the_chunk_make_nothing() -> None:
    """The catalogue's stripe digest is a hint; the chunk id decides."""
    shards = shards_of(SEALED)
    reading = reading_of(header_of(shards), chunk=b"another chunk")
    for slot in range(4):
        assert answer(reading, slot, header_of(shards), shards[slot]) == []
    assert finish([reading]) == [None]
    assert reading.integrity is not None


def test_one_lying_shard_that_the_stripe_digest_vouches_for_is_worked_around() -> None:
    shards = shards_of(SEALED)
    shards[1] = bytes(len(shards[1]))
    header = header_of(shards)
    reading = reading_of(header)
    for slot in range(6):
        assert answer(reading, slot, header, shards[slot]) == []
    assert finish([reading]) == [SEALED]


def test_a_chunk_that_is_short_does_not_keep_others_from_being_made() -> None:
    shards = shards_of(SEALED)
    whole, short = reading_of(header_of(shards)), replace(reading_of(header_of(shards)))
    for slot in range(4):
        answer(whole, slot, header_of(shards), shards[slot])
        if slot:
            answer(short, slot, header_of(shards), shards[slot])
    assert finish([short, whole]) == [None, SEALED]


# Shards that are taken unproven

NODE = NodeId(b"n" * 16)


def unproven(reading: Reading, slot: int, header: StripeHeader, shard: bytes) -> list[str]:
    """As `answer`, and nothing was found wrong before."""
    record = ShardRecord(AccountId(b"a" * 32), reading.chunk, UPLOAD, 7, slot, header)
    result = ReadResult("ok", record.pack(), len(shard))
    return [kind for _, kind, _ in take_answer([reading], slot, [result], [memoryview(shard)], NODE)]


@pytest.mark.parametrize("slots", [(0, 1, 2, 3), (2, 3, 4, 5), (0, 2, 3, 5)])
def test_a_chunk_that_holds_proves_its_shards(
    slots: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = shards_of(SEALED)
    header = header_of(shards)
    reading = reading_of(header)
    monkeypatch.setattr(stripe_reading, "digest_of", None)  # no byte is hashed twice
    for slot in slots:
        assert unproven(reading, slot, header, shards[slot]) == []
    assert finish([reading]) == [SEALED]
    assert reading.lies == []


@pytest.mark.parametrize("wrong", [{0}, {3}, {1, 2}, {0, 1, 2, 3}])
def test_a_chunk_that_does_not_hold_tells_which_shards_are_wrong(wrong: set[int]) -> None:
    shards = shards_of(SEALED)
    header = header_of(shards)
    reading = reading_of(header)
    for slot in range(4):
        flipped = bytes([shards[slot][0] ^ 1]) + shards[slot][1:]
        assert unproven(reading, slot, header, flipped if slot in wrong else shards[slot]) == []
    assert finish([reading]) == [None]
    assert reading.integrity is None, "others may be asked"
    record = ShardRecord(AccountId(b"a" * 32), reading.chunk, UPLOAD, 7, min(wrong), header)
    assert reading.lies[0] == (min(wrong), NODE, record.pack())
    assert {slot for slot, _, _ in reading.lies} == wrong
    assert set(reading.shards) == set(range(4)) - wrong
    if len(wrong) <= 2:
        for slot in (4, 5):
            assert answer(reading, slot, header, shards[slot]) == []
        assert finish([reading]) == [SEALED]


def test_a_spare_shard_makes_good_a_wrong_one_at_once() -> None:
    shards = shards_of(SEALED)
    header = header_of(shards)
    reading = reading_of(header)
    for slot in (0, 1, 2, 3, 5):
        assert unproven(reading, slot, header, bytes(len(shards[0])) if slot == 1 else shards[slot]) == []
    assert finish([reading]) == [SEALED]
    assert [slot for slot, _, _ in reading.lies] == [1]


def test_what_is_not_the_catalogue_s_does_not_count_unproven_either() -> None:
    shards, other = shards_of(SEALED), shards_of(SEALED[::-1])
    reading = reading_of(header_of(shards))
    assert unproven(reading, 0, header_of(other), other[0]) == ["wrong"]
    assert unproven(reading, 0, header_of(shards), shards[0][:-1]) == ["wrong"]
    assert reading.good_count == 0


def test_a_stripe_digest_that_lies_is_worked_around_unproven_as_well() -> None:
    shards = shards_of(SEALED)
    shards[1] = bytes(len(shards[1]))
    header = header_of(shards)
    reading = reading_of(header)
    for slot in range(6):
        assert unproven(reading, slot, header, shards[slot]) == []
    assert finish([reading]) == [SEALED]
    assert reading.lies == [], "each is what its stripe says"
    only = reading_of(header)
    for slot in range(4):
        assert unproven(only, slot, header, shards[slot]) == []
    assert finish([only]) == [None]
    assert only.integrity is not None
