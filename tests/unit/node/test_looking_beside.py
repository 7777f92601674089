"""Another process may look at a store at any time: nobody ever sees, or writes on, a state of before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.shards import key_of, made_put

from holdfast.node import store_lmdb_looking, store_lmdb_opening
from holdfast.node.store import Found
from holdfast.node.store_lmdb import LmdbStore
from holdfast.node.store_lmdb_opening import COPY_FOLDER
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.errors import StoreFailed

SIZE = 6_000
LOOKER = """
import sys
import lmdb
from holdfast.node.store_lmdb_looking import _look
with lmdb.open(sys.argv[1], readonly=True, create=False, max_dbs=16, readahead=False) as env:
    print("open", flush=True)
    sys.stdin.readline()
    print(len(_look(env, False).shards), flush=True)
"""


def open_store(folder: Path) -> LmdbStore:
    return LmdbStore(folder, source=FixedSource(), capacity_bytes=20_000_000)


LOOK = """
import sys
from pathlib import Path
from holdfast.node.store_lmdb_looking import look_at_store
from holdfast.protocol.errors import IntegrityFailure
folder = Path(sys.argv[1])
{before}
try:
    print(len(look_at_store(folder).shards))
except IntegrityFailure as error:
    print(error.what)
"""


def look(folder: Path, before: str = "") -> str:
    """What another process finds: how many shards, or what is wrong."""
    program = LOOK.format(before=before)
    return subprocess.check_output([sys.executable, "-c", program, str(folder)], text=True).strip()


@contextmanager
def looked_at(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the store open to look at it, until it is told to look."""
    looker = subprocess.Popen(
        [sys.executable, "-c", LOOKER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert looker.stdout is not None and looker.stdout.readline() == "open\n"
        yield looker
    finally:
        looker.kill()
        looker.wait()


def compact(store: LmdbStore) -> None:
    copy = store.compact()
    while not copy.step(1 << 20):
        pass
    copy.finish()


def put_one(store: LmdbStore, number: int) -> None:
    assert store.put([[made_put(number, sealed_bytes=SIZE)]]) == [None]


def filled(folder: Path, count: int) -> LmdbStore:
    store = open_store(folder)
    for number in range(count):
        put_one(store, number)
    return store


def require_first(store: LmdbStore, count: int) -> None:
    puts = [made_put(number, sealed_bytes=SIZE) for number in range(count)]
    for put, outcome in zip(puts, store.read([key_of(put) for put in puts]), strict=True):
        assert outcome == Found(put.record.pack(), put.shard)
    assert store.stats().shards == store.stats().counter == count


@pytest.mark.parametrize("count", [6, 7])  # the number of the last transaction is even, and odd
def test_a_store_that_is_compacted_while_it_is_looked_at_goes_on_where_it_was(
    tmp_path: Path, count: int
) -> None:
    folder = tmp_path / "store"
    store = filled(folder, count)
    with looked_at(folder):
        compact(store)
        require_first(store, count)
        put_one(store, count)
        require_first(store, count + 1)
        assert look(folder) == str(count + 1)
    store.close()
    store = open_store(folder)
    require_first(store, count + 1)
    store.close()


def test_who_looks_while_a_store_is_compacted_sees_it_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = filled(folder, 5)
    with looked_at(folder) as looker:
        compact(store)
        for number in range(5, 12):
            put_one(store, number)
        answer, _ = looker.communicate("\n")
    assert int(answer) == 5
    require_first(store, 12)
    store.close()


@pytest.mark.parametrize("count", [6, 7])
def test_a_process_that_died_between_the_file_and_its_lock_file_does_not_matter(
    tmp_path: Path, count: int
) -> None:
    """The data file is the copy, the lock file still the old one's, and somebody holds that open."""
    folder, other = tmp_path / "store", tmp_path / "other"
    store, copy = open_store(folder), open_store(other)
    for number in range(count):
        put_one(store, number)
        put_one(copy, number)
    compact(copy)
    copy.close()
    store.close()
    with looked_at(folder):
        (folder / COPY_FOLDER).mkdir()
        (other / "data.mdb").rename(folder / "data.mdb")
        store = open_store(folder)
        require_first(store, count)
        put_one(store, count)
        require_first(store, count + 1)
        store.close()


MEETS_OLD_LOCK = """
import lmdb
lock, new, real = folder / "lock.mdb", folder / "new", lmdb.open
def between_the_two(*values, **how):
    lmdb.open = real
    lock.rename(new)
    (folder.parent / "old").rename(lock)
    env = real(*values, **how)
    new.rename(lock)
    return env
lmdb.open = between_the_two
"""


@pytest.mark.parametrize("count", [6, 7])
def test_a_look_that_meets_the_old_lock_file_and_the_new_data_file_looks_again(
    tmp_path: Path, count: int
) -> None:
    folder = tmp_path / "store"
    store = filled(folder, count)
    (tmp_path / "old").hardlink_to(folder / "lock.mdb")
    with looked_at(folder):
        compact(store)
        put_one(store, count)
        assert look(folder, MEETS_OLD_LOCK) == str(count + 1)
    assert not (tmp_path / "old").exists(), "it was met"
    store.close()


def test_a_lock_file_that_stays_another_files_is_told(tmp_path: Path) -> None:
    folder, other = tmp_path / "store", tmp_path / "other"
    store, much = open_store(folder), open_store(other)
    put_one(store, 1)
    for number in range(5):
        put_one(much, number)
    store.close()
    with looked_at(other):
        (folder / "lock.mdb").unlink()
        (folder / "lock.mdb").hardlink_to(other / "lock.mdb")
        told = look(folder)
    assert told == f"the store in {folder} cannot be looked at"
    much.close()
    assert look(folder) == "1"


@pytest.mark.parametrize("count", [6, 7])
def test_a_lock_file_that_a_looker_makes_again_with_the_old_number_goes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """It opened the old data file, was overtaken, and then made the lock file that was gone."""
    folder, old = tmp_path / "store", tmp_path / "old"
    store = filled(folder, count)
    old.hardlink_to(folder / "lock.mdb")
    real, times = store_lmdb_opening._open, list[Path]()

    def overtaken(path: Path, map_bytes: int, **how: bool) -> Any:
        times.append(path)
        if len(times) in (2, 3):
            (folder / "lock.mdb").unlink(missing_ok=True)
            (folder / "lock.mdb").hardlink_to(old)
        return real(path, map_bytes, **how)

    with looked_at(folder):
        monkeypatch.setattr(store_lmdb_opening, "_open", overtaken)
        compact(store)
        assert len(times) == 4, "the copy, the store, and the store twice again"
        require_first(store, count)
        put_one(store, count)
        require_first(store, count + 1)
    store.close()


def test_who_brings_the_old_lock_file_back_for_ever_stops_the_store_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, old = tmp_path / "store", tmp_path / "old"
    store = filled(folder, 6)
    old.hardlink_to(folder / "lock.mdb")
    real = store_lmdb_opening._open

    def again(path: Path, map_bytes: int, **how: bool) -> Any:
        if path == folder:
            (folder / "lock.mdb").unlink(missing_ok=True)
            (folder / "lock.mdb").hardlink_to(old)
        return real(path, map_bytes, **how)

    with looked_at(folder):
        monkeypatch.setattr(store_lmdb_opening, "_open", again)
        with pytest.raises(StoreFailed, match="lock file of its own"):
            compact(store)
        monkeypatch.undo()
        store = open_store(folder)
        require_first(store, 6)
        store.close()


def test_who_reads_while_a_node_that_died_copying_starts_again_keeps_what_it_reads(tmp_path: Path) -> None:
    """Nothing had been replaced yet: the lock file, by which its reader is known, stays."""
    folder = tmp_path / "store"
    store = filled(folder, 5)
    store.close()
    with looked_at(folder) as looker:
        lock = (folder / "lock.mdb").stat().st_ino
        (folder / COPY_FOLDER).mkdir()
        (folder / COPY_FOLDER / "data.mdb").write_bytes(b"half")
        store = open_store(folder)
        assert not (folder / COPY_FOLDER).exists() and (folder / "lock.mdb").stat().st_ino == lock
        require_first(store, 5)
        answer, _ = looker.communicate("\n")
    assert int(answer) == 5
    store.close()


LOSES_ITS_LOCK = """
import holdfast.node.store_lmdb_looking as looking
real = looking._look
def look(env, verify):
    found = real(env, verify)
    looking._look = real
    (folder / "lock.mdb").unlink()
    (folder.parent / "done").touch()
    found.shards = frozenset()
    return found
looking._look = look
"""
GOES_ON = """
import lmdb
import holdfast.node.store_lmdb_looking as looking
real = looking._look
def look(env, verify):
    looking._look = real
    (folder.parent / "done").touch()
    class GoneOn:
        def info(self):
            return {"last_txnid": env.info()["last_txnid"] - 1}
        def __getattr__(self, name):
            return getattr(env, name)
    return real(GoneOn(), verify)
looking._look = look
"""
"""It opened both old files, numbered as the new ones are; then the node went on with the lock file."""
IS_GONE = """
import holdfast.node.store_lmdb_looking as looking
real = looking._look
def look(env, verify):
    found = real(env, verify)
    looking._look = real
    (folder / "data.mdb").unlink()
    (folder.parent / "done").touch()
    return found
looking._look = look
"""


@pytest.mark.parametrize("meanwhile", [LOSES_ITS_LOCK, GOES_ON], ids=["another lock file", "another number"])
def test_a_look_whose_two_files_do_not_stay_together_is_made_again(tmp_path: Path, meanwhile: str) -> None:
    folder = tmp_path / "store"
    filled(folder, 5).close()
    assert look(folder, meanwhile) == "5"
    assert (tmp_path / "done").exists()


def test_a_store_that_is_taken_away_while_it_is_looked_at_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    filled(folder, 5).close()
    assert look(folder, IS_GONE) == f"the store in {folder} does not open"
    assert (tmp_path / "done").exists()


class OfLmdb:
    """What LMDB says of its two files."""

    def __init__(self, in_data: int, in_lock: int) -> None:
        self.in_data, self.in_lock = in_data, in_lock

    def info(self) -> dict[str, int]:
        return {"last_txnid": self.in_data}

    @contextmanager
    def begin(self) -> Iterator[OfLmdb]:
        yield self

    def id(self) -> int:
        return self.in_lock


def test_a_commit_on_its_way_to_the_disk_is_no_other_file(tmp_path: Path) -> None:
    """However long it takes, and also when the process is stopped in it; but not right after the rename."""
    for name in ("data.mdb", "lock.mdb"):
        (tmp_path / name).touch()
    files = store_lmdb_looking._files(tmp_path)

    def fits(in_lock: int, *, is_replaced: bool = False, before: Any = files) -> bool:
        try:
            found = store_lmdb_looking._fitting(OfLmdb(10, in_lock), tmp_path, before, is_replaced)
        except store_lmdb_looking._Torn:
            return False
        return found == files

    assert [number for number in range(8, 13) if fits(number)] == [9, 10]
    assert [number for number in range(8, 13) if fits(number, is_replaced=True)] == [10]
    assert not fits(10, before=(files[0], -1)), "the data file is another"
    assert not fits(10, before=(-1, files[1])), "the lock file is another"
    assert fits(10, before=(None, files[1])), "it has just been made"


def test_what_a_store_that_is_being_copied_says_while_a_commit_is_stopped_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = open_store(folder)
    put_one(store, 0)
    copy = store.compact()
    copy.step(10)
    assert look(folder, ONE_BEHIND) == "1"
    copy.abandon()
    store.close()
    (folder / COPY_FOLDER).mkdir()
    assert look(folder, ONE_BEHIND) == f"the store in {folder} cannot be looked at", "a rename was the last"


ONE_BEHIND = """
import holdfast.node.store_lmdb_looking as looking
real = looking._fitting
class Behind:
    def __init__(self, env):
        self.env = env
    def info(self):
        return {"last_txnid": self.env.info()["last_txnid"] + 1}
    def begin(self):
        return self.env.begin()
looking._fitting = lambda env, *more: real(Behind(env), *more)
"""
