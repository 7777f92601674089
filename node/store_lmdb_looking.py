"""Another process's shard store, looked at from outside: nothing is written, nothing is repaired.

Works beside a running node (LMDB's readers do not disturb its writer) and on a folder at rest. A
damaged file can kill whoever reads it: callers that must live do this in a process of its own.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmdb

from holdfast.node.data_file import missing_bytes
from holdfast.node.limits import LOOK_AGAIN_S, LOOK_TRIES_MAX, SHORT_PAGES_TOLERATED
from holdfast.node.store import ShardKey
from holdfast.node.store_folder import damage_of
from holdfast.node.store_lmdb_opening import COPY_FOLDER
from holdfast.node.store_verifying import why_damaged
from holdfast.protocol.errors import IntegrityFailure, NotFound
from holdfast.protocol.ids import Digest
from holdfast.protocol.stripes import ShardRecord

__all__ = ["StoreLook", "look_at_store"]

_DATABASES_MAX = 16
_Files = tuple[int | None, int | None]
"""The inodes of a store's lock file and data file."""


@dataclass(slots=True)
class StoreLook:
    """What lies in a store.

    Attributes:
        shards: every packed key that can be read.
        damaged: those of them whose bytes are not what was stored; looked at only when asked.
        stripes: packed key -> the stripe digest its record tells; only when asked, as ``damaged``.
        marked: packed keys that a deletion order names.
        quarantined: damaged shards kept aside.
        file_bytes: how long the data file is. pages_bytes: of all values, each by itself in whole pages; only
            when asked, as ``damaged``.
    """

    shards: frozenset[bytes] = frozenset()
    damaged: dict[bytes, str] = field(default_factory=dict)
    stripes: dict[bytes, Digest] = field(default_factory=dict)
    marked: frozenset[bytes] = frozenset()
    quarantined: int = 0
    file_bytes: int = 0
    pages_bytes: int = 0


def look_at_store(path: Path, *, verify: bool = False) -> StoreLook:
    """Read every key, and with ``verify`` every byte.

    Raises:
        NotFound: there is no store. WrongDirectory: its file is not LMDB's.
        IntegrityFailure: it is declared damaged, cut off, or its tree does not hold.
    """
    file = path / "data.mdb"
    if not file.exists():
        raise NotFound(f"there is no store in {path}")
    if (why := damage_of(path)) is not None:
        raise IntegrityFailure(f"the store in {path} is damaged", why=why)
    if missing_bytes(file) > SHORT_PAGES_TOLERATED * os.sysconf("SC_PAGE_SIZE"):
        raise IntegrityFailure(f"the store in {path} is cut off")
    for _ in range(LOOK_TRIES_MAX):
        if (found := _tried(path, verify)) is not None:
            return found
        time.sleep(LOOK_AGAIN_S)
    raise IntegrityFailure(
        f"the store in {path} cannot be looked at",
        why="its lock file is another data file's",
        do="Look again when no other process looks at it.",
    )


class _Torn(Exception):
    """What was opened does not belong together, or does not any more."""


def _tried(path: Path, verify: bool) -> StoreLook | None:
    """One look; None where what was opened did not belong together, or did not stay so.

    A store that is compacted gets another data file, and then another lock file; LMDB opens one after
    the other. Who has the lock file of another data file may see what was before, and nobody spares
    the pages that he reads. (Who has both old files is fine: nobody writes to them.)
    """
    opened = _files(path)
    copy = path / COPY_FOLDER
    is_replaced = copy.exists() and not (copy / "data.mdb").exists()  # asked before anything is opened
    try:
        env = lmdb.open(str(path), readonly=True, create=False, max_dbs=_DATABASES_MAX, readahead=verify)
    except lmdb.Error as error:
        raise IntegrityFailure(f"the store in {path} does not open", why=str(error)) from error
    try:
        opened = _fitting(env, path, opened, is_replaced)
        found = _look(env, verify)
        found.file_bytes = os.stat(path / "data.mdb").st_size
    except (_Torn, FileNotFoundError):  # or it was taken away meanwhile
        return None
    except (lmdb.Error, ValueError, struct.error) as error:
        if _is_torn(opened, path):
            return None
        raise IntegrityFailure(f"the store in {path} does not open", why=str(error)) from error
    finally:
        env.close()
    return None if _is_torn(opened, path) else found


def _fitting(env: Any, path: Path, before: _Files, is_replaced: bool) -> _Files:
    """The files that were opened, whose numbers of the last transaction are the same.

    A commit writes the data file first: while it does, that is one ahead. Where another data file had
    just come (``is_replaced``) this may mean anything, and is not taken.

    Raises:
        _Torn: they are not.
    """
    least = env.info()["last_txnid"]
    with env.begin() as txn:
        told = txn.id()
    most = env.info()["last_txnid"]
    lock, data = _files(path)
    same = data == before[1] and before[0] in (None, lock)  # None: LMDB has just made it
    if not same or not least - (not is_replaced) <= told <= most:
        raise _Torn
    return lock, data


def _is_torn(opened: _Files, path: Path) -> bool:
    """Has the data file that was opened got another lock file since?"""
    lock, data = _files(path)
    return data == opened[1] and lock != opened[0]


def _files(path: Path) -> _Files:
    """The inodes of a store's lock file and data file as they lie there now."""
    return _inode(path / "lock.mdb"), _inode(path / "data.mdb")


def _inode(file: Path) -> int | None:
    try:
        return file.stat().st_ino
    except FileNotFoundError:
        return None


def _look(env: Any, verify: bool) -> StoreLook:
    found = StoreLook()
    names = ("shards", "replaced", "unreadable", "marks", "quarantine")
    databases = {name: _database(env, name) for name in names}
    with env.begin(buffers=False) as txn:
        if txn.id() > env.info()["last_txnid"]:
            raise _Torn  # the lock file has gone on with another data file

        def keys(name: str) -> Iterator[bytes]:
            if databases[name] is None:
                return
            with txn.cursor(db=databases[name]) as cursor:
                yield from cursor.iternext(values=False)

        untouchable = frozenset(keys("unreadable"))
        replaced = frozenset(keys("replaced"))
        readable = frozenset(key for key in keys("shards") if key not in untouchable)
        found.shards = readable | replaced
        found.marked = frozenset(keys("marks"))
        if databases["quarantine"] is not None:
            found.quarantined = txn.stat(databases["quarantine"])["entries"]
        if verify:
            for name, those in (("shards", readable), ("replaced", replaced)):
                for key in those:
                    stored = txn.get(key, db=databases[name])
                    found.pages_bytes += _pages_bytes(stored)
                    _verify(found, key, stored)
            if databases["quarantine"] is not None:
                with txn.cursor(db=databases["quarantine"]) as cursor:
                    found.pages_bytes += sum(map(_pages_bytes, cursor.iternext(keys=False)))
    return found


def _database(env: Any, name: str) -> Any:
    """LMDB's handle; None where a store has not got that database (yet)."""
    try:
        return env.open_db(name.encode(), create=False)
    except (lmdb.NotFoundError, lmdb.ReadonlyError):
        return None


def _pages_bytes(stored: bytes | None) -> int:
    page = os.sysconf("SC_PAGE_SIZE")
    return -(-len(stored or b"") // page) * page


def _verify(found: StoreLook, packed: bytes, stored: bytes | None) -> None:
    try:
        key = ShardKey.unpack(packed)
    except ValueError as error:
        found.damaged[packed] = f"its key does not hold: {error}"
        return
    if stored is None:
        found.damaged[packed] = "it is in the tree, and not found by its key"
    elif (why := why_damaged(key, stored)) is not None:
        found.damaged[packed] = why
    else:
        found.stripes[packed] = ShardRecord.unpack(stored)[0].stripe.stripe_digest
