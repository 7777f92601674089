"""What a node has, told to the coordinator: sums first, then only what differs.

Node, asked by the coordinator (role "coordinator"):

- ``POST /v1/inventory/sums``     ReadSums -> SumsRead         (every group and slot, in portions)
- ``POST /v1/inventory/ranges``   ReadRanges -> RangesRead     (one group and slot, in ranges)
- ``POST /v1/inventory/keys``     ReadKeys -> KeysRead         (the positions in a range)
- ``POST /v1/inventory/headers``  ReadHeaders -> HeadersRead   (their record headers)

Sums and positions: protocol/inventories.py. A shard that is marked to be erased is in
none of them: it counts as gone, and a rebuild that finds it here keeps it after all.
Bounds of a range are positions: behind ``after``, up to and including ``until``; empty
means from the first, or to the last one.
"""

from __future__ import annotations

from holdfast.protocol.codec import Message, Record
from holdfast.protocol.ids import Digest, StoreId

__all__ = [
    "HeadersRead",
    "KeysRead",
    "RangeSum",
    "RangesRead",
    "ReadHeaders",
    "ReadKeys",
    "ReadRanges",
    "ReadSums",
    "SlotSum",
    "SumsRead",
]


class ReadSums(Message):
    """Of everything behind ``after``, which is empty or the ``next`` of an answer."""

    after: bytes


class SlotSum(Record):
    """One group and slot, as far as the answer reaches: the sums of several answers add up."""

    group: int
    slot: int
    shards: int
    sum: Digest


class SumsRead(Message):
    """In order of group and slot. ``next`` is empty when this was the last."""

    store: StoreId
    slots: list[SlotSum]
    next: bytes


class ReadRanges(Message):
    """The ranges of a group and slot behind a position."""

    group: int
    slot: int
    after: bytes


class RangeSum(Record):
    """Positions behind the range before, up to ``until``, which is the last one there."""

    until: bytes
    shards: int
    sum: Digest


class RangesRead(Message):
    """In order, INVENTORY_RANGE_SHARDS each; ``is_end``: behind the last ``until`` there is nothing."""

    ranges: list[RangeSum]
    is_end: bool


class ReadKeys(Message):
    """The positions in a range of a group and slot."""

    group: int
    slot: int
    after: bytes
    until: bytes


class KeysRead(Message):
    """Positions joined, in order, at most INVENTORY_KEYS_MAX; ``is_end``: the range holds no more."""

    positions: bytes
    is_end: bool


class ReadHeaders(Message):
    """The record headers in a range of a group and slot."""

    group: int
    slot: int
    after: bytes
    until: bytes


class HeadersRead(Message):
    """Record headers in order, at most INVENTORY_HEADERS_MAX; one that does not hold is left out.

    ``next`` is where to go on behind; empty: the range holds no more.
    """

    headers: list[bytes]
    next: bytes
