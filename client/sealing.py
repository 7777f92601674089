"""Sealing a chunk: compress, pad, encrypt under a key of its own; and opening it again.

    p          = header(1) || length of body (u32 BE) || body || zeros up to the Padmé length
    pid        = BLAKE3-keyed(K_id, p)
    key(32) || commitment(32) = HKDF-Expand-SHA512(K_chunk, "holdfast/v1/chunk" 0x00 || version || pid, 64)
    sealed     = version || commitment || AES-256-GCM(key, 12 zero bytes, p, aad = version || commitment)
    chunk id   = BLAKE3(sealed)

The key is unique to p, so the fixed nonce never repeats under one key; the
commitment keeps a sealed chunk from opening under a second key (docs/FORMAT.md,
"Sealing"). Within one account and epoch equal p seals equally; across accounts
nothing matches. Padmé: Nikitin et al., "Reducing Metadata Leakage from
Encrypted Files and Communication with PURBs", PETS 2019, algorithm 1.
"""

from __future__ import annotations

import sys
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from msgspec import Struct

from holdfast.client.primitives import AESGCM, compare_digest
from holdfast.protocol.errors import BadRequest, IntegrityFailure
from holdfast.protocol.ids import ChunkId, FixedBytes
from holdfast.protocol.limits import CHUNK_PADDED_BYTES_MAX, CHUNK_PLAIN_BYTES_MAX, SEALED_BYTES_MAX
from holdfast.protocol.secret import Secret

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["PlainId", "SealedChunk", "SealingKeys", "open_chunk", "padme", "seal"]

_VERSION: Final = b"\x01"
_NONCE: Final = bytes(12)
_STORED: Final = 0
_ZSTD: Final = 1
_OVERHEAD: Final = 1 + 32
_TAG: Final = 16
_LEVEL: Final = 3
_SAMPLE_BYTES: Final = 4096
_SAMPLES: Final = 4
_WORTHWHILE: Final = 0.97


class PlainId(FixedBytes):
    """BLAKE3-keyed(K_id, p): names what is inside a sealed chunk, to its owner only."""

    SIZE = 32


class SealingKeys(Secret, frozen=True):
    """K_id (32 bytes) and K_chunk (64 bytes) of one account key epoch."""

    epoch: int
    id_key: bytes
    chunk_key: bytes


class SealedChunk(Struct, frozen=True):
    """A chunk ready to be stored. ``plain_bytes`` is the length before compression."""

    pid: PlainId
    chunk_id: ChunkId
    sealed: bytes | bytearray
    plain_bytes: int
    epoch: int


def padme(length: int) -> int:
    """The Padmé length of ``length`` bytes: at most 12% longer, few distinct values."""
    if length < 2:
        return length
    e = length.bit_length() - 1
    s = e.bit_length()
    mask = (1 << (e - s)) - 1
    return (length + mask) & ~mask


def _looks_compressible(plain: memoryview) -> bool:
    """A few KiB tell: compressing what does not compress is the dearest thing a client can do."""
    if len(plain) <= _SAMPLES * _SAMPLE_BYTES:
        return True
    step = (len(plain) - _SAMPLE_BYTES) // (_SAMPLES - 1)
    sample = b"".join(plain[i * step : i * step + _SAMPLE_BYTES] for i in range(_SAMPLES))
    return len(zstd.compress(sample, 1)) < _WORTHWHILE * len(sample)


def _derive(keys: SealingKeys, pid: bytes) -> tuple[bytes, bytes]:
    info = b"holdfast/v1/chunk\0" + _VERSION + pid
    made = HKDFExpand(SHA512(), 64, info).derive(keys.chunk_key)
    return made[:32], made[32:]


def _packed(plain: bytes | bytearray | memoryview, compress: bool) -> bytes:
    view = memoryview(plain)
    how, body = _STORED, view
    if compress and len(view) and _looks_compressible(view):
        squeezed = zstd.compress(view, _LEVEL)
        if len(squeezed) < _WORTHWHILE * len(view):
            how, body = _ZSTD, memoryview(squeezed)
    header = bytes((how,)) + len(body).to_bytes(4, "big")
    return b"".join((header, body, bytes(padme(5 + len(body)) - 5 - len(body))))


def seal(keys: SealingKeys, plain: bytes | bytearray | memoryview, *, compress: bool = True) -> SealedChunk:
    """Seal up to CHUNK_PLAIN_BYTES_MAX - 5 bytes.

    Raises:
        BadRequest: the chunk is too long.
    """
    if len(plain) > CHUNK_PLAIN_BYTES_MAX - 5:
        raise BadRequest(f"a chunk has at most {CHUNK_PLAIN_BYTES_MAX - 5} bytes, not {len(plain)}")
    p = _packed(plain, compress)
    pid = PlainId(blake3(p, key=keys.id_key).digest())
    key, commitment = _derive(keys, pid)
    lead = _VERSION + commitment
    sealed = bytearray(_OVERHEAD + len(p) + _TAG)
    sealed[:_OVERHEAD] = lead
    AESGCM(key).encrypt_into(_NONCE, p, lead, memoryview(sealed)[_OVERHEAD:])
    return SealedChunk(pid, ChunkId(blake3(sealed).digest()), sealed, len(plain), keys.epoch)


def _refuse(chunk_id: ChunkId, why: str) -> IntegrityFailure:
    return IntegrityFailure(
        f"chunk {chunk_id.short} does not open",
        why=why,
        do="Run 'holdfast check --read-data' to see what else is affected.",
        chunk=chunk_id.hex(),
    )


def open_chunk(
    keys: SealingKeys,
    sealed: bytes | bytearray | memoryview,
    *,
    chunk_id: ChunkId,
    pid: PlainId,
    plain_bytes: int,
    proven: bool = False,
) -> bytes | memoryview:
    """The plaintext, after every check: chunk id, commitment, tag, pid, zeros, bounded decompression.

    Args:
        proven: the chunk id has been compared with these very bytes already, as a ChunkSource does.

    Raises:
        IntegrityFailure: any of them does not hold; nothing of the content is handed out.
    """
    view = memoryview(sealed)
    if len(view) > SEALED_BYTES_MAX or not (proven or blake3(view).digest() == chunk_id):
        raise _refuse(chunk_id, "its bytes are not those of its chunk id")
    if len(view) < _OVERHEAD + _TAG + 5 or bytes(view[:1]) != _VERSION:
        raise _refuse(chunk_id, "its sealing version is not known here")
    key, commitment = _derive(keys, pid)
    if not compare_digest(commitment, view[1:_OVERHEAD]):
        raise _refuse(chunk_id, "it was sealed under another key")
    p = bytearray(len(view) - _OVERHEAD - _TAG)
    try:
        AESGCM(key).decrypt_into(_NONCE, view[_OVERHEAD:], view[:_OVERHEAD], p)
    except InvalidTag:
        p[:] = bytes(len(p))
        raise _refuse(chunk_id, "its authentication tag does not hold") from None
    if blake3(p, key=keys.id_key).digest() != pid:
        raise _refuse(chunk_id, "its content is not what its plain id names")
    return _unpacked(memoryview(p), chunk_id, plain_bytes)


def _unpacked(p: memoryview, chunk_id: ChunkId, plain_bytes: int) -> bytes | memoryview:
    how, length = p[0], int.from_bytes(p[1:5], "big")
    if len(p) > CHUNK_PADDED_BYTES_MAX or 5 + length > len(p) or padme(5 + length) != len(p):
        raise _refuse(chunk_id, "its inner length does not fit")
    body, padding = p[5 : 5 + length], p[5 + length :]
    if padding.tobytes().strip(b"\0"):
        raise _refuse(chunk_id, "its padding is not zero")
    if how == _STORED:
        plain: bytes | memoryview = body.toreadonly()
    elif how == _ZSTD:
        plain = _decompressed(body, chunk_id, plain_bytes)
    else:
        raise _refuse(chunk_id, f"its compression {how} is not known here")
    if len(plain) != plain_bytes:
        raise _refuse(chunk_id, f"it holds {len(plain)} bytes where {plain_bytes} were expected")
    return plain


def _decompressed(body: memoryview, chunk_id: ChunkId, plain_bytes: int) -> bytes:
    # Below -1 "max_length" would mean: without any bound.
    if not 0 <= plain_bytes <= CHUNK_PLAIN_BYTES_MAX:
        raise _refuse(chunk_id, f"it cannot have {plain_bytes} bytes")
    stream = zstd.ZstdDecompressor()
    try:
        plain = stream.decompress(body, max_length=plain_bytes + 1)
    except zstd.ZstdError as error:
        raise _refuse(chunk_id, f"it does not decompress ({error})") from None
    if not stream.eof or stream.unused_data:
        raise _refuse(chunk_id, "its compressed body is cut off or too long")
    return plain
