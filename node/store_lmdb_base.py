"""What all access to an LMDB shard store shares: opening it, where its keys lie, one durable transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import lmdb

from holdfast.node.data_file import cover_last_page
from holdfast.node.limits import UNREADABLE_MAX
from holdfast.node.store import ShardKey, StoreDamaged
from holdfast.node.store_folder import declare_damaged
from holdfast.node.store_lmdb_compacting import Copy
from holdfast.node.store_lmdb_gate import ReaderGate
from holdfast.node.store_lmdb_opening import DAMAGE, Databases, damaged_store, open_databases
from holdfast.node.store_quarantine import Quarantine, quarantine_bytes_max
from holdfast.node.store_totals import Totals
from holdfast.protocol.clock import Source
from holdfast.protocol.errors import StoreFailed

__all__ = ["LmdbBase"]


class LmdbBase:
    """One store in one directory; see LmdbStore.

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
        self._file = path / "data.mdb"
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
            cover_last_page(self._env, self._file)
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

    def close(self) -> None:
        """See ShardStore.close."""
        if self._copy is not None:
            self._copy.abandon()
        self._gate.close()
        self._env.close()
