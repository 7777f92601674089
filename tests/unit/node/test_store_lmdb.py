"""LMDB has no checksums, maps its file, and grows: what the store does about it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest
from support.shards import key_of, made_put

from holdfast.node.store import Damaged, Found, StoreDamaged
from holdfast.node.store_lmdb import LmdbStore, refuse_truncated
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.errors import IntegrityFailure, Locked, NoRoom, StoreFailed, WrongDirectory


def open_store(folder: Path, capacity: int = 2_000_000) -> LmdbStore:
    return LmdbStore(folder, source=FixedSource(), capacity_bytes=capacity)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A closed store with sixty shards."""
    folder = tmp_path / "store"
    store = open_store(folder)
    store.put([[made_put(number, sealed_bytes=20_000) for number in range(60)]])
    store.close()
    return folder


def test_flipped_bits_on_disk_are_never_handed_out(filled: Path) -> None:
    data = filled / "data.mdb"
    raw = bytearray(data.read_bytes())
    chance = random.Random(1)
    puts = [made_put(number, sealed_bytes=20_000) for number in range(60)]
    hit = 0
    for put in puts:
        at = raw.find(bytes(put.shard))
        assert at > 0, "shards lie whole in the file"
        if chance.random() < 0.5:
            raw[at + chance.randrange(len(put.shard))] ^= 1 << chance.randrange(8)
            hit += 1
    data.write_bytes(raw)
    store = open_store(filled)
    outcomes = store.read([key_of(put) for put in puts])
    assert sum(isinstance(outcome, Damaged) for outcome in outcomes) == hit == store.stats().damaged
    for put, outcome in zip(puts, outcomes, strict=True):
        assert isinstance(outcome, Damaged) or outcome == Found(put.record.pack(), put.shard)
    store.close()


def test_a_flipped_bit_in_a_record_s_header_is_damage_too(filled: Path) -> None:
    data = filled / "data.mdb"
    raw = bytearray(data.read_bytes())
    put = made_put(7, sealed_bytes=20_000)
    at = raw.find(put.record.pack())
    for offset in (0, 4, 10, 50, len(put.record.pack()) - 1):
        broken = bytearray(raw)
        broken[at + offset] ^= 0x10
        data.write_bytes(broken)
        store = open_store(filled)
        assert isinstance(store.read([key_of(put)])[0], Damaged), offset
        store.close()


def test_a_damaged_shard_that_is_put_again_is_written_anew_before_it_is_acknowledged(filled: Path) -> None:
    data = filled / "data.mdb"
    raw = bytearray(data.read_bytes())
    put = made_put(3, sealed_bytes=20_000)
    raw[raw.find(bytes(put.shard)) + 99] ^= 1
    data.write_bytes(raw)
    store = open_store(filled)
    assert store.put([[put]]) == [None]
    store.close()
    store = open_store(filled)
    assert store.read([key_of(put)]) == [Found(put.record.pack(), put.shard)]
    assert store.stats().quarantined == 1
    store.close()


def test_a_file_short_by_a_few_pages_gives_typed_errors_and_never_wrong_bytes(filled: Path) -> None:
    """So few may be pages that LMDB counted and never wrote; or the tree's own, which then shows."""
    data = filled / "data.mdb"
    whole = data.read_bytes()
    for pages in range(1, 17):
        data.write_bytes(whole[: -4096 * pages])
        try:
            store = open_store(filled)
        except IntegrityFailure as error:
            assert error.do
            continue
        for number in range(60):
            put = made_put(number, sealed_bytes=20_000)
            (outcome,) = store.read([key_of(put)])
            assert isinstance(outcome, Damaged) or outcome == Found(put.record.pack(), put.shard)
        store.close()


@pytest.mark.parametrize("kept", [0.2, 0.5])
def test_a_truncated_file_is_refused_before_it_can_kill_the_process(filled: Path, kept: float) -> None:
    data = filled / "data.mdb"
    os.truncate(data, int(data.stat().st_size * kept))
    with pytest.raises(IntegrityFailure, match="cut off") as caught:
        open_store(filled)
    assert caught.value.do
    assert caught.value.details["missing_bytes"] > 0


def test_another_file_in_its_place_is_refused(tmp_path: Path) -> None:
    for content in (b"x" * 100_000, b"\0" * 8192, b"short"):
        folder = tmp_path / str(len(content))
        folder.mkdir()
        (folder / "data.mdb").write_bytes(content)
        with pytest.raises(WrongDirectory):
            open_store(folder)


def test_another_format_version_is_refused_with_a_next_step(filled: Path) -> None:
    with lmdb.open(str(filled), max_dbs=4) as env, env.begin(write=True) as txn:
        txn.put(b"format", b"holdfast shard store 2", db=env.open_db(b"meta", txn))
    with pytest.raises(WrongDirectory, match="another format version") as caught:
        open_store(filled)
    assert caught.value.do


def test_a_foreign_lmdb_file_is_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "store"), max_dbs=4) as env, env.begin(write=True) as txn:
        txn.put(b"id", b"somebody else's", db=env.open_db(b"meta", txn))
    with pytest.raises(WrongDirectory):
        open_store(tmp_path / "store")


def test_the_same_process_cannot_open_it_twice(filled: Path) -> None:
    store = open_store(filled)
    with pytest.raises((Locked, WrongDirectory)):
        open_store(filled)
    assert isinstance(store.read([key_of(made_put(1, sealed_bytes=20_000))])[0], Found)
    store.close()


def test_every_acknowledged_put_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    """A child puts and reports each acknowledgement; it is killed in the middle of its work."""
    code = """
import sys
from pathlib import Path
from support.shards import made_put
from holdfast.node.store_lmdb import LmdbStore
from holdfast.protocol.clock import FixedSource
store = LmdbStore(Path(sys.argv[1]), source=FixedSource(), capacity_bytes=50_000_000)
for number in range(int(sys.argv[2]), 10**6):
    assert store.put([[made_put(number, sealed_bytes=30_000)]]) == [None]
    print(number, flush=True)
"""
    acknowledged: list[int] = []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "store"), str(len(acknowledged))],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert child.stdout is not None
        before = len(acknowledged)
        for line in child.stdout:
            acknowledged.append(int(line))
            if len(acknowledged) == before + 25:
                child.kill()
                break
        acknowledged += [int(line) for line in child.stdout.read().split()]
        child.stdout.close()
        child.wait()
        store = open_store(tmp_path / "store", 50_000_000)
        puts = [made_put(number, sealed_bytes=30_000) for number in acknowledged]
        assert all(isinstance(outcome, Found) for outcome in store.read([key_of(put) for put in puts]))
        assert store.stats().counter >= len(acknowledged)
        store.close()
    assert len(acknowledged) >= 100


def test_a_full_disk_stops_writing_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "store")
    put, other = made_put(1), made_put(2)
    store.put([[put]])
    real = os.statvfs

    class NoSpace:
        f_bavail, f_frsize = 10, 4096

    monkeypatch.setattr(os, "statvfs", lambda _: NoSpace)
    (outcome,) = store.put([[other]])
    assert isinstance(outcome, NoRoom) and outcome.do
    assert isinstance(store.read([key_of(put)])[0], Found)
    assert store.mark(1, [key_of(put)], 0) == (1, 0)
    assert store.erase_due(0, 10) == 1
    monkeypatch.setattr(os, "statvfs", real)
    assert store.put([[other]]) == [None]
    store.close()


def test_a_map_that_runs_full_is_no_room_and_later_deletes_work(tmp_path: Path) -> None:
    """The map can be exhausted before the capacity when free pages lie scattered."""
    store = LmdbStore(tmp_path / "store", source=FixedSource(), capacity_bytes=4_000_000)
    store._env.set_mapsize(1_000_000)  # as if the file had grown into its map already
    put = made_put(0, sealed_bytes=60_000)
    assert store.put([[put]]) == [None]
    refused = None
    for number in range(1, 100):
        (refused,) = store.put([[made_put(number, sealed_bytes=60_000)]])
        if refused is not None:
            break
    assert isinstance(refused, NoRoom)
    assert isinstance(store.read([key_of(put)])[0], Found)
    store.close()


def test_reading_after_close_is_a_typed_error_not_a_crash(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    store.close()
    with pytest.raises(StoreFailed):
        store.read([key_of(made_put(1))])
    with pytest.raises(StoreFailed):
        store.stats()


def test_a_file_that_is_not_there_or_empty_is_a_new_store(tmp_path: Path) -> None:
    refuse_truncated(tmp_path / "data.mdb")
    (tmp_path / "data.mdb").touch()
    refuse_truncated(tmp_path / "data.mdb")


def test_a_shard_stored_anew_in_the_place_of_one_that_killed_its_reader_is_not_erased_by_the_old_mark(
    tmp_path: Path,
) -> None:
    """It was marked by order, then reading it killed the process, then the slot came back to this node."""
    put = made_put(1)
    store = open_store(tmp_path)
    store.put([[put]])
    store.mark(1, [key_of(put)], 1000)
    store.close()
    store = LmdbStore(tmp_path, source=FixedSource(), capacity_bytes=2_000_000, suspects=[key_of(put)])
    assert store.put([[put]]) == [None]
    assert store.stats().marked == 0
    store.erase_due(2000, 10)
    assert isinstance(store.read([key_of(put)])[0], Found)
    store.close()


@pytest.mark.parametrize("how", ["too-few-bytes", "no-number"])
def test_counters_that_do_not_fit_what_is_there_are_damage(filled: Path, how: str) -> None:
    """Values in LMDB's tree have changed their places: each proves itself, and none is where it belongs."""
    store = open_store(filled)
    with store._writing() as (txn, totals):
        totals.used_bytes = 1
    if how == "no-number":
        with store._env.begin(write=True) as txn:
            txn.delete(b"totals", db=store._meta)
            txn.put(b"shards", b"a shard's bytes", db=store._meta)
    with pytest.raises(StoreDamaged), store._writing() as (txn, totals):
        store._remove(txn, totals, key_of(made_put(7, sealed_bytes=20_000)).pack())
    with pytest.raises(StoreDamaged):
        store.put([[made_put(100)]])
    store.close()
    with pytest.raises(IntegrityFailure):
        open_store(filled)
