"""The shard store on LMDB: the only module that imports lmdb.

Default sync always (no NOSYNC, no NOMETASYNC, no WRITEMAP: crash replay loses
acknowledged writes with those). A failed fdatasync is reported once and the next
commit would succeed, so after ANY commit error this store refuses to write until
it has been reopened and what it acknowledged was found again (node/writer.py).
LMDB has no checksums: every record proves itself when it is read.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb

from holdfast.node.limits import DISK_RESERVE_BYTES, MAP_RESERVE_BYTES, SHORT_PAGES_TOLERATED
from holdfast.node.store import Absent, Damaged, Found, Put, ReadOutcome, ShardKey, StoreStats
from holdfast.protocol.clock import Source
from holdfast.protocol.errors import (
    Conflict,
    HoldfastError,
    IntegrityFailure,
    Locked,
    NoRoom,
    StoreFailed,
    WrongDirectory,
)
from holdfast.protocol.ids import StoreId
from holdfast.protocol.stripes import ShardRecord, digest_of

__all__ = ["LmdbStore", "refuse_truncated"]

_FORMAT: Final = b"holdfast shard store 1"
_META_MAGIC: Final = 0xBEEFC0DE
# LMDB's MDB_meta behind the 16-byte page header: magic, version, address, map size (lmdb 0.9, mdb.c).
_META_PAGE: Final = struct.Struct("<16xIIQQ")
_META_DB_BYTES: Final = 48


class _Totals:
    """Counters kept inside the transaction that changes them."""

    def __init__(self, txn: Any, meta: Any) -> None:
        self._txn, self._meta = txn, meta
        self.shards = self._number(b"shards")
        self.used_bytes = self._number(b"used_bytes")
        self.counter = self._number(b"counter")
        self.marked = self._number(b"marked")

    def _number(self, name: bytes) -> int:
        return int.from_bytes(self._txn.get(name, db=self._meta) or b"", "big")

    def save(self) -> None:
        self.counter += 1
        for name in ("shards", "used_bytes", "counter", "marked"):
            value = getattr(self, name)
            self._txn.put(name.encode(), value.to_bytes(8, "big"), db=self._meta)


class LmdbStore:
    """One store in one directory.

    Args:
        path: its directory, made when it is not there.
        capacity_bytes: record bytes to accept; None: what the disk has free, less a reserve.
        commit_seam: called before each commit; tests let it raise.

    Raises:
        WrongDirectory: something else is there, or another format version.
        IntegrityFailure: the data file is shorter than its last page says.
        Locked: another process has it open.
    """

    def __init__(
        self,
        path: Path,
        *,
        source: Source,
        capacity_bytes: int | None = None,
        commit_seam: Callable[[], None] | None = None,
    ) -> None:
        self._path = path
        self._commit_seam = commit_seam
        self._failed = False
        self._damaged = 0
        self._readers = 0
        self._idle = threading.Condition()
        self._closed = False
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_truncated(path / "data.mdb")
        on_disk = (path / "data.mdb").stat().st_size if (path / "data.mdb").exists() else 0
        free = os.statvfs(path)
        self.capacity_bytes = capacity_bytes or max(
            0, on_disk + free.f_bavail * free.f_frsize - DISK_RESERVE_BYTES
        )
        # Records fill whole pages and updates are copy-on-write: leave an eighth for that.
        map_bytes = max(self.capacity_bytes + self.capacity_bytes // 8 + MAP_RESERVE_BYTES, on_disk)
        try:
            self._env = lmdb.open(
                str(path), map_size=-(-map_bytes // 4096) * 4096, max_dbs=4, readahead=False, mode=0o600
            )
        except lmdb.LockError as error:
            raise Locked(f"another process has the store in {path} open") from error
        except lmdb.Error as error:
            raise WrongDirectory(f"{path} is not a shard store that opens here", why=str(error)) from error
        try:
            self._meta = self._env.open_db(b"meta")
            self._shards = self._env.open_db(b"shards")
            self._marks = self._env.open_db(b"marks")
            self.id = self._open_meta(source)
        except lmdb.Error as error:
            self._env.close()
            raise IntegrityFailure(
                f"the store in {path} is damaged",
                why=str(error),
                do="Do not use this store; the other nodes hold what is needed to fill a new one.",
            ) from error

    def _open_meta(self, source: Source) -> StoreId:
        with self._env.begin() as txn:
            format_, id_ = txn.get(b"format", db=self._meta), txn.get(b"id", db=self._meta)
        if format_ is None and id_ is None:
            made = StoreId(source.random_bytes(16))
            with self._env.begin(write=True) as txn:
                txn.put(b"format", _FORMAT, db=self._meta)
                txn.put(b"id", made, db=self._meta)
            return made
        if format_ != _FORMAT or id_ is None:
            self._env.close()
            raise WrongDirectory(
                f"the store in {self._path} has another format version",
                why=f"it says {(format_ or b'nothing').decode(errors='replace')!r}",
                do="Run the program version that made it.",
            )
        return StoreId(id_)

    @contextmanager
    def _writing(self) -> Iterator[tuple[Any, _Totals]]:
        """One durable transaction. Any error of the commit itself stops all writing."""
        if self._failed:
            raise StoreFailed(f"the store in {self._path} stopped after a failed commit")
        txn = self._env.begin(write=True)
        try:
            totals = _Totals(txn, self._meta)
            yield txn, totals
            totals.save()
        except lmdb.MapFullError:
            txn.abort()
            raise
        except lmdb.Error as error:
            txn.abort()
            self._failed = True
            raise StoreFailed(f"the store in {self._path} is damaged", why=str(error)) from error
        except BaseException:
            txn.abort()
            raise
        try:
            if self._commit_seam is not None:
                self._commit_seam()
            txn.commit()
            self._cover_last_page()
        except lmdb.MapFullError:
            txn.abort()
            raise
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
        return outcomes

    def _put_batch(
        self, txn: Any, totals: _Totals, batch: Sequence[Put], disk_full: bool
    ) -> HoldfastError | None:
        fresh: list[tuple[bytes, bytes, memoryview | bytes]] = []
        for put in batch:
            key = ShardKey.of(put.record).pack()
            stored = txn.get(key, db=self._shards)
            if stored is None:
                fresh.append((key, put.record.pack(), put.shard))
                continue
            refused = _compare(stored, put)
            if refused is not None:
                return refused
            if txn.delete(key, db=self._marks):
                totals.marked -= 1
        size = sum(len(header) + len(shard) for _, header, shard in fresh)
        if fresh and (disk_full or totals.used_bytes + size > self.capacity_bytes):
            return self._full()
        for key, header, shard in fresh:
            txn.put(key, b"".join((header, shard)), db=self._shards, overwrite=False)
        totals.shards += len(fresh)
        totals.used_bytes += size
        return None

    def mark(self, number: int, keys: Sequence[ShardKey], due_ms: int) -> tuple[int, int]:
        """See ShardStore.mark."""
        marked = absent = 0
        with self._writing() as (txn, totals):
            last = int.from_bytes(txn.get(b"order", db=self._meta) or b"", "big")
            for key in keys:
                packed = key.pack()
                if txn.get(packed, db=self._shards) is None:
                    absent += 1
                    continue
                marked += 1
                if number > last and txn.put(
                    packed, due_ms.to_bytes(8, "big"), db=self._marks, overwrite=False
                ):
                    totals.marked += 1
            if number > last:
                txn.put(b"order", number.to_bytes(8, "big"), db=self._meta)
        return marked, absent

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
                stored = txn.get(packed, db=self._shards)
                if stored is not None:
                    totals.used_bytes -= len(stored)
                    totals.shards -= 1
                    txn.delete(packed, db=self._shards)
        return len(due)

    def save_running(self, running_ms: int) -> None:
        """See ShardStore.save_running."""
        with self._writing() as (txn, _):
            txn.put(b"running_ms", running_ms.to_bytes(8, "big"), db=self._meta)

    def raise_term(self, term: int) -> None:
        """See ShardStore.raise_term."""
        if term > self.term():
            with self._writing() as (txn, _):
                txn.put(b"term", term.to_bytes(8, "big"), db=self._meta)

    # Reading

    def read(self, keys: Sequence[ShardKey]) -> list[ReadOutcome]:
        """See ShardStore.read."""
        outcomes: list[ReadOutcome] = []
        with self._reading(), self._env.begin(buffers=True) as txn:
            for key in keys:
                try:
                    stored = txn.get(key.pack(), db=self._shards)
                except lmdb.Error as error:  # a page of the tree on the way to it is damaged
                    self._damaged += 1
                    outcomes.append(Damaged(str(error)))
                    continue
                outcomes.append(Absent() if stored is None else self._verified(key, stored))
        return outcomes

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Keeps the map in place: closing waits for readers, whose views point into it."""
        with self._idle:
            if self._closed:
                raise StoreFailed(f"the store in {self._path} is closed")
            self._readers += 1
        try:
            yield
        finally:
            with self._idle:
                self._readers -= 1
                self._idle.notify_all()

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
        with self._reading(), self._env.begin() as txn:
            return int.from_bytes(txn.get(name, db=self._meta) or b"", "big")

    @property
    def running_ms(self) -> int:
        """See ShardStore.running_ms."""
        return self._number(b"running_ms")

    def term(self) -> int:
        """See ShardStore.term."""
        return self._number(b"term")

    def stats(self) -> StoreStats:
        """See ShardStore.stats."""
        with self._reading(), self._env.begin() as txn:
            totals = _Totals(txn, self._meta)
        return StoreStats(totals.shards, totals.used_bytes, totals.counter, totals.marked, self._damaged)

    def close(self) -> None:
        """See ShardStore.close."""
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: self._readers == 0)
        self._env.close()


def _compare(stored: bytes, put: Put) -> HoldfastError | None:
    """None when the very same shard is there and whole."""
    chunk = put.record.chunk
    try:
        record, shard = ShardRecord.unpack(stored)
    except IntegrityFailure as error:
        return error
    if record != put.record:
        return Conflict(f"another shard of chunk {chunk.short} is stored under this upload and slot")
    if digest_of(shard) != record.digest:
        return IntegrityFailure(f"the stored shard of chunk {chunk.short} is damaged", chunk=chunk.hex())
    return None


def refuse_truncated(file: Path) -> None:
    """Refuse a data file shorter than its newest meta page says: reading it would kill the process.

    A few pages at the end may be counted but never written; then the file is made as long as it
    should be, and whatever lies there has to prove itself when read.

    Raises:
        IntegrityFailure: the file is cut off.
        WrongDirectory: it is not LMDB's.
    """
    if not file.exists() or file.stat().st_size == 0:
        return
    size = file.stat().st_size
    with file.open("rb") as opened:
        found = [_last_page(opened, at) for at in (0, os.sysconf("SC_PAGE_SIZE"))]
    known = [meta for meta in found if meta is not None]
    if not known:
        raise WrongDirectory(f"{file} is not an LMDB data file")
    _, last_page, page_bytes = max(known)
    missing = (last_page + 1) * page_bytes - size
    if missing > SHORT_PAGES_TOLERATED * page_bytes:
        raise IntegrityFailure(
            f"{file} is cut off: {missing} bytes are missing at its end",
            do="Do not use this store; the other nodes hold what is needed to fill a new one.",
            missing_bytes=missing,
        )
    if missing > 0:
        os.truncate(file, (last_page + 1) * page_bytes)


def _last_page(opened: Any, at: int) -> tuple[int, int, int] | None:
    """(transaction, last page, page size) of the meta page at an offset; None when it is none."""
    opened.seek(at)
    raw = opened.read(_META_PAGE.size + 2 * _META_DB_BYTES + 16)
    if len(raw) < _META_PAGE.size + 2 * _META_DB_BYTES + 16:
        return None
    magic, _, _, _ = _META_PAGE.unpack_from(raw)
    if magic != _META_MAGIC:
        return None
    (page_bytes,) = struct.unpack_from("<I", raw, _META_PAGE.size)
    last_page, transaction = struct.unpack_from("<QQ", raw, _META_PAGE.size + 2 * _META_DB_BYTES)
    return transaction, last_page, page_bytes
