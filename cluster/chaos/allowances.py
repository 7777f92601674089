"""How much is too much: orphans, repair traffic and disk, each by a formula. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from holdfast.cluster.chaos.limits import ORPHAN_GRACE_S, STORE_FACTOR_MAX, STORE_SLACK_BYTES
from holdfast.cluster.joining import UNNAMED, Shard
from holdfast.protocol.ids import UploadId
from holdfast.protocol.limits import MIB

__all__ = ["Orphans", "repair_bytes_most", "store_bytes_most"]


class Orphans:
    """Remembers since when each orphan is known.

    Those of an upload that may still go on, or that the catalogue has never heard of, have no grace that is
    known: the coordinator keeps them until no ticket can be good any more. Nor have former shards of a stripe
    that has a row: they are kept for as long as the coordinator is not sure of the group it is in now.
    """

    def __init__(self) -> None:
        self._since_s: dict[Shard, float] = {}

    def look(
        self, orphans: Iterable[Shard], ended: Collection[UploadId], now_s: float
    ) -> tuple[int, list[Shard]]:
        """(how many are there to be collected, those that should have been by now).

        Args:
            now_s: monotonic.
        """
        here = [shard for shard in orphans if shard.why == UNNAMED and shard.key.generation in ended]
        self._since_s = {shard: self._since_s.get(shard, now_s) for shard in here}
        overdue = [shard for shard, since_s in self._since_s.items() if now_s - since_s >= ORPHAN_GRACE_S]
        return len(here), overdue


def repair_bytes_most(stored_bytes: int, *, times: float, disrupted: int, n: int) -> int:
    """What repair may read, where so much was stored at one time.

    A node holds at most one shard of a stripe, and bringing one back reads k others: the stripe's sealed
    bytes. So a node that is away or loses its disk costs at most all that is stored, each time that it is
    brought back; and what was written without it, or without nodes that were only slow, lacks shards, or lies
    in a fallback group, and n are made anew.

    Args:
        times: how often one loss may be brought back. disrupted: how often a node was away or hurt.
    """
    return int((times * disrupted + n) * max(stored_bytes, MIB))


def store_bytes_most(pages_bytes: int) -> int:
    """How long a compacted store's file may be, with values of so many whole pages in it."""
    return int(STORE_FACTOR_MAX * pages_bytes) + STORE_SLACK_BYTES
