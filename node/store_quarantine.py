"""Damaged shards kept aside, and findings: inside the store's own transactions.

An entry is (number -> time, key, the whole damaged value). Bounded: the oldest
entries make room, and their number stays known. A finding is a key that the
coordinator has not been told of yet.
"""

from __future__ import annotations

import struct
from typing import Any, Final, Protocol

from holdfast.node.limits import QUARANTINE_BYTES_MAX, QUARANTINE_ENTRIES_MAX
from holdfast.node.store import Quarantined, ShardKey

__all__ = ["Quarantine", "quarantine_bytes_max"]

_HEAD: Final = struct.Struct(">Q89s")


class Counts(Protocol):
    """The counters that this keeps right."""

    kept: int
    kept_bytes: int
    kept_last: int
    dropped: int
    findings: int


def quarantine_bytes_max(capacity_bytes: int) -> int:
    """Bytes of damaged values that a store of this capacity keeps aside, beside its capacity."""
    return min(QUARANTINE_BYTES_MAX, max(capacity_bytes // 8, 64 * 1024))


class Quarantine:
    """The two databases, open in one environment.

    Args:
        kept, findings: LMDB's handles of them.
    """

    def __init__(self, kept: Any, findings: Any, bytes_max: int) -> None:
        self._kept, self._findings = kept, findings
        self._bytes_max = bytes_max

    def keep(self, txn: Any, counts: Counts, packed: bytes, stored: bytes, now_ms: int) -> None:
        """Put a damaged value aside. One that is too long for the whole quarantine is dropped."""
        if len(stored) > self._bytes_max:
            counts.dropped += 1
            return
        while counts.kept >= QUARANTINE_ENTRIES_MAX or counts.kept_bytes + len(stored) > self._bytes_max:
            self._drop_oldest(txn, counts)
        counts.kept_last += 1
        txn.put(
            counts.kept_last.to_bytes(8, "big"),
            _HEAD.pack(now_ms, packed) + stored,
            db=self._kept,
            append=True,
        )
        counts.kept += 1
        counts.kept_bytes += len(stored)

    def _drop_oldest(self, txn: Any, counts: Counts) -> None:
        with txn.cursor(db=self._kept) as cursor:
            if not cursor.first():
                counts.kept = counts.kept_bytes = 0
                return
            number, size = bytes(cursor.key()), len(cursor.value())
        txn.delete(number, db=self._kept)
        counts.kept_bytes -= size - _HEAD.size
        counts.kept -= 1
        counts.dropped += 1

    def note(self, txn: Any, counts: Counts, packed: bytes) -> None:
        """Note a finding, once."""
        if txn.put(packed, b"", db=self._findings, overwrite=False):
            counts.findings += 1

    def forget(self, txn: Any, counts: Counts, packed: bytes) -> None:
        """The coordinator knows."""
        if txn.delete(packed, db=self._findings):
            counts.findings -= 1

    def entries(self, txn: Any, after: int, most: int) -> list[Quarantined]:
        """See ShardStore.quarantined."""
        found: list[Quarantined] = []
        with txn.cursor(db=self._kept) as cursor:
            more = cursor.set_range((after + 1).to_bytes(8, "big"))
            while more and len(found) < most:
                value = cursor.value()
                at_ms, packed = _HEAD.unpack_from(value)
                found.append(
                    Quarantined(
                        int.from_bytes(cursor.key(), "big"),
                        ShardKey.unpack(packed),
                        at_ms,
                        len(value) - _HEAD.size,
                    )
                )
                more = cursor.next()
        return found

    def noted(self, txn: Any, most: int) -> list[ShardKey]:
        """See ShardStore.findings."""
        found: list[ShardKey] = []
        with txn.cursor(db=self._findings) as cursor:
            more = cursor.first()
            while more and len(found) < most:
                found.append(ShardKey.unpack(cursor.key()))
                more = cursor.next()
        return found
