"""Opening a shard store's LMDB environment: what is there must be ours, whole, and of this format."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import lmdb

from holdfast.node.data_file import refuse_truncated
from holdfast.node.limits import DISK_RESERVE_BYTES, LOCK_TRIES_MAX, MAP_RESERVE_BYTES
from holdfast.node.store import StoreDamaged
from holdfast.node.store_folder import damage_of
from holdfast.node.store_quarantine import quarantine_bytes_max
from holdfast.node.store_totals import Totals
from holdfast.protocol.clock import Source
from holdfast.protocol.directory import sync_folder
from holdfast.protocol.errors import IntegrityFailure, Locked, WrongDirectory
from holdfast.protocol.ids import StoreId

__all__ = [
    "COPY_FOLDER",
    "DAMAGE",
    "Databases",
    "damaged_store",
    "open_copy",
    "open_databases",
]

COPY_FOLDER: Final = "compact"
_FORMAT_BEGINS: Final = b"holdfast shard store "
_FORMAT: Final = _FORMAT_BEGINS + b"1"
_DATABASES_MAX: Final = 16
_FIRST_TRANSACTIONS: Final = 4 * _DATABASES_MAX
"""A store in which more was ever committed has an id."""
DAMAGE: Final = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.PanicError,
    lmdb.CursorFullError,
    lmdb.PageFullError,
    lmdb.IncompatibleError,
    lmdb.ProblemError,
    lmdb.BadValsizeError,
)
"""What LMDB says when its own pages are not what it wrote."""


@dataclass(frozen=True, slots=True)
class Databases:
    """An open environment and LMDB's handles of the databases in it.

    Attributes:
        meta: names -> what the store says of itself.
        shards: keys -> records. marks: keys -> when to erase them.
        unreadable: keys whose bytes in ``shards`` must not be touched; ``replaced`` is their place.
        quarantine, findings: see node/store_quarantine.py.
    """

    NAMES: ClassVar = ("meta", "shards", "marks", "replaced", "unreadable", "quarantine", "findings")

    env: Any
    meta: Any
    shards: Any
    marks: Any
    replaced: Any
    unreadable: Any
    quarantine: Any
    findings: Any


def damaged_store(path: Path, why: str) -> IntegrityFailure:
    """The store as a whole cannot be used."""
    return IntegrityFailure(
        f"the store in {path} is damaged",
        why=why,
        do="Start the node with --replace-damaged-store: peers fill a new one, this one is kept aside.",
    )


def open_databases(path: Path, source: Source, capacity_bytes: int | None) -> tuple[Databases, StoreId, int]:
    """(everything open, the store's id, bytes of records to accept).

    Raises:
        WrongDirectory, IntegrityFailure, Locked: see :class:`LmdbStore`.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (why := damage_of(path)) is not None:
        raise damaged_store(path, why)
    # There while a store is compacted, and still there when a process died of it, before or after the rename.
    copying = path / COPY_FOLDER
    (copying / "data.mdb").unlink(missing_ok=True)
    file = path / "data.mdb"
    if not file.exists() or file.stat().st_size == 0:
        _make(path, source)
    refuse_truncated(file)
    on_disk = file.stat().st_size if file.exists() else 0
    free = os.statvfs(path)
    capacity = capacity_bytes or max(0, on_disk + free.f_bavail * free.f_frsize - DISK_RESERVE_BYTES)
    # Records fill whole pages and updates are copy-on-write: leave an eighth for that.
    wanted = capacity + capacity // 8 + quarantine_bytes_max(capacity) + MAP_RESERVE_BYTES
    env = _open(path, max(wanted, on_disk))
    try:
        if copying.exists():
            env = _with_its_lock(env, path)
            shutil.rmtree(copying, ignore_errors=True)  # one that stays makes looks stricter, that is all
        opened = _databases(env)
        return opened, _identify(path, opened, source), capacity
    except (lmdb.Error, StoreDamaged) as error:
        env.close()
        raise damaged_store(path, str(error)) from error
    except BaseException:
        env.close()
        raise


def _with_its_lock(env: Any, path: Path) -> Any:
    """The environment of a data file that has just replaced another, with a lock file of its own.

    LMDB keeps the number of the last transaction in its lock file, begins that anew only when nobody has
    it open, and takes from the number's last bit which of two states of the data file counts (lmdb 0.9,
    mdb.c: mdb_env_setup_locks, mdb_txn_renew0). While another process looked at the store, a new data
    file so was read by the old one's number: half the time one transaction back, and written from there.

    Where the number is the data file's the lock file stays: whoever looks at this very file is known by it.

    Raises:
        Locked: others bring the old number back again and again.
    """
    for _ in range(LOCK_TRIES_MAX):
        with env.begin() as txn:
            told = txn.id()  # from the lock file
        if told == env.info()["last_txnid"]:  # from the data file; nobody else writes
            return env
        map_bytes = env.info()["map_size"]
        env.close()
        (path / "lock.mdb").unlink(missing_ok=True)
        env = _open(path, map_bytes)
    env.close()
    raise Locked(
        f"the store in {path} does not come by a lock file of its own",
        why="other processes look at it all the time",
        do="Let none look at it, and start the node again.",
    )


def _databases(env: Any) -> Databases:
    return Databases(env, *(env.open_db(name.encode()) for name in Databases.NAMES))


def open_copy(folder: Path, map_bytes: int) -> Databases:
    """An empty environment for a copy; it is not durable before it is synced as a whole."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    return _databases(_open(folder, map_bytes, is_synced=False))


def _make(path: Path, source: Source) -> None:
    """A new, empty store, which is there whole or not at all.

    LMDB writes its first two pages without syncing them, and never makes its file's name durable: after a
    power cut in the first moments there was a file that is no store, and, with a filesystem that takes
    POSIX at its word, no file even after many commits. So it is made beside its place and moved there.
    """
    beside = path / "new"
    if beside.exists():  # a start that died
        shutil.rmtree(beside)
    beside.mkdir(mode=0o700)
    env = _open(beside, MAP_RESERVE_BYTES)
    try:
        _identify(beside, _databases(env), source)
    finally:
        env.close()
    os.replace(beside / "data.mdb", path / "data.mdb")
    sync_folder(path)
    shutil.rmtree(beside)
    sync_folder(path.parent)


def _open(path: Path, map_bytes: int, *, is_synced: bool = True) -> Any:
    try:
        return lmdb.open(
            str(path),
            map_size=-(-map_bytes // 4096) * 4096,
            max_dbs=_DATABASES_MAX,
            readahead=False,
            sync=is_synced,
            mode=0o600,
        )
    except lmdb.LockError as error:
        raise Locked(f"another process has the store in {path} open") from error
    except lmdb.Error as error:
        allowed = os.access(path / "data.mdb", os.R_OK | os.W_OK)
        raise WrongDirectory(
            f"{path} is not a shard store that opens here", why=str(error), unreadable=allowed
        ) from error


def _identify(path: Path, opened: Databases, source: Source) -> StoreId:
    """Its id, made in a new store; what it says of itself must fit what is in it."""
    env, meta = opened.env, opened.meta
    with env.begin() as txn:
        format_, id_ = txn.get(b"format", db=meta), txn.get(b"id", db=meta)
        told = Totals(txn, meta).shards
        there = txn.stat(opened.shards)["entries"] + txn.stat(opened.replaced)["entries"]
        untouched = txn.stat(opened.unreadable)["entries"]
    if format_ is None and id_ is None:
        if env.info()["last_txnid"] > _FIRST_TRANSACTIONS:
            raise StoreDamaged("it has lost what it says of itself")
        made = StoreId(source.random_bytes(16))
        with env.begin(write=True) as txn:
            txn.put(b"format", _FORMAT, db=meta)
            txn.put(b"id", made, db=meta)
        return made
    if format_ is None:
        raise WrongDirectory(f"the LMDB files in {path} are not a shard store", unreadable=True)
    if id_ is None or len(id_) != StoreId.SIZE or not format_.startswith(_FORMAT_BEGINS):
        raise StoreDamaged("what it says of itself does not hold")
    if format_ != _FORMAT:
        raise WrongDirectory(
            f"the store in {path} has another format version",
            why=f"it says {format_.decode(errors='replace')!r}",
            do="Run the program version that made it.",
        )
    if not there - untouched <= told <= there:
        raise StoreDamaged(f"it counts {told} shards, and there are {there}")
    return StoreId(id_)
