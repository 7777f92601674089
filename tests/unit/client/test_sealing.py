"""A sealed chunk tells nothing, cannot be changed unnoticed, and opens under one key only."""

from __future__ import annotations

import os
import tracemalloc

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.client.identity import AccountKeys
from holdfast.client.sealing import open_chunk, padme, seal
from holdfast.protocol.errors import BadRequest, IntegrityFailure
from holdfast.protocol.ids import ChunkId
from holdfast.protocol.limits import CHUNK_PADDED_BYTES_MAX, CHUNK_PLAIN_BYTES_MAX, SEALED_BYTES_MAX

ADA = AccountKeys.of(1, b"account key of Ada, 32 bytes 123").sealing
EVE = AccountKeys.of(1, b"account key of Eve, 32 bytes 123").sealing
LATER = AccountKeys.of(2, b"account key of Ada's next epoch!").sealing

contents = st.one_of(
    st.binary(max_size=5000),
    st.builds(lambda part, times: part * times, st.binary(min_size=1, max_size=50), st.integers(1, 4000)),
)


def opened(keys: object, chunk: object, **changed: object) -> bytes:
    names = ("chunk_id", "pid", "plain_bytes")
    given = {name: getattr(chunk, name) for name in names} | changed
    sealed = given.pop("sealed", chunk.sealed)  # type: ignore[attr-defined]
    return bytes(open_chunk(keys, sealed, **given))  # type: ignore[arg-type]


@settings(deadline=None)
@given(contents, st.booleans())
def test_what_was_sealed_comes_back(plain: bytes, compress: bool) -> None:
    assert opened(ADA, seal(ADA, plain, compress=compress)) == plain


@pytest.mark.parametrize("length", [0, 1, 2**20, CHUNK_PLAIN_BYTES_MAX - 5])
def test_every_length_up_to_the_longest_fits(length: int) -> None:
    plain = os.urandom(length)
    chunk = seal(ADA, plain)
    assert opened(ADA, chunk) == plain
    assert len(chunk.sealed) <= SEALED_BYTES_MAX
    with pytest.raises(BadRequest):
        seal(ADA, bytes(CHUNK_PLAIN_BYTES_MAX - 4))


@settings(max_examples=40, deadline=None)
@given(contents)
def test_equal_content_seals_equally_in_one_account_and_epoch_and_nowhere_else(plain: bytes) -> None:
    mine = seal(ADA, plain)
    assert seal(ADA, plain) == mine
    for others in (EVE, LATER):
        theirs = seal(others, plain)
        assert theirs.chunk_id != mine.chunk_id and theirs.pid != mine.pid
        assert theirs.sealed[33:] != mine.sealed[33:]
        with pytest.raises(IntegrityFailure):
            opened(others, mine)


@settings(max_examples=60, deadline=None)
@given(contents, st.data())
def test_no_bit_can_be_turned_over_unnoticed(plain: bytes, data: st.DataObject) -> None:
    from blake3 import blake3

    chunk = seal(ADA, plain)
    at = data.draw(st.integers(0, len(chunk.sealed) - 1))
    broken = bytearray(chunk.sealed)
    broken[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(IntegrityFailure):
        opened(ADA, chunk, sealed=bytes(broken))
    # Not even by somebody who renames the chunk.
    with pytest.raises(IntegrityFailure):
        opened(ADA, chunk, sealed=bytes(broken), chunk_id=ChunkId(blake3(broken).digest()))
    with pytest.raises(IntegrityFailure):
        opened(ADA, chunk, sealed=bytes(broken), proven=True)


def test_the_same_body_stored_or_compressed_never_shares_a_key() -> None:
    """The fixed nonce is safe because the key follows from all of p, its header too."""
    frame = zstd.compress(b"letters " * 100)
    squeezed, stored = seal(ADA, b"letters " * 100), seal(ADA, frame, compress=False)
    assert squeezed.pid != stored.pid
    assert squeezed.sealed[1:33] != stored.sealed[1:33], "the commitment follows the key"


@given(st.integers(0, 2**26))
def test_padding_costs_at_most_an_eighth_and_leaves_few_lengths(length: int) -> None:
    padded = padme(length)
    assert length <= padded <= length * 1.12 + 1
    assert padme(padded) == padded


def test_few_lengths_are_left_to_tell_apart() -> None:
    assert len({padme(length) for length in range(2**16, 2**17)}) <= 33
    assert padme(CHUNK_PLAIN_BYTES_MAX) <= CHUNK_PADDED_BYTES_MAX


def test_sealed_lengths_depend_on_the_padded_length_alone() -> None:
    lengths = {len(seal(ADA, os.urandom(size), compress=False).sealed) for size in range(1000, 1011)}
    assert len(lengths) == 1


def test_other_content_under_a_chunk_s_own_key_is_refused() -> None:
    """Somebody with the account's keys sealed it so: everything holds but the plain id."""
    from blake3 import blake3
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    chunk = seal(ADA, b"what was promised", compress=False)
    made = HKDFExpand(SHA512(), 64, b"holdfast/v1/chunk\0\1" + chunk.pid).derive(ADA.chunk_key)
    p = (b"\0" + (17).to_bytes(4, "big") + b"something else!!!").ljust(padme(22), b"\0")
    lead = b"\1" + made[32:]
    sealed = lead + AESGCM(made[:32]).encrypt(bytes(12), p, lead)
    assert sealed[:33] == chunk.sealed[:33], "the same key and commitment"
    with pytest.raises(IntegrityFailure, match="plain id"):
        opened(ADA, chunk, sealed=sealed, chunk_id=ChunkId(blake3(sealed).digest()))


def test_a_bomb_does_not_explode() -> None:
    """A frame of a few KiB that would decompress to gigabytes, sealed by somebody with the keys."""
    from blake3 import blake3
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    compressor = zstd.ZstdCompressor(level=19)
    body = b"".join(compressor.compress(bytes(2**20)) for _ in range(512)) + compressor.flush()
    p = b"\1" + len(body).to_bytes(4, "big") + body
    p = p.ljust(padme(len(p)), b"\0")
    pid = blake3(p, key=ADA.id_key).digest()
    made = HKDFExpand(SHA512(), 64, b"holdfast/v1/chunk\0\1" + pid).derive(ADA.chunk_key)
    lead = b"\1" + made[32:]
    sealed = lead + AESGCM(made[:32]).encrypt(bytes(12), p, lead)
    from holdfast.client.sealing import PlainId

    tracemalloc.start()
    with pytest.raises(IntegrityFailure):
        open_chunk(ADA, sealed, chunk_id=ChunkId(blake3(sealed).digest()), pid=PlainId(pid), plain_bytes=1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20
