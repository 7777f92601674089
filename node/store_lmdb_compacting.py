"""Giving room back to the disk: a store's data file is copied without its free pages, while it serves.

LMDB's file never shrinks. So what is in it is copied, a portion at a time, into a file
beside it; keys that are written meanwhile are noted and copied again; at the end, with
all writing stopped for a moment, the copy is made durable as a whole and takes the
file's place by a rename. Before the rename the old file has everything, after it the
new one does: the process may die anywhere.

    store/compact/data.mdb     the copy; removed when the store is opened and it is still there

The copy is written without syncing, since it counts only once it was synced as a
whole. (mdb_env_copy would read everything in one transaction, which keeps the pages that
are freed meanwhile, and cannot be paced.) Shards that must not be touched are left
behind, and those that took their place come to where they belong.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import lmdb

from holdfast.node.data_file_places import read_ahead
from holdfast.node.limits import COMPACT_AHEAD_ENTRIES, COMPACT_CHANGES_FEW, DISK_RESERVE_BYTES
from holdfast.node.store import StoreDamaged, StoreRoom
from holdfast.node.store_lmdb_opening import COPY_FOLDER, DAMAGE, Databases, open_copy
from holdfast.node.store_totals import Totals
from holdfast.protocol.directory import sync_folder
from holdfast.protocol.errors import HoldfastError, NoRoom, StoreFailed
from holdfast.protocol.failpoints import reached

__all__ = ["Copy", "NotingTransaction", "Original", "room_of"]

_PASSES: Final = ("shards", "marks", "quarantine", "findings", "meta")
assert {*_PASSES, "replaced", "unreadable"} == set(Databases.NAMES), "a copy leaves nothing out"
_FINISH_BYTES: Final = 64 << 20
Change = tuple[str, bytes]
"""(database, key)"""


def room_of(opened: Databases, file: Path) -> StoreRoom:
    """How long the data file is, and how much of it is free pages."""
    with opened.env.begin() as txn:
        page_bytes = txn.stat(opened.meta)["psize"]
        used = sum(
            told["branch_pages"] + told["leaf_pages"] + told["overflow_pages"]
            for told in (txn.stat(getattr(opened, name)) for name in Databases.NAMES)
        )
    file_bytes = file.stat().st_size
    # Two pages of LMDB's own, the tree of the databases' names, and some for the list of free pages.
    live_bytes = min(file_bytes, (used + 8) * page_bytes)
    return StoreRoom(file_bytes, file_bytes - live_bytes)


class NotingTransaction:
    """A write transaction that notes which keys it changes."""

    __slots__ = ("_names", "_txn", "changed")

    def __init__(self, txn: Any, names: dict[int, str]) -> None:
        self._txn, self._names = txn, names
        self.changed: list[Change] = []

    def put(self, key: bytes, value: Any, *, db: Any, **how: Any) -> bool:
        """As LMDB's."""
        self.changed.append((self._names[id(db)], key))
        return bool(self._txn.put(key, value, db=db, **how))

    def delete(self, key: bytes, *, db: Any) -> bool:
        """As LMDB's."""
        self.changed.append((self._names[id(db)], key))
        return bool(self._txn.delete(key, db=db))

    def get(self, key: bytes, *, db: Any) -> Any:
        """As LMDB's."""
        return self._txn.get(key, db=db)

    def cursor(self, *, db: Any) -> Any:
        """As LMDB's; for looking only."""
        return self._txn.cursor(db=db)


@dataclass(frozen=True, slots=True)
class Original:
    """What a copy needs of the store that is copied.

    Attributes:
        reading: keeps the environment open while something is read from it.
        note_reading: told which shard's bytes are touched next.
        damage: makes the error that gives the store up as a whole.
        swap: with nobody reading or writing, calls what it is given, and opens the store again.
    """

    path: Path
    opened: Databases
    unreadable: frozenset[bytes]
    map_bytes: int
    reading: Callable[[], AbstractContextManager[None]]
    note_reading: Callable[[bytes], None]
    damage: Callable[[str], StoreDamaged]
    swap: Callable[[Callable[[], None]], None]
    ended: Callable[[], None]


class Copy:
    """See ShardStore.compact and Compaction. Made, and finished, in the thread that writes.

    Raises:
        NoRoom: the disk has not enough room for a copy.
    """

    def __init__(self, original: Original) -> None:
        room = room_of(original.opened, original.path / "data.mdb")
        self.before_bytes = room.file_bytes
        self.total_bytes = room.file_bytes - room.free_bytes
        self.copied_bytes = 0
        self._original = original
        self._require_disk(self.total_bytes + self.total_bytes // 16)
        self._folder = original.path / COPY_FOLDER
        self._into = open_copy(self._folder, original.map_bytes)
        self._names = {id(getattr(original.opened, name)): name for name in Databases.NAMES}
        self._pass = 0
        self._last = b""
        self._changed: dict[Change, None] = {}
        self._noting = threading.Lock()
        self._busy = threading.RLock()
        self._is_over = self._is_synced = False

    def _require_disk(self, wanted: int) -> None:
        free = os.statvfs(self._original.path)
        if free.f_bavail * free.f_frsize < wanted + DISK_RESERVE_BYTES:
            raise NoRoom(
                f"the disk has too little room to compact the store: a copy takes {wanted:,} bytes",
                do="Free some room on the node's disk, then ask again.",
            )

    # What is written meanwhile

    def watch(self, txn: Any) -> NotingTransaction:
        """The same transaction, whose changes will be copied too."""
        return NotingTransaction(txn, self._names)

    def note(self, changed: list[Change]) -> None:
        """These changes are committed."""
        with self._noting:
            self._changed.update(dict.fromkeys(changed))

    # Copying

    def step(self, most_bytes: int) -> bool:
        """Copy about so many bytes on; True when only a few changes are left for :meth:`finish`.

        Raises:
            StoreDamaged: a page on the way does not hold. NoRoom: the disk has become full.
            StoreFailed: the copy was given up.
        """
        with self._busy:
            if self._is_over:
                raise StoreFailed("the copy of this store was given up")
            self._require_disk(most_bytes)
            # Taken before the transaction begins: it sees every change in it, and later ones are noted anew.
            with self._noting:
                changed, self._changed = self._changed, {}
            try:
                with self._original.reading(), self._original.opened.env.begin(buffers=True) as txn:
                    size = self._catch_up(txn, changed, most_bytes)
                    if self._pass < len(_PASSES) and size < most_bytes:
                        size += self._copy_on(txn, most_bytes - size)
            except lmdb.MapFullError as error:
                raise NoRoom("the copy of the store does not fit into its map") from error
            except DAMAGE as error:
                raise self._original.damage(f"copying it: {error}") from error
            finally:
                self._original.note_reading(b"")
            self.copied_bytes += size
            with self._noting:
                self._changed = changed | self._changed
                is_near = self._pass == len(_PASSES) and len(self._changed) <= COMPACT_CHANGES_FEW
            if is_near and not self._is_synced:
                # Most of it goes to the disk now, so that writing stops only for the rest.
                self._into.env.sync(True)
                self._is_synced = True
            return is_near

    def _copy_on(self, txn: Any, most_bytes: int) -> int:
        """Copy what lies behind the last key; gives how many bytes."""
        name = _PASSES[self._pass]
        target, size = getattr(self._into, name), 0
        if name == "shards":
            self._ask_ahead(txn)
        with self._into.env.begin(write=True) as into:
            for key, value in self._entries(txn, name):
                if not into.put(key, value, db=target, append=True):
                    raise HoldfastError("a key of the copy is not behind the one before it")
                self._last = key
                size += len(key) + len(value)
                if size >= most_bytes:
                    break
            else:
                self._pass, self._last = self._pass + 1, b""
        return size

    def _ask_ahead(self, txn: Any) -> None:
        """Have the kernel begin to read what comes next: through the map it comes page by page."""
        with txn.cursor(db=self._original.opened.shards) as cursor:
            if cursor.set_range(self._last):
                keys = {bytes(key) for key in islice(cursor.iternext(values=False), COMPACT_AHEAD_ENTRIES)}
                read_ahead(self._original.path / "data.mdb", b"shards", keys - self._original.unreadable)

    def _is_ahead(self, name: str, key: bytes) -> bool:
        """Will the copy still come to it by itself?"""
        at = _PASSES.index("shards" if name in ("shards", "replaced") else name)
        return at > self._pass or (at == self._pass and key > self._last)

    def _catch_up(self, txn: Any, changed: dict[Change, None], most_bytes: int) -> int:
        """Copy keys again that were written since they were copied; takes them out of ``changed``."""
        opened, size = self._original.opened, 0
        with self._into.env.begin(write=True) as into:
            while changed and size < most_bytes:
                name, key = next(iter(changed))
                del changed[(name, key)]
                if name == "unreadable" or self._is_ahead(name, key):
                    continue
                is_shard = name in ("shards", "replaced")
                if is_shard:
                    name = "replaced" if key in self._original.unreadable else "shards"
                    self._original.note_reading(key if name == "shards" else b"")
                value = txn.get(key, db=getattr(opened, name))
                target = self._into.shards if is_shard else getattr(self._into, name)
                if value is None:
                    into.delete(key, db=target)
                else:
                    into.put(key, value, db=target)
                    size += len(value)
        return size

    def _entries(self, txn: Any, name: str) -> Iterator[tuple[bytes, Any]]:
        """What lies behind the last key that was copied."""
        with txn.cursor(db=getattr(self._original.opened, name)) as cursor:
            more = cursor.set_range(self._last) if self._last else cursor.first()
            if more and self._last and cursor.key() == self._last:
                more = cursor.next()
            while more:
                key = bytes(cursor.key())
                if name == "shards" and key in self._original.unreadable:
                    value = txn.get(key, db=self._original.opened.replaced)
                else:
                    if name == "shards":
                        self._original.note_reading(key)
                    value = cursor.value()
                if value is not None:
                    yield key, value
                more = cursor.next()

    # The end

    def finish(self) -> int:
        """Put the copy in the file's place; gives how many bytes the disk got back.

        Raises:
            StoreFailed: it could not be; the store may have to be opened again.
        """
        with self._busy:
            try:
                while not self.step(_FINISH_BYTES) or self._changed:
                    pass
                reached("node.compact.copied")
                self._prove()
                self._make_durable()
            except BaseException:
                self.abandon()
                raise
            reached("node.compact.durable")
            self._is_over = True
            try:
                self._original.swap(self._replace)
            finally:
                self._original.ended()
        return self.before_bytes - (self._original.path / "data.mdb").stat().st_size

    def _prove(self) -> None:
        """The copy counts what it holds, and holds what the store counts."""
        with self._original.reading(), self._original.opened.env.begin() as txn:
            told = Totals(txn, self._original.opened.meta)
        with self._into.env.begin() as into:
            copied, there = Totals(into, self._into.meta), into.stat(self._into.shards)["entries"]
        if (copied.counter, copied.shards, there) != (told.counter, told.shards, told.shards):
            raise HoldfastError(f"the copy has {there} of {told.shards} shards, and is not used")

    def _make_durable(self) -> None:
        self._into.env.sync(True)
        self._into.env.close()
        descriptor = os.open(self._folder / "data.mdb", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _replace(self) -> None:
        os.replace(self._folder / "data.mdb", self._original.path / "data.mdb")
        sync_folder(self._original.path)
        reached("node.compact.replaced")
        # The folder stays until the store is open again: it says that its lock file may be the old file's.

    def abandon(self) -> None:
        """Give the copy up: nothing has changed. Once is as good as often."""
        with self._busy:
            if self._is_over:
                return
            self._is_over = True
            self._into.env.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._original.ended()
