"""Redundancy profiles: how many data and parity shards, and what follows from them.

DESIGN terms: a stripe has ``k`` data and ``m`` parity shards, ``n = k + m``;
any ``k`` of the ``n`` give the chunk back. All arithmetic of quorums lives here.
"""

from __future__ import annotations

import re

from msgspec import Struct

from holdfast.protocol.errors import BadRequest
from holdfast.protocol.limits import STRIPE_SHARDS_MAX

__all__ = ["Profile", "default_profile", "fallback_profile"]


class Profile(Struct, frozen=True, order=True):
    """``k`` data shards and ``m`` parity shards.

    Raises:
        BadRequest: not 1 <= k, 1 <= m, k + m <= 255.
    """

    k: int
    m: int

    def __post_init__(self) -> None:
        if self.k < 1 or self.m < 1 or self.k + self.m > STRIPE_SHARDS_MAX:
            raise BadRequest(
                f"{self.k}+{self.m} is not a redundancy profile",
                why=f"k and m are at least 1 and together at most {STRIPE_SHARDS_MAX}",
            )

    @property
    def n(self) -> int:
        """Shards in a stripe."""
        return self.k + self.m

    @property
    def write_quorum(self) -> int:
        """Shards that must be durable before a stripe counts as stored: k + ceil(m / 2)."""
        return self.k + (self.m + 1) // 2

    def shard_bytes(self, sealed_bytes: int) -> int:
        """Bytes of every shard of a sealed chunk: ceil(sealed_bytes / k)."""
        return -(-sealed_bytes // self.k)

    def __str__(self) -> str:
        return f"{self.k}+{self.m}"

    @classmethod
    def parse(cls, text: str) -> Profile:
        """Read ``"4+2"``; raises BadRequest on anything else."""
        match = re.fullmatch(r"([0-9]{1,3})\+([0-9]{1,3})", text.strip())
        if not match:
            raise BadRequest(f"{text!r} is not a redundancy profile", do="Write it like 4+2.")
        return cls(int(match[1]), int(match[2]))


def default_profile(nodes: int) -> Profile | None:
    """The usual profile for a cluster of so many nodes; None below two."""
    if nodes < 2:
        return None
    if nodes == 2:
        return Profile(1, 1)
    if nodes < 6:
        return Profile(2, 1)
    if nodes < 14:
        return Profile(4, 2)
    return Profile(10, 4)


def fallback_profile(usual: Profile, nodes_up: int) -> Profile | None:
    """What to store with while no group of the usual profile has a write quorum up.

    Over u = min(nodes up, n) >= 2 nodes: m' = min(m, floor(u / 2)), k' = u - m'.
    None when fewer than two nodes are up: one copy on one node is not a backup.
    """
    u = min(nodes_up, usual.n)
    if u < 2:
        return None
    m = min(usual.m, u // 2)
    return Profile(u - m, m)
