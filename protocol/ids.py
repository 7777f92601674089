"""Fixed-width identifiers.

Every identifier is its own ``bytes`` subclass of one exact length, so that a
chunk id cannot be handed over where an account id belongs without the type
checker noticing, and a wrong length is refused where it is made. ``str()`` is
lower-case hex; ``short`` is what people see in listings.
"""

from __future__ import annotations

from typing import ClassVar, Self

__all__ = [
    "AccountId",
    "ChunkId",
    "ClusterId",
    "DeviceId",
    "Digest",
    "FixedBytes",
    "KeyId",
    "NodeId",
    "PublicKey",
    "Signature",
    "SnapshotId",
    "StoreId",
    "UploadId",
]


_BYTES_LIKE = (bytes, bytearray, memoryview)
"""A tuple made once: ids are made by the thousand, and ``a | b`` makes a type each time."""


class FixedBytes(bytes):
    """Bytes of exactly ``SIZE`` octets.

    Raises:
        ValueError: the value has another length, or is not bytes-like.
    """

    SIZE: ClassVar[int]
    SHORT_HEX: ClassVar[int] = 8

    def __new__(cls, value: bytes | bytearray | memoryview) -> Self:
        if not isinstance(value, _BYTES_LIKE):
            raise ValueError(f"{cls.__name__} wants bytes, not {type(value).__name__}")
        made = bytes.__new__(cls, value)
        if len(made) != cls.SIZE:
            raise ValueError(f"{cls.__name__} is {cls.SIZE} bytes long, not {len(made)}")
        return made

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Parse the full lower-case hex form; raises ValueError on anything else."""
        if len(text) != 2 * cls.SIZE or text != text.lower():
            raise ValueError(f"{cls.__name__} is written as {2 * cls.SIZE} lower-case hex digits")
        return cls(bytes.fromhex(text))

    @property
    def short(self) -> str:
        """The first ``SHORT_HEX`` hex digits, for people."""
        return self.hex()[: self.SHORT_HEX]

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"


class ClusterId(FixedBytes):
    """BLAKE3 of the cluster root's public key (SPKI DER)."""

    SIZE = 32


class AccountId(FixedBytes):
    """BLAKE3 derive-key (context "holdfast v1 account id") of the root public key."""

    SIZE = 32


class DeviceId(FixedBytes):
    """First 16 bytes of BLAKE3 derive-key (context "holdfast v1 device id") of its signing key."""

    SIZE = 16


class NodeId(FixedBytes):
    """First 16 bytes of BLAKE3 derive-key (context "holdfast v1 node id") of its signing key."""

    SIZE = 16


class StoreId(FixedBytes):
    """Random id of one shard store, made with the store and never again."""

    SIZE = 16


class UploadId(FixedBytes):
    """Random id of an upload; the *generation* of every stripe it stores."""

    SIZE = 16


class ChunkId(FixedBytes):
    """BLAKE3 of a sealed chunk."""

    SIZE = 32


class SnapshotId(FixedBytes):
    """BLAKE3 of a sealed snapshot record."""

    SIZE = 32


class Digest(FixedBytes):
    """A BLAKE3 digest of anything that has no id type of its own."""

    SIZE = 32


class PublicKey(FixedBytes):
    """A raw Ed25519 or X25519 public key."""

    SIZE = 32


class Signature(FixedBytes):
    """An Ed25519 signature."""

    SIZE = 64


class KeyId(FixedBytes):
    """First 8 bytes of BLAKE3 of a public key: which key signed."""

    SIZE = 8
