"""The shard store on LMDB (only the modules node/store_lmdb*.py import lmdb).

Default sync always (no NOSYNC, no NOMETASYNC, no WRITEMAP: crash replay loses
acknowledged writes with those). A failed fdatasync is reported once and the next
commit would succeed, so after ANY commit error this store refuses to write until
it has been reopened and what it acknowledged was found again (node/writer.py).
LMDB has no checksums: every record proves itself when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import lmdb

from holdfast.node.data_file import refuse_truncated
from holdfast.node.data_file_places import read_ahead
from holdfast.node.limits import DISK_RESERVE_BYTES, ERASE_AHEAD_ENTRIES
from holdfast.node.store import (
    Put,
    ShardKey,
)
from holdfast.node.store_lmdb_compacting import Copy, Original
from holdfast.node.store_lmdb_opening import open_databases
from holdfast.node.store_lmdb_reading import LmdbReader
from holdfast.node.store_totals import Totals
from holdfast.node.store_verifying import compare, names_in, why_damaged
from holdfast.protocol.errors import (
    Conflict,
    HoldfastError,
    IntegrityFailure,
    NoRoom,
    StoreFailed,
)
from holdfast.protocol.failpoints import reached

__all__ = ["LmdbStore", "refuse_truncated"]


class LmdbStore(LmdbReader):
    """A ShardStore on LMDB: see node/store.py for what each method promises, and LmdbBase for its making."""

    def put(self, batches: Sequence[Sequence[Put]]) -> list[HoldfastError | None]:
        """See ShardStore.put."""
        try:
            return self._put_together(batches)
        except lmdb.MapFullError:
            if len(batches) == 1:
                return [self._full()]
        # One of them did not fit: each on its own, so that those that fit are kept.
        return [self.put([batch])[0] for batch in batches]

    def _full(self) -> NoRoom:
        return NoRoom("this node is full", do="Add a node, or give this one more --capacity.")

    def _put_together(self, batches: Sequence[Sequence[Put]]) -> list[HoldfastError | None]:
        outcomes: list[HoldfastError | None] = []
        wanted = sum(len(put.shard) for batch in batches for put in batch)
        free = os.statvfs(self._path)
        disk_full = free.f_bavail * free.f_frsize < DISK_RESERVE_BYTES + wanted
        with self._writing() as (txn, totals):
            for batch in batches:
                outcomes.append(self._put_batch(txn, totals, batch, disk_full))
            reached("node.put.written")
        reached("node.put.committed")
        return outcomes

    def _put_batch(
        self, txn: Any, totals: Totals, batch: Sequence[Put], disk_full: bool
    ) -> HoldfastError | None:
        fresh: list[tuple[bytes, bytes | bytearray]] = []
        damaged: dict[bytes, bytes] = {}
        same: list[bytes] = []
        for put in batch:
            key = ShardKey.of(put.record).pack()
            stored = txn.get(key, db=self._place(key))
            if stored is None:
                fresh.append((key, put.whole()))
                continue
            refused = compare(stored, put)
            if isinstance(refused, IntegrityFailure):
                damaged[key] = stored
                fresh.append((key, put.whole()))
            elif refused is not None:
                return refused
            else:
                same.append(key)
        size = sum(len(whole) for _, whole in fresh)
        size -= sum(len(stored) for stored in damaged.values())
        if fresh and (disk_full or totals.used_bytes + size > self.capacity_bytes):
            return self._full()
        # Of one that kills whoever reads it the mark outlives the shard; its successor is not to be erased.
        for key in (*same, *(key for key, _ in fresh)):
            if txn.delete(key, db=self._marks):
                totals.marked -= 1
        for key, stored in damaged.items():
            self._quarantine.keep(txn, totals, key, stored, self._source.now_ms())
        for key, whole in fresh:
            txn.put(key, whole, db=self._place(key), overwrite=key in damaged)
        totals.shards += len(fresh) - len(damaged)
        totals.used_bytes += size
        totals.changed += len(fresh)
        return None

    def mark(self, number: int, keys: Sequence[ShardKey], due_ms: int) -> tuple[int, int]:
        """See ShardStore.mark."""
        marked = absent = 0
        with self._writing() as (txn, totals):
            last = int.from_bytes(txn.get(b"order", db=self._meta) or b"", "big")
            for key in keys:
                packed = key.pack()
                if not self._is_there(txn, packed):
                    absent += 1
                    continue
                marked += 1
                if number > last and txn.put(
                    packed, due_ms.to_bytes(8, "big"), db=self._marks, overwrite=False
                ):
                    totals.marked += 1
            if number > last:
                txn.put(b"order", number.to_bytes(8, "big"), db=self._meta)
            reached("node.mark.written")
        reached("node.mark.committed")
        return marked, absent

    def keep(self, keys: Sequence[ShardKey]) -> list[bool]:
        """See ShardStore.keep. Without a mark there is nothing to write."""
        packed = [key.pack() for key in keys]
        with self._gate.reading(), self._env.begin(buffers=True) as txn:
            marked = [key for key in packed if txn.get(key, db=self._marks) is not None]
            there = [self._is_there(txn, key) for key in packed]
        self._note_reading(b"")
        if marked:
            with self._writing() as (txn, totals):
                for key in marked:
                    totals.marked -= txn.delete(key, db=self._marks)
        return there

    def _is_there(self, txn: Any, packed: bytes) -> bool:
        """Is there such a key? Its value is not touched."""
        with txn.cursor(db=self._place(packed)) as cursor:
            return bool(cursor.set_key(packed))

    def erase_due(self, now_ms: int, most: int) -> int:
        """See ShardStore.erase_due."""
        due: list[bytes] = []
        with self._env.begin() as txn, txn.cursor(db=self._marks) as cursor:
            for key, value in cursor:
                if int.from_bytes(value, "big") <= now_ms:
                    due.append(bytes(key))
                    if len(due) == most:
                        break
        if not due:
            return 0
        with self._writing() as (txn, totals):
            for number, packed in enumerate(due):
                if number % ERASE_AHEAD_ENTRIES == 0:  # LMDB's library touches what it takes out
                    ahead = set(due[number : number + ERASE_AHEAD_ENTRIES]) - self._unreadable
                    read_ahead(self._file, b"shards", ahead)
                # Marks may have been cleared since: a shard stored again is kept.
                if not txn.delete(packed, db=self._marks):
                    continue
                totals.marked -= 1
                self._remove(txn, totals, packed)
            reached("node.erase.written")
        reached("node.erase.committed")
        return len(due)

    def _remove(self, txn: Any, totals: Totals, packed: bytes) -> bytes | None:
        """Take a shard out of its place; gives what was there."""
        place = self._place(packed)
        stored: bytes | None = txn.get(packed, db=place)
        if stored is not None:
            totals.used_bytes -= len(stored)
            totals.shards -= 1
            txn.delete(packed, db=place)
            totals.changed += 1
        return stored

    def quarantine(self, keys: Sequence[ShardKey]) -> int:
        """See ShardStore.quarantine."""
        free = os.statvfs(self._path)
        has_room = free.f_bavail * free.f_frsize >= DISK_RESERVE_BYTES
        try:
            return self._quarantine_keys(keys, has_room)
        except lmdb.MapFullError:
            return self._quarantine_keys(keys, False)

    def _quarantine_keys(self, keys: Sequence[ShardKey], has_room: bool) -> int:
        """Where there is no room to move a value to it stays in its place, and is noted all the same."""
        moved = 0
        with self._writing() as (txn, totals):
            for key in dict.fromkeys(keys):
                packed = key.pack()
                stored = txn.get(packed, db=self._place(packed))
                if stored is None:
                    if packed in self._unreadable:
                        self._quarantine.note(txn, totals, packed)
                    continue
                if why_damaged(key, stored) is None:
                    continue
                self._quarantine.note(txn, totals, packed)
                for misplaced in names_in(stored):
                    if not self._is_there(txn, misplaced):
                        self._quarantine.note(txn, totals, misplaced)
                if has_room:
                    self._remove(txn, totals, packed)
                    if txn.delete(packed, db=self._marks):
                        totals.marked -= 1
                    self._quarantine.keep(txn, totals, packed, stored, self._source.now_ms())
                    moved += 1
            reached("node.quarantine.written")
        return moved

    def findings_told(self, keys: Sequence[ShardKey]) -> None:
        """See ShardStore.findings_told."""
        with self._writing() as (txn, totals):
            for key in keys:
                self._quarantine.forget(txn, totals, key.pack())

    def save_scrub_state(self, state: bytes) -> None:
        """See ShardStore.save_scrub_state."""
        with self._writing() as (txn, _):
            txn.put(b"scrub", state, db=self._meta)

    def save_running(self, running_ms: int) -> None:
        """See ShardStore.save_running."""
        with self._writing() as (txn, _):
            txn.put(b"running_ms", running_ms.to_bytes(8, "big"), db=self._meta)

    def raise_term(self, term: int) -> None:
        """See ShardStore.raise_term."""
        self._raise(b"term", term)

    def raise_pulse(self, pulse: int) -> None:
        """See ShardStore.raise_pulse."""
        self._raise(b"pulse", pulse)

    def _raise(self, name: bytes, number: int) -> None:
        if number > self._number(name):
            with self._writing() as (txn, _):
                txn.put(name, number.to_bytes(8, "big"), db=self._meta)

    # Room

    def compact(self) -> Copy:
        """See ShardStore.compact."""
        if self._copy is not None:
            raise Conflict("this store is being compacted already")
        if self._failed:
            raise StoreFailed(f"the store in {self._path} stopped after a failed commit")
        self._copy = Copy(
            Original(
                self._path,
                self._opened,
                self._unreadable,
                self._env.info()["map_size"],
                self._gate.reading,
                self._note_reading,
                self._damage,
                self._swap,
                self._copy_ended,
            )
        )
        return self._copy

    def _copy_ended(self) -> None:
        self._copy = None

    def _swap(self, replace: Callable[[], None]) -> None:
        """With nobody reading: close, have the file replaced, and open what is there then."""
        with self._gate.alone():
            with self._env.begin() as txn:
                counter = Totals(txn, self._meta).counter
            self._failed = True  # until it is open again
            try:
                self._env.close()
                replace()
                opened, id_, _ = open_databases(self._path, self._source, self.capacity_bytes)
                self._use(opened)
                with opened.env.begin() as txn:
                    there = Totals(txn, opened.meta).counter
                if (id_, there) != (self.id, counter):
                    raise StoreFailed("the compacted store is not the one that was copied")
            except (OSError, lmdb.Error, HoldfastError) as error:
                raise StoreFailed(
                    f"the store in {self._path} did not open after it was compacted", why=str(error)
                ) from error
            self._unreadable = frozenset()
            self._failed = False
