"""Another process may look at a store at any time: nobody ever sees, or writes on, a state of before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.shards import key_of, made_put

from holdfast.node.store import Found
from holdfast.node.store_lmdb import LmdbStore
from holdfast.node.store_lmdb_opening import COPY_FOLDER
from holdfast.protocol.clock import FixedSource

SIZE = 6_000
LOOKER = """
import sys
from pathlib import Path
from holdfast.node import store_lmdb_looking as looking
with looking._opened(Path(sys.argv[1])) as env:
    print("open", flush=True)
    sys.stdin.readline()
    print(len(looking._look(env, False).shards), flush=True)
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
    store = open_store(folder)
    for number in range(count):
        put_one(store, number)
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
    store = open_store(folder)
    for number in range(5):
        put_one(store, number)
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
    store = open_store(folder)
    for number in range(count):
        put_one(store, number)
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
