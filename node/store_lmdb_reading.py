"""Reading from an LMDB shard store: shards that prove themselves, walks over keys, counts."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import lmdb

from holdfast.node.data_file_places import DiskWaits, read_ahead, read_beginnings
from holdfast.node.limits import READ_AHEAD_READS
from holdfast.node.store import (
    Absent,
    Damaged,
    Found,
    Quarantined,
    ReadOutcome,
    ShardKey,
    StoreDamaged,
    StoreRoom,
    StoreStats,
)
from holdfast.node.store_lmdb_base import LmdbBase
from holdfast.node.store_lmdb_compacting import room_of
from holdfast.node.store_lmdb_opening import DAMAGE
from holdfast.node.store_lmdb_walking import Walk, header_of
from holdfast.node.store_totals import Totals
from holdfast.protocol.errors import IntegrityFailure
from holdfast.protocol.limits import STRIPE_SHARDS_MAX
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripes import ShardRecord, record_header_bytes

__all__ = ["LmdbReader"]

_HEADER_BYTES_MAX = record_header_bytes(Profile(1, STRIPE_SHARDS_MAX - 1))


class LmdbReader(LmdbBase):
    """What may be done from any thread, also while one writes."""

    def read(self, keys: Sequence[ShardKey]) -> list[ReadOutcome]:
        """See ShardStore.read."""
        outcomes: list[ReadOutcome] = []
        waits = DiskWaits()
        with self._gate.reading(), self._env.begin(buffers=True) as txn:
            if self._read_ahead_left > 0:
                self._read_ahead_left -= 1
                wanted = {key.pack() for key in keys} - self._unreadable
                read_ahead(self._file, b"shards", wanted)
            for key in keys:
                packed = key.pack()
                try:
                    stored = txn.get(packed, db=self._place(packed))
                except lmdb.Error as error:  # a page of the tree on the way to it is damaged
                    self._damaged += 1
                    outcomes.append(Damaged(str(error)))
                    continue
                if stored is not None:
                    outcomes.append(self._verified(key, stored))
                elif packed in self._unreadable:
                    outcomes.append(Damaged("a process died of reading it"))
                else:
                    outcomes.append(Absent())
        self._note_reading(b"")
        if waits.count() > len(keys):
            self._read_ahead_left = READ_AHEAD_READS
        return outcomes

    @contextmanager
    def _walking(self) -> Iterator[Walk]:
        """A walk over the keys; what does not hold on the way damages the store as a whole."""
        try:
            with self._gate.reading(), self._env.begin(buffers=True) as txn:
                yield Walk(txn, self._shards, self._replaced, self._marks, self._unreadable)
        except (*DAMAGE, StoreDamaged, struct.error) as error:
            raise self._damage(f"walking over its shards: {error}") from error
        finally:
            self._note_reading(b"")

    def scan(self, after: bytes, until: bytes, most: int) -> list[ShardKey]:
        """See ShardStore.scan. What may not be touched is left out until it is stored again.

        Raises:
            StoreDamaged: the keys are not in order, or a page on the way does not hold.
        """
        with self._walking() as walk:
            return [ShardKey.unpack(key) for key in islice(walk.keys(after, until), most)]

    def unmarked(self, after: bytes, until: bytes, most: int) -> tuple[list[bytes], bytes]:
        """See ShardStore.unmarked; raises as :meth:`scan`."""
        with self._walking() as walk:
            looked_at = list(islice(walk.keys(after, until), most))
            here = [key for key in looked_at if not walk.is_marked(key)]
        return here, looked_at[-1] if len(looked_at) == most else b""

    def headers(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See ShardStore.headers; raises as :meth:`scan`."""
        with self._walking() as walk:
            wanted = set(keys) - self._unreadable
            begun = read_beginnings(self._file, b"shards", wanted, _HEADER_BYTES_MAX, walk.txn.id())
            told = (header_of(key, *begun[key]) if key in begun else None for key in keys)
            return [
                header or walk.header(key, self._note_reading) for key, header in zip(keys, told, strict=True)
            ]

    def quarantined(self, after: int, most: int) -> list[Quarantined]:
        """See ShardStore.quarantined."""
        with self._gate.reading(), self._env.begin(buffers=True) as txn:
            return self._quarantine.entries(txn, after, most)

    def findings(self, most: int) -> list[ShardKey]:
        """See ShardStore.findings."""
        with self._gate.reading(), self._env.begin() as txn:
            return self._quarantine.noted(txn, most)

    def scrub_state(self) -> bytes:
        """See ShardStore.scrub_state."""
        with self._gate.reading(), self._env.begin() as txn:
            return bytes(txn.get(b"scrub", db=self._meta) or b"")

    def _verified(self, key: ShardKey, stored: memoryview) -> ReadOutcome:
        try:
            record, shard = ShardRecord.unpack(stored)
            if ShardKey.of(record) != key:
                raise IntegrityFailure("a record lies under another shard's key")
            # Copied first, hashed after: what is sent is what was verified.
            copy = bytes(shard)
            record.verify(copy)
        except IntegrityFailure as error:
            self._damaged += 1
            return Damaged(error.what)
        return Found(bytes(stored[: len(stored) - len(shard)]), copy)

    def _number(self, name: bytes) -> int:
        with self._gate.reading(), self._env.begin() as txn:
            return int.from_bytes(txn.get(name, db=self._meta) or b"", "big")

    @property
    def running_ms(self) -> int:
        """See ShardStore.running_ms."""
        return self._number(b"running_ms")

    def term(self) -> int:
        """See ShardStore.term."""
        return self._number(b"term")

    def pulse(self) -> int:
        """See ShardStore.pulse."""
        return self._number(b"pulse")

    def stats(self) -> StoreStats:
        """See ShardStore.stats."""
        changes = self._changes  # before the transaction begins: what it does not see yet must show later
        with self._gate.reading(), self._env.begin() as txn:
            totals = Totals(txn, self._meta)
            order = int.from_bytes(txn.get(b"order", db=self._meta) or b"", "big")
        return StoreStats(
            shards=totals.shards,
            used_bytes=totals.used_bytes,
            counter=totals.counter,
            marked=totals.marked,
            damaged=self._damaged,
            quarantined=totals.kept,
            quarantined_bytes=totals.kept_bytes,
            dropped=totals.dropped,
            findings=totals.findings,
            changes=changes,
            unreadable=len(self._unreadable),
            order=order,
        )

    def room(self) -> StoreRoom:
        """See ShardStore.room."""
        with self._gate.reading():
            return room_of(self._opened, self._file)
