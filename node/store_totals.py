"""A store's counters: one small record that proves itself, changed inside the transaction it counts.

A flipped bit in a counter would make a node full, empty, or older than it is; so
the record carries a checksum, and a store whose counters do not hold is damaged.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from blake3 import blake3

from holdfast.node.store import StoreDamaged

__all__ = ["Totals"]

_NAMES: Final = (
    *("shards", "used_bytes", "counter", "marked"),
    *("kept", "kept_bytes", "kept_last", "dropped", "findings"),
)
_RECORD: Final = struct.Struct(f">{len(_NAMES)}Q")
_NUMBER_BYTES: Final = 8
_CHECK_BYTES: Final = 8


class Totals:
    """As the transaction sees them.

    Attributes:
        shards, used_bytes: records there are, and their bytes.
        counter: durable commits since the store was made.
        marked: shards to be erased.
        kept, kept_bytes, kept_last: entries of the quarantine, their bytes, the number of the newest.
        dropped: entries of the quarantine that are gone.
        findings: shards found bad that the coordinator does not know of yet.
        changed: shards that come and go in this very transaction; not kept.

    Raises:
        StoreDamaged: the record is not what was written.
    """

    __slots__ = ("_meta", "_txn", "changed", *_NAMES)

    def __init__(self, txn: Any, meta: Any) -> None:
        self._txn, self._meta = txn, meta
        self.changed = 0
        raw = txn.get(b"totals", db=meta)
        if raw is None:
            # A store of the first days has a number by itself for each.
            numbers = [bytes(txn.get(name.encode(), db=meta) or b"") for name in _NAMES]
            if any(len(number) > _NUMBER_BYTES for number in numbers):
                raise StoreDamaged("a store's counters are damaged")
            values = [int.from_bytes(number, "big") for number in numbers]
        else:
            body = bytes(raw[:-_CHECK_BYTES])
            if len(body) != _RECORD.size or blake3(body).digest(length=_CHECK_BYTES) != raw[-_CHECK_BYTES:]:
                raise StoreDamaged("a store's counters are damaged")
            values = list(_RECORD.unpack(body))
        self.shards, self.used_bytes, self.counter, self.marked = values[:4]
        self.kept, self.kept_bytes, self.kept_last, self.dropped, self.findings = values[4:]

    def save(self) -> None:
        """Write them, counting this commit.

        Raises:
            StoreDamaged: one is below nothing: what was taken away does not fit what was counted.
        """
        self.counter += 1
        try:
            body = _RECORD.pack(*(getattr(self, name) for name in _NAMES))
        except struct.error as error:
            raise StoreDamaged("a store's counters do not fit what is in it") from error
        check = blake3(body).digest(length=_CHECK_BYTES)
        self._txn.put(b"totals", body + check, db=self._meta)
