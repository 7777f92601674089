"""What a set of shards sums up to, so that two sides can tell that they hold the same without listing it.

A shard's *position* in one (group, slot) is account (32) || chunk id (32) ||
generation (16). The sum of a set of positions is the sum of their BLAKE3 digests,
each read as a big-endian integer, modulo 2^256: it does not depend on the order,
and sums of disjoint parts add up to that of the whole (M. Bellare and D. Micciancio,
"A new paradigm for collision-free hashing: incrementality at reduced cost",
EUROCRYPT 1997). It finds faults; a node that lies says what it likes anyway, and is
found by audits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from blake3 import blake3

from holdfast.protocol.errors import BadRequest
from holdfast.protocol.ids import AccountId, ChunkId, Digest, UploadId

__all__ = ["POSITION_BYTES", "Sum", "position", "position_parts"]

POSITION_BYTES: Final = 32 + 32 + 16
_MODULUS: Final = 1 << 256


def position(account: bytes, chunk: bytes, generation: bytes) -> bytes:
    """A shard's place within its group and slot; positions sort as their parts do."""
    return account + chunk + generation


def position_parts(packed: bytes) -> tuple[AccountId, ChunkId, UploadId]:
    """(account, chunk, generation) of a position.

    Raises:
        BadRequest: it is not as long as one.
    """
    if len(packed) != POSITION_BYTES:
        raise BadRequest(f"a shard's position has {POSITION_BYTES} bytes")
    return AccountId(packed[:32]), ChunkId(packed[32:64]), UploadId(packed[64:])


class Sum:
    """How many positions there are, and what they sum up to."""

    __slots__ = ("_total", "count")

    def __init__(self, positions: Iterable[bytes] = (), count: int = 0, digest: Digest | None = None) -> None:
        self.count = count
        self._total = int.from_bytes(digest or b"", "big")
        for one in positions:
            self.add(one)

    def add(self, packed: bytes) -> None:
        """One more position."""
        self.count += 1
        self._total = (self._total + int.from_bytes(blake3(packed).digest(), "big")) % _MODULUS

    def join(self, other: Sum) -> None:
        """All positions of another set, disjoint from this one."""
        self.count += other.count
        self._total = (self._total + other._total) % _MODULUS

    @property
    def digest(self) -> Digest:
        """The sum as 32 bytes, big-endian."""
        return Digest(self._total.to_bytes(32, "big"))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sum):
            return NotImplemented
        return (self.count, self._total) == (other.count, other._total)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Sum(count={self.count}, digest={self.digest.short})"
