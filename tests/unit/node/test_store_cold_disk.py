"""A store on a cold disk asks it ahead for what it will touch, and touches nothing that it need not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.shards import key_of, made_put

from holdfast.node import store_lmdb, store_lmdb_compacting, store_lmdb_reading
from holdfast.node.data_file_places import DiskWaits, read_ahead
from holdfast.node.limits import COMPACT_AHEAD_ENTRIES, ERASE_AHEAD_ENTRIES, READ_AHEAD_READS
from holdfast.node.store import Absent, Damaged, Found, ShardKey
from holdfast.node.store_lmdb import LmdbStore
from holdfast.node.store_lmdb_walking import Walk
from holdfast.protocol.clock import FixedSource

CAPACITY = 50_000_000


def opened(folder: Path, *suspects: ShardKey) -> LmdbStore:
    return LmdbStore(folder / "store", source=FixedSource(), capacity_bytes=CAPACITY, suspects=suspects)


def asked_by(module: Any, monkeypatch: pytest.MonkeyPatch) -> list[set[bytes]]:
    """The keys that a module asks the disk for, request by request."""
    asked: list[set[bytes]] = []

    def noted(file: Path, name: bytes, keys: set[bytes]) -> None:
        assert file.name == "data.mdb" and name == b"shards"
        asked.append(set(keys))
        read_ahead(file, name, keys)

    monkeypatch.setattr(module, "read_ahead", noted)
    return asked


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[tuple[LmdbStore, list[ShardKey], ShardKey]]:
    """A store, its keys in order, and one of them that kills whoever touches it."""
    puts = [made_put(number, sealed_bytes=40_000) for number in range(2 * ERASE_AHEAD_ENTRIES + 5)]
    keys = sorted(map(key_of, puts), key=ShardKey.pack)
    store = opened(tmp_path)
    store.put([puts])
    store.close()
    store = opened(tmp_path, keys[3])
    yield store, keys, keys[3]
    store.close()


def test_a_header_that_does_not_hold_is_not_told(tmp_path: Path) -> None:
    puts = [made_put(number, sealed_bytes=200_000) for number in range(3)]
    store = opened(tmp_path)
    store.put([puts])
    packed = [key_of(put).pack() for put in puts]
    headers = [put.record.pack() for put in puts]
    assert store.headers([*packed, key_of(made_put(99)).pack()]) == [*headers, None]
    file = tmp_path / "store" / "data.mdb"
    raw = file.read_bytes()
    with file.open("r+b") as data:
        data.seek(raw.index(headers[0]) + 20)
        data.write(b"\xff\x00\xff")
        data.seek(raw.index(headers[2]))
        data.write(headers[1])  # another shard's record, of the same length
    assert store.headers(packed) == [None, headers[1], None]
    store.close()


def test_headers_that_hold_are_told_without_asking_lmdb(
    stored: tuple[LmdbStore, list[ShardKey], ShardKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, keys, deadly = stored
    asked: list[bytes] = []
    monkeypatch.setattr(Walk, "header", lambda walk, key, reading: asked.append(key))
    told = store.headers([key.pack() for key in keys])
    assert asked == [deadly.pack()]
    assert sum(header is not None for header in told) == len(keys) - 1


def test_a_store_on_a_cold_disk_prepares_its_reads_and_touches_nothing_that_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts = [made_put(number, sealed_bytes=40_000) for number in range(12)]
    deadly, absent = key_of(puts[3]), key_of(made_put(99))
    store = opened(tmp_path)
    store.put([puts])
    store.close()
    store = opened(tmp_path, deadly)
    prepared = asked_by(store_lmdb_reading, monkeypatch)
    monkeypatch.setattr(DiskWaits, "count", lambda _: 0)
    wanted = [*map(key_of, puts), absent]
    first = store.read(wanted)
    assert prepared == [], "nothing waited for the disk"
    monkeypatch.setattr(DiskWaits, "count", lambda _: 100)
    assert store.read(wanted) == first and prepared == []
    monkeypatch.setattr(DiskWaits, "count", lambda _: 0)
    for _ in range(READ_AHEAD_READS + 5):
        assert store.read(wanted) == first
    assert len(prepared) == READ_AHEAD_READS
    assert all(keys == {key.pack() for key in wanted} - {deadly.pack()} for keys in prepared)
    assert isinstance(first[3], Damaged) and isinstance(first[-1], Absent)
    assert sum(isinstance(found, Found) for found in first) == len(puts) - 1
    store.close()


def test_erasing_asks_the_disk_ahead_a_portion_at_a_time(
    stored: tuple[LmdbStore, list[ShardKey], ShardKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, keys, deadly = stored
    whole = [key for key in keys if key != deadly]
    assert store.mark(1, whole, 5) == (len(whole), 0)
    asked = asked_by(store_lmdb, monkeypatch)
    assert store.erase_due(5, 1000) == len(whole)
    assert [len(portion) for portion in asked] == [ERASE_AHEAD_ENTRIES, ERASE_AHEAD_ENTRIES, 4]
    assert set().union(*asked) == {key.pack() for key in whole}


def test_compacting_asks_the_disk_ahead_and_not_for_what_kills(
    stored: tuple[LmdbStore, list[ShardKey], ShardKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, keys, deadly = stored
    asked = asked_by(store_lmdb_compacting, monkeypatch)
    copy = store.compact()
    while not copy.step(1_000_000):
        pass
    copy.finish()
    assert set().union(*asked) == {key.pack() for key in keys} - {deadly.pack()}
    assert all(len(portion) <= COMPACT_AHEAD_ENTRIES for portion in asked)
    assert sum(isinstance(found, Found) for found in store.read(keys)) == len(keys) - 1


_LOOKING = """
import sys
from pathlib import Path
from holdfast.node.data_file_places import places_of
from holdfast.node.store_lmdb import LmdbStore
from holdfast.protocol.clock import FixedSource
from support.shards import key_of, made_put
store = LmdbStore(Path(sys.argv[1]), source=FixedSource(), capacity_bytes=50_000_000)
for term in range(1, 9):
    store.raise_term(term)
store.put([[made_put(1, sealed_bytes=200_000)]])
for term in range(9, 17):
    store.raise_term(term)  # the tree moves to pages that are free again, before the shard
key, absent = key_of(made_put(1, sealed_bytes=200_000)), key_of(made_put(2))
with (Path(sys.argv[1]) / "data.mdb").open("r+b") as file:
    (place,) = places_of(file.fileno(), b"shards", [key.pack()])
    file.truncate(place.offset // 4096 * 4096 + 4096)
print("cut", flush=True)
if sys.argv[2] == "keep":
    assert store.keep([key, absent]) == [True, False]
elif sys.argv[2] == "mark":
    assert store.mark(1, [key, absent], 5) == (1, 1)
else:
    store.read([key])
print("alive")
"""


@pytest.mark.parametrize(("how", "lives"), [("keep", True), ("mark", True), ("read", False)])
def test_whether_a_shard_is_there_is_asked_without_touching_it(tmp_path: Path, how: str, lives: bool) -> None:
    """Its last pages are cut off under the map: whoever touches them is killed."""
    done = subprocess.run(
        [sys.executable, "-c", _LOOKING, str(tmp_path / "store"), how],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.stdout.splitlines() == (["cut", "alive"] if lives else ["cut"]), done.stderr
    assert done.returncode == (0 if lives else -signal.SIGBUS)
