"""The shard store on LMDB (only the modules node/store_lmdb*.py import lmdb).

Default sync always (no NOSYNC, no NOMETASYNC, no WRITEMAP: crash replay loses
acknowledged writes with those). A failed fdatasync is reported once and the next
commit would succeed, so after ANY commit error this store refuses to write until
it has been reopened and what it acknowledged was found again (node/writer.py).
LMDB has no checksums: every record proves itself when it is read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import lmdb

from holdfast.node.data_file import refuse_truncated
from holdfast.node.data_file_places import DiskWaits, read_ahead
from holdfast.node.limits import DISK_RESERVE_BYTES, READ_AHEAD_READS, UNREADABLE_MAX
from holdfast.node.store import (
    Absent,
    Damaged,
    Found,
    Put,
    Quarantined,
    ReadOutcome,
    ShardKey,
    StoreDamaged,
    StoreRoom,
    StoreStats,
)
from holdfast.node.store_folder import declare_damaged
from holdfast.node.store_lmdb_compacting import Copy, Original, room_of
from holdfast.node.store_lmdb_gate import ReaderGate
from holdfast.node.store_lmdb_opening import DAMAGE, Databases, damaged_store, open_databases
from holdfast.node.store_lmdb_walking import Walk
from holdfast.node.store_quarantine import Quarantine, quarantine_bytes_max
from holdfast.node.store_totals import Totals
from holdfast.node.store_verifying import compare, names_in, why_damaged
from holdfast.protocol.clock import Source
from holdfast.protocol.errors import (
    Conflict,
    HoldfastError,
    IntegrityFailure,
    NoRoom,
    StoreFailed,
)
from holdfast.protocol.failpoints import reached
from holdfast.protocol.stripes import ShardRecord

__all__ = ["LmdbStore", "refuse_truncated"]


class LmdbStore:
    """One store in one directory.

    Args:
        path: its directory, made when it is not there.
        capacity_bytes: record bytes to accept; None: what the disk has free, less a reserve.
        commit_seam: called before each commit; tests let it raise.
        reading: told the packed key whose bytes are touched next, and b"" when nothing is: should the
            process die of them, somebody can tell of which.
        suspects: keys that a process died of. They are not touched again, count as damaged, and can be
            stored anew in another place.

    Raises:
        WrongDirectory: something else is there (details: unreadable), or another format version.
        IntegrityFailure: the store is damaged: cut off, pages that do not hold, or declared so before.
        Locked: another process has it open.
    """

    def __init__(
        self,
        path: Path,
        *,
        source: Source,
        capacity_bytes: int | None = None,
        commit_seam: Callable[[], None] | None = None,
        reading: Callable[[bytes], None] = lambda key: None,
        suspects: Sequence[ShardKey] = (),
    ) -> None:
        self._path = path
        self._source = source
        self._note_reading = reading
        self._read_ahead_left = 0
        self._commit_seam = commit_seam
        self._failed = False
        self._damage_why: str | None = None
        self._damaged = 0
        self._changes = 0
        self._gate = ReaderGate(path)
        self._copy: Copy | None = None
        opened, self.id, self.capacity_bytes = open_databases(path, source, capacity_bytes)
        self._use(opened)
        try:
            self._unreadable = self._take_over(opened.unreadable, suspects)
        except (lmdb.Error, StoreFailed) as error:
            self._env.close()
            raise damaged_store(path, str(error)) from error

    def _use(self, opened: Databases) -> None:
        self._opened, self._env, self._meta = opened, opened.env, opened.meta
        self._shards, self._marks, self._replaced = opened.shards, opened.marks, opened.replaced
        self._quarantine = Quarantine(
            opened.quarantine, opened.findings, quarantine_bytes_max(self.capacity_bytes)
        )

    def _take_over(self, unreadable: Any, suspects: Sequence[ShardKey]) -> frozenset[bytes]:
        """Every key that must not be touched; new ones become findings.

        Raises:
            StoreDamaged: there are too many.
        """
        with self._env.begin() as txn, txn.cursor(db=unreadable) as cursor:
            known = {bytes(key) for key in cursor.iternext(values=False)}
        fresh = {key.pack() for key in suspects} - known
        if len(known) + len(fresh) > UNREADABLE_MAX:
            raise StoreDamaged("too many of its shards kill whoever reads them")
        if fresh:
            with self._writing() as (txn, totals):
                for packed in fresh:
                    txn.put(packed, self._source.now_ms().to_bytes(8, "big"), db=unreadable)
                    self._quarantine.note(txn, totals, packed)
                    totals.shards -= min(1, totals.shards)
        return frozenset(known | fresh)

    def _place(self, packed: bytes) -> Any:
        """The database in which a shard of this key may be touched."""
        if packed in self._unreadable:
            return self._replaced
        self._note_reading(packed)
        return self._shards

    def declare_damaged(self, why: str) -> NoReturn:
        """See ShardStore.declare_damaged."""
        raise self._damage(why)

    def _damage(self, why: str) -> StoreDamaged:
        """This store is not used any more, not even after a restart."""
        self._failed, self._damage_why = True, why
        try:
            declare_damaged(self._path, why)
        except OSError as error:  # its disk may be what is broken; the process knows all the same
            why = f"{why}; and that could not be written down: {error}"
        return StoreDamaged(f"the store in {self._path} is damaged", why=why)

    @contextmanager
    def _writing(self) -> Iterator[tuple[Any, Totals]]:
        """One durable transaction. Any error of the commit itself stops all writing."""
        if self._damage_why is not None:
            raise StoreDamaged(f"the store in {self._path} is damaged", why=self._damage_why)
        if self._failed:
            raise StoreFailed(f"the store in {self._path} stopped after a failed commit")
        txn = self._env.begin(write=True)
        noting = self._copy.watch(txn) if self._copy is not None else None
        try:
            totals = Totals(noting or txn, self._meta)
            yield noting or txn, totals
            totals.save()
        except lmdb.MapFullError:
            txn.abort()
            raise
        except (*DAMAGE, StoreDamaged) as error:
            txn.abort()
            raise self._damage(str(error)) from error
        except lmdb.Error as error:
            txn.abort()
            self._failed = True
            raise StoreFailed(f"the store in {self._path} is damaged", why=str(error)) from error
        except BaseException:
            txn.abort()
            raise
        finally:
            self._note_reading(b"")
        try:
            if self._commit_seam is not None:
                self._commit_seam()
            self._changes += totals.changed
            txn.commit()
            self._changes += totals.changed
            if self._copy is not None and noting is not None:
                self._copy.note(noting.changed)
            self._cover_last_page()
        except lmdb.MapFullError:
            txn.abort()
            raise
        except DAMAGE as error:
            raise self._damage(str(error)) from error
        except Exception as error:
            self._failed = True
            txn.abort()
            raise StoreFailed(
                f"the store in {self._path} could not make a commit durable", why=str(error)
            ) from error

    def _cover_last_page(self) -> None:
        """LMDB may count pages at the end that it never wrote; keep the file as long as it says."""
        info = self._env.info()
        wanted = (info["last_pgno"] + 1) * self._env.stat()["psize"]
        file = self._path / "data.mdb"
        if file.stat().st_size < wanted:
            os.truncate(file, wanted)

    # Writing

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
                if txn.get(packed, db=self._place(packed)) is None:
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
            there = [txn.get(key, db=self._place(key)) is not None for key in packed]
        self._note_reading(b"")
        if marked:
            with self._writing() as (txn, totals):
                for key in marked:
                    totals.marked -= txn.delete(key, db=self._marks)
        return there

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
            for packed in due:
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
                    if txn.get(misplaced, db=self._place(misplaced)) is None:
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

    # Reading

    def read(self, keys: Sequence[ShardKey]) -> list[ReadOutcome]:
        """See ShardStore.read."""
        outcomes: list[ReadOutcome] = []
        waits = DiskWaits()
        with self._gate.reading(), self._env.begin(buffers=True) as txn:
            if self._read_ahead_left:
                self._read_ahead_left -= 1
                wanted = {key.pack() for key in keys} - self._unreadable
                read_ahead(self._path / "data.mdb", b"shards", wanted)
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
            return [walk.header(key, self._note_reading) for key in keys]

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

    # Room

    def room(self) -> StoreRoom:
        """See ShardStore.room."""
        with self._gate.reading():
            return room_of(self._opened, self._path / "data.mdb")

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

    def close(self) -> None:
        """See ShardStore.close."""
        if self._copy is not None:
            self._copy.abandon()
        self._gate.close()
        self._env.close()
