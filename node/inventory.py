"""What lies in a store, told in sums, ranges, positions and headers. Blocking, a bounded portion at a time.

Each function looks at a bounded number of keys and says where to go on; the service
runs them off the loop, one after the other, so that clients' reads and writes come between.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from holdfast.node.store import ShardKey, ShardStore
from holdfast.protocol.inventories import POSITION_BYTES, Sum
from holdfast.protocol.messages.inventory import RangeSum, SlotSum

__all__ = ["END", "Portion", "bounds", "headers", "positions", "range_sums", "slot_sums"]

END: Final = b"\xff" * (9 + POSITION_BYTES)
"""Behind every packed key there may be."""
Portion = tuple[list[bytes], bytes]
"""Packed keys of a portion, and where to go on behind; empty: at the end."""


def bounds(group: int, slot: int, after: bytes, until: bytes) -> tuple[bytes, bytes]:
    """(after, before) as packed keys, for positions behind ``after`` up to and including ``until``."""
    first, last = ShardKey.range_of(group, slot)
    return first + after, first + until + b"\0" if until else last


def slot_sums(keys: list[bytes]) -> list[SlotSum]:
    """The sums of packed keys that are in order, by group and slot."""
    sums: dict[bytes, Sum] = {}
    for key in keys:
        place = key[:-POSITION_BYTES]
        if place not in sums:
            sums[place] = Sum()
        sums[place].add(key[-POSITION_BYTES:])
    return [
        SlotSum(int.from_bytes(place[:8], "big"), place[8], total.count, total.digest)
        for place, total in sums.items()
    ]


def positions(keys: list[bytes]) -> Iterator[bytes]:
    """The positions of packed keys."""
    return (key[-POSITION_BYTES:] for key in keys)


def range_sums(keys: list[bytes], range_shards: int) -> list[RangeSum]:
    """Sums of ranges of so many shards each; the last one may be shorter."""
    made = []
    for start in range(0, len(keys), range_shards):
        portion = keys[start : start + range_shards]
        total = Sum(positions(portion))
        made.append(RangeSum(portion[-1][-POSITION_BYTES:], total.count, total.digest))
    return made


def headers(store: ShardStore, keys: list[bytes]) -> list[bytes]:
    """The headers of the records under packed keys that hold."""
    return [header for header in store.headers(keys) if header is not None]
