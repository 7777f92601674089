"""Walks over a store's keys: what lies in it, in order, without touching what it holds.

A value long enough to be a shard lies on pages of its own, so walking over keys reads
the tree alone. Keys that must not be touched are left out until they are stored again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from holdfast.node.store import ShardKey, StoreDamaged
from holdfast.protocol.errors import IntegrityFailure
from holdfast.protocol.stripes import ShardRecord

__all__ = ["Walk", "header_of"]


@dataclass(frozen=True, slots=True)
class Walk:
    """LMDB's handles, in one open transaction.

    Attributes:
        unreadable: packed keys whose bytes in ``shards`` must not be touched; ``replaced`` is their place.
    """

    txn: Any
    shards: Any
    replaced: Any
    marks: Any
    unreadable: Collection[bytes]

    def keys(self, after: bytes, until: bytes) -> Iterator[bytes]:
        """Packed keys behind ``after`` and before ``until``.

        Raises:
            StoreDamaged: they are not in order.
        """
        last = after
        with self.txn.cursor(db=self.shards) as cursor:
            more = cursor.set_range(after)
            if more and cursor.key() == after:
                more = cursor.next()
            while more:
                key = bytes(cursor.key())
                if key <= last:
                    raise StoreDamaged("its keys are not in order")
                if key >= until:
                    return
                last = key
                if key not in self.unreadable or self.txn.get(key, db=self.replaced) is not None:
                    yield key
                more = cursor.next()

    def is_marked(self, key: bytes) -> bool:
        """Is it to be erased?"""
        return self.txn.get(key, db=self.marks) is not None

    def header(self, key: bytes, reading: Callable[[bytes], None]) -> bytes | None:
        """A record's header; None when there is none that holds. Touches all of the value."""
        is_replaced = key in self.unreadable
        if not is_replaced:
            reading(key)
        stored = self.txn.get(key, db=self.replaced if is_replaced else self.shards)
        return header_of(key, stored, len(stored)) if stored is not None else None


def header_of(key: bytes, beginning: memoryview, stored_bytes: int) -> bytes | None:
    """The header that a stored record begins with, if it proves itself and lies under its own key."""
    try:
        record, end = ShardRecord.unpack_beginning(beginning)
    except IntegrityFailure:
        return None
    if ShardKey.of(record).pack() != key or stored_bytes - end != record.stripe.shard_bytes:
        return None
    return bytes(beginning[:end])
