"""What describes one stripe: its digest, and the record a node keeps of each shard.

The stripe digest binds k, m, the sealed size and all n shard digests, so that
one 32-byte value in the catalogue lets any reader tell which shard is wrong
without the others. A shard record repeats all of it beside the shard, so that
the catalogue can be rebuilt from the nodes alone. These are hints against
faults; against liars the chunk id decides (docs/FORMAT.md, "Stripes").
"""

from __future__ import annotations

import struct
from typing import Final

from blake3 import blake3
from msgspec import Struct

from holdfast.protocol.errors import BadRequest, IntegrityFailure
from holdfast.protocol.ids import AccountId, ChunkId, Digest, UploadId
from holdfast.protocol.limits import SEALED_BYTES_MAX, SEALED_BYTES_MIN
from holdfast.protocol.profiles import Profile

__all__ = ["ShardRecord", "StripeHeader", "digest_of", "record_header_bytes"]

_STRIPE: Final = struct.Struct(">BBI")
# magic, version, account, chunk id, generation, group, slot, k, m, sealed bytes
_RECORD: Final = struct.Struct(">4sB32s32s16sQBBBI")
_MAGIC: Final = b"HFsr"
_VERSION: Final = 1


def digest_of(content: bytes | memoryview) -> Digest:
    """BLAKE3 of a shard (or of any other bytes)."""
    return Digest(blake3(content).digest())


class StripeHeader(Struct, frozen=True):
    """k, m, the sealed chunk's length in bytes, and n shard digests joined (n * 32 bytes).

    Raises:
        BadRequest: a size out of bounds or a digest missing.
    """

    profile: Profile
    sealed_bytes: int
    digests: bytes

    def __post_init__(self) -> None:
        if not SEALED_BYTES_MIN <= self.sealed_bytes <= SEALED_BYTES_MAX:
            raise BadRequest(
                f"a sealed chunk of {self.sealed_bytes} bytes is out of bounds",
                why=f"it has {SEALED_BYTES_MIN} to {SEALED_BYTES_MAX}",
            )
        if len(self.digests) != 32 * self.profile.n:
            raise BadRequest(f"a {self.profile} stripe has {self.profile.n} shard digests of 32 bytes")

    @property
    def shard_bytes(self) -> int:
        """Length of each shard in bytes."""
        return self.profile.shard_bytes(self.sealed_bytes)

    def digest(self, slot: int) -> Digest:
        """The digest of one slot's shard."""
        return Digest(self.digests[32 * slot : 32 * slot + 32])

    @property
    def stripe_digest(self) -> Digest:
        """BLAKE3(k, m, sealed size, the n shard digests): u8, u8, u32 BE, n * 32 bytes."""
        head = _STRIPE.pack(self.profile.k, self.profile.m, self.sealed_bytes)
        return Digest(blake3(head + self.digests).digest())


class ShardRecord(Struct, frozen=True):
    """Everything a node knows about one shard except its bytes."""

    account: AccountId
    chunk: ChunkId
    generation: UploadId
    group: int
    slot: int
    stripe: StripeHeader

    def __post_init__(self) -> None:
        if not 0 <= self.slot < self.stripe.profile.n:
            raise BadRequest(f"slot {self.slot} is outside a {self.stripe.profile} stripe")
        if not 0 <= self.group < 2**63:
            raise BadRequest(f"group {self.group} is out of range")

    @property
    def digest(self) -> Digest:
        """The digest of this shard's bytes."""
        return self.stripe.digest(self.slot)

    def pack(self) -> bytes:
        """The record's header; the shard's bytes follow it directly."""
        fixed = _RECORD.pack(
            _MAGIC,
            _VERSION,
            self.account,
            self.chunk,
            self.generation,
            self.group,
            self.slot,
            self.stripe.profile.k,
            self.stripe.profile.m,
            self.stripe.sealed_bytes,
        )
        body = fixed + self.stripe.digests
        # The header proves itself too, so that a flipped bit in it is not blamed on the shard.
        return body + blake3(body).digest(length=8)

    @classmethod
    def unpack_header(cls, header: bytes | memoryview) -> ShardRecord:
        """The record in exactly the bytes that :meth:`pack` gives.

        Raises:
            IntegrityFailure: magic, version, length, header checksum or a bound does not hold.
        """
        view = memoryview(header)
        if len(view) < _RECORD.size or bytes(view[:4]) != _MAGIC:
            raise IntegrityFailure("a stored shard record does not begin like one")
        _, version, account, chunk, generation, group, slot, k, m, sealed = _RECORD.unpack_from(view)
        if version != _VERSION:
            raise IntegrityFailure(f"a stored shard record has version {version}, known is {_VERSION}")
        end = _RECORD.size + 32 * (k + m)
        if len(view) != end + 8 or blake3(view[:end]).digest(length=8) != bytes(view[end:]):
            raise IntegrityFailure("a stored shard record's header is damaged", chunk=bytes(chunk).hex())
        try:
            stripe = StripeHeader(Profile(k, m), sealed, bytes(view[_RECORD.size : end]))
            return cls(AccountId(account), ChunkId(chunk), UploadId(generation), group, slot, stripe)
        except BadRequest as error:
            raise IntegrityFailure("a stored shard record is out of bounds", why=error.what) from error

    @classmethod
    def unpack_beginning(cls, record: bytes | memoryview) -> tuple[ShardRecord, int]:
        """The header that a stored record begins with, and how long it is in bytes.

        Raises:
            IntegrityFailure: the header does not hold, or is not all there.
        """
        view = memoryview(record)
        if len(view) < _RECORD.size:
            raise IntegrityFailure("a stored shard record does not begin like one")
        k, m = view[_RECORD.size - 6], view[_RECORD.size - 5]
        end = _RECORD.size + 32 * (k + m) + 8
        return cls.unpack_header(view[:end]), end

    @classmethod
    def unpack(cls, record: bytes | memoryview) -> tuple[ShardRecord, memoryview]:
        """Split a stored record into its header and the shard's bytes (not yet verified).

        Raises:
            IntegrityFailure: the header does not hold, or the shard has the wrong length.
        """
        made, end = cls.unpack_beginning(record)
        shard = memoryview(record)[end:]
        if len(shard) != made.stripe.shard_bytes:
            raise IntegrityFailure("a stored shard has the wrong length", chunk=made.chunk.hex())
        return made, shard

    def verify(self, shard: bytes | memoryview) -> None:
        """Raise IntegrityFailure unless the bytes are this record's shard."""
        if len(shard) != self.stripe.shard_bytes or digest_of(shard) != self.digest:
            raise IntegrityFailure(
                f"shard {self.slot} of chunk {self.chunk.short} is not what was stored",
                chunk=self.chunk.hex(),
                slot=self.slot,
            )


def record_header_bytes(profile: Profile) -> int:
    """Bytes a shard record takes before the shard itself."""
    return _RECORD.size + 32 * profile.n + 8
