"""What a node keeps so that nobody can take history back, and so that a coordinator can be rebuilt.

    meta       "format"; "map": the newest cluster map (KeptMap)
    accounts   account id -> KeptAccount
    heads      account id || u64 number -> KeptHead
    runs       account id -> u64: the oldest head of the unbroken run that ends with the newest
    records    account id || snapshot id -> sealed snapshot record

It is an LMDB environment of its own beside the shard store: a shard store that is damaged, replaced or
full takes no history with it, and a head never waits for a batch of shards. LMDB has no checksums, so
every value ends with eight bytes that prove it. After a failed commit nothing more is taken until
the node starts anew: the disk decides what it holds, not what the kernel remembers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

import lmdb
from blake3 import blake3

from holdfast.node.data_file import cover_last_page, refuse_truncated
from holdfast.node.limits import (
    HEADS_DISK_RESERVE_BYTES,
    HEADS_MAP_BYTES,
    KEPT_PAGE_BYTES,
    KEPT_PAGE_ENTRIES_MAX,
    MAP_RESERVE_BYTES,
)
from holdfast.protocol.accounts import signed_digest
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.directory import sync_folder
from holdfast.protocol.errors import HoldfastError, IntegrityFailure, NoRoom, StoreFailed, WrongDirectory
from holdfast.protocol.ids import AccountId, Digest, SnapshotId
from holdfast.protocol.limits import RECORDS_FETCH_MAX
from holdfast.protocol.messages.cluster import ClusterMap
from holdfast.protocol.messages.witness import KeptAccount, KeptHead, KeptMap
from holdfast.protocol.stripes import digest_of

__all__ = ["HeadStore"]

_FORMAT: Final = b"holdfast head store 1"
_CHECK_BYTES: Final = 8


def _check(key: bytes, value: bytes) -> bytes:
    return blake3(len(key).to_bytes(4, "big") + key + value).digest(length=_CHECK_BYTES)


def _opened(key: bytes, stored: bytes) -> bytes:
    value, check = stored[:-_CHECK_BYTES], stored[-_CHECK_BYTES:]
    if check != _check(key, value):
        raise IntegrityFailure("a kept head or record is not what was stored")
    return value


class HeadStore:
    """One per node. Methods block; one thread at a time writes.

    Args:
        path: its directory, made when it is not there.

    Attributes:
        map_digest: of the payload of the cluster map that is kept; empty: none.

    Raises:
        WrongDirectory: something else is there, or another format version.
        StoreFailed: it does not open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path / "data.mdb"
        self._failed = ""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            if not self._file.exists() or self._file.stat().st_size == 0:
                _make(path)
            refuse_truncated(self._file)
            self._env = _open(path, HEADS_MAP_BYTES)
            names = ("meta", "accounts", "heads", "runs", "records")
            self._meta, self._accounts, self._heads, self._runs, self._records = (
                self._env.open_db(name.encode()) for name in names
            )
            with self._env.begin() as txn:
                found = txn.get(b"format", db=self._meta)
        except (lmdb.Error, IntegrityFailure) as error:
            raise StoreFailed(
                f"the heads kept in {path} do not open",
                why=str(error),
                do="Move that folder away and start the node again: the coordinator fills it.",
            ) from error
        if found != _FORMAT:
            self._env.close()
            raise WrongDirectory(f"{path} is of another version, or not what it should be")
        self._map_place, self.map_digest = self._map_found()

    def _map_found(self) -> tuple[tuple[int, int], bytes]:
        kept = self.map()
        with suppress(HoldfastError):
            if kept is not None:
                opened = decode(kept.map.payload, ClusterMap)
                return (opened.term, opened.epoch), bytes(digest_of(kept.map.payload))
        return (0, 0), b""

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        """One durable transaction; any error of it stops all writing."""
        if self._failed:
            raise StoreFailed(f"the heads in {self._path} stopped after a failed commit", why=self._failed)
        free = os.statvfs(self._path)
        if free.f_bavail * free.f_frsize < HEADS_DISK_RESERVE_BYTES:
            raise NoRoom("this node's disk is full, and keeps no more heads", do="Free some room on it.")
        try:
            with self._env.begin(write=True) as txn:
                yield txn
            cover_last_page(self._env, self._file)
        except lmdb.MapFullError:
            raise NoRoom("this node keeps as many heads as it may") from None
        except (lmdb.Error, OSError) as error:
            self._failed = str(error)
            raise StoreFailed(f"heads in {self._path} could not be made durable", why=str(error)) from error

    def keep(
        self,
        account: AccountId,
        *,
        facts: KeptAccount | None = None,
        head: tuple[int, KeptHead] | None = None,
        run_from: int | None = None,
        records: Sequence[tuple[SnapshotId, bytes]] = (),
    ) -> None:
        """Make all of it durable in one transaction; again is fine.

        Args:
            run_from: number of the oldest head of the unbroken run, where it changes.
        """
        if facts is None and head is None and run_from is None and not records:
            return
        with self._writing() as txn:

            def put(key: bytes, value: bytes, place: Any) -> None:
                txn.put(key, value + _check(key, value), db=place)

            if facts is not None:
                put(bytes(account), encode(facts), self._accounts)
            if head is not None:
                put(_head_key(account, head[0]), encode(head[1]), self._heads)
            if run_from is not None:
                put(bytes(account), run_from.to_bytes(8, "big"), self._runs)
            for snapshot, sealed in records:
                put(bytes(account) + snapshot, sealed, self._records)

    def keep_map(self, kept: KeptMap, opened: ClusterMap) -> None:
        """Keep a cluster map, unless the one kept is as new; ``opened``: what is in it."""
        if self._map_place >= (opened.term, opened.epoch):
            return
        with self._writing() as txn:
            value = encode(kept)
            txn.put(b"map", value + _check(b"map", value), db=self._meta)
        self._map_place, self.map_digest = (opened.term, opened.epoch), bytes(digest_of(kept.map.payload))

    # Reading

    def _get(self, key: bytes, place: Any) -> bytes | None:
        with self._env.begin() as txn:
            stored = txn.get(key, db=place)
        return _opened(key, stored) if stored is not None else None

    def map(self) -> KeptMap | None:
        """The newest cluster map kept; None also where it is damaged: the coordinator brings it again."""
        try:
            stored = self._get(b"map", self._meta)
            return decode(stored, KeptMap) if stored is not None else None
        except (HoldfastError, lmdb.Error):
            return None

    def facts(self, account: AccountId) -> KeptAccount | None:
        """What is kept of an account."""
        stored = self._get(bytes(account), self._accounts)
        return decode(stored, KeptAccount) if stored is not None else None

    def head(self, account: AccountId, seq: int) -> KeptHead | None:
        """The head kept under a number."""
        stored = self._get(_head_key(account, seq), self._heads)
        return decode(stored, KeptHead) if stored is not None else None

    def newest(self, account: AccountId) -> tuple[int, KeptHead] | None:
        """The head with the highest number, and that number."""
        with self._env.begin() as txn, txn.cursor(db=self._heads) as cursor:
            # The last key of the account: one before the first that lies behind all of it.
            behind = cursor.set_range(bytes(account) + b"\xff" * 9)
            there = cursor.prev() if behind else cursor.last()
            if not there or not bytes(cursor.key()).startswith(account):
                return None
            key, stored = bytes(cursor.key()), bytes(cursor.value())
        return int.from_bytes(key[len(account) :], "big"), decode(_opened(key, stored), KeptHead)

    def digest_at(self, account: AccountId, seq: int) -> Digest | None:
        """The signed digest of the head kept under a number."""
        found = self.head(account, seq) if seq > 0 else None
        return signed_digest(found.head) if found is not None else None

    def run_from(self, account: AccountId) -> int:
        """Number of the oldest head of the unbroken run that ends with the newest; 0: there is none."""
        stored = self._get(bytes(account), self._runs)
        return int.from_bytes(stored, "big") if stored is not None else 0

    def lacking(self, account: AccountId, wanted: Sequence[bytes]) -> list[SnapshotId]:
        """Those of the records, by their ids, that are not here, at most RECORDS_FETCH_MAX."""
        prefix = bytes(account)
        with self._env.begin() as txn, txn.cursor(db=self._records) as cursor:
            gone = (SnapshotId(snapshot) for snapshot in wanted if not cursor.set_key(prefix + snapshot))
            return list(islice(gone, RECORDS_FETCH_MAX))

    def accounts(self, after: bytes) -> list[KeptAccount]:
        """Accounts in order behind an id."""
        return [decode(value, KeptAccount) for _, value in self._page(self._accounts, after, b"")]

    def heads(self, account: AccountId, after: int) -> list[KeptHead]:
        """Heads of an account with numbers above ``after``."""
        start = _head_key(account, after)
        return [decode(value, KeptHead) for _, value in self._page(self._heads, start, account)]

    def records(self, account: AccountId, after: bytes) -> list[bytes]:
        """Sealed records of an account in order behind a snapshot id."""
        return [value for _, value in self._page(self._records, bytes(account) + after, account)]

    def _page(self, place: Any, after: bytes, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Values behind a key, as many as an answer holds. What does not prove itself is left out."""
        found: list[tuple[bytes, bytes]] = []
        size = 0
        with self._env.begin() as txn, txn.cursor(db=place) as cursor:
            more = cursor.set_range(after) if after else cursor.first()
            if more and bytes(cursor.key()) == after:
                more = cursor.next()
            while more and bytes(cursor.key()).startswith(prefix) and len(found) < KEPT_PAGE_ENTRIES_MAX:
                key, stored = bytes(cursor.key()), bytes(cursor.value())
                size += len(stored)
                if found and size > KEPT_PAGE_BYTES:
                    break
                with suppress(IntegrityFailure):  # other nodes keep it too
                    found.append((key, _opened(key, stored)))
                more = cursor.next()
        return found

    def close(self) -> None:
        """Let go of the files."""
        self._env.close()


def _head_key(account: AccountId, seq: int) -> bytes:
    return bytes(account) + seq.to_bytes(8, "big")


def _open(path: Path, map_bytes: int) -> Any:
    return lmdb.open(str(path), map_size=map_bytes, max_dbs=8, readahead=False, mode=0o600)


def _make(path: Path) -> None:
    """A new, empty store, which is there whole or not at all; see node/store_lmdb_opening.py for why."""
    beside = path / "new"
    if beside.exists():  # a start that died
        shutil.rmtree(beside)
    beside.mkdir(mode=0o700)
    env = _open(beside, MAP_RESERVE_BYTES)
    try:
        meta = env.open_db(b"meta")
        for name in (b"accounts", b"heads", b"runs", b"records"):
            env.open_db(name)
        with env.begin(write=True) as txn:
            txn.put(b"format", _FORMAT, db=meta)
    finally:
        env.close()
    os.replace(beside / "data.mdb", path / "data.mdb")
    sync_folder(path)
    shutil.rmtree(beside)
    sync_folder(path.parent)
