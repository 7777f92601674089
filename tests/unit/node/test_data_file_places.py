"""Where values lie in LMDB's file, found as LMDB finds them; whatever the file has become."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.node import data_file_places
from holdfast.node.data_file_places import places_of, read_ahead, read_beginnings
from holdfast.node.limits import READ_AHEAD_PIECE_BYTES

BIG, SMALL = 9_000, 40


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three levels with much that was deleted and replaced, and a second database in it."""
    folder = tmp_path_factory.mktemp("places")
    chance = random.Random(1)
    with lmdb.open(str(folder), map_size=1 << 28, max_dbs=4) as env:
        shards, other = env.open_db(b"shards"), env.open_db(b"shard")
        keys = [chance.randbytes(90) for _ in range(1500)]
        for start in range(0, len(keys), 100):
            with env.begin(write=True) as txn:
                for key in keys[start : start + 100]:
                    txn.put(key, chance.randbytes(SMALL if key[0] < 16 else BIG + key[0]), db=shards)
                    txn.put(key[::-1], b"other", db=other)
        with env.begin(write=True) as txn:
            for key in keys[::3]:
                txn.delete(key, db=shards)
            for key in keys[1::3]:
                txn.put(key, chance.randbytes(BIG), db=shards)
    return folder / "data.mdb"


def contents(file: Path) -> dict[bytes, bytes]:
    with lmdb.open(str(file.parent), max_dbs=4, readonly=True, lock=False) as env:
        shards = env.open_db(b"shards", create=False)
        with env.begin() as txn, txn.cursor(db=shards) as cursor:
            return {bytes(key): bytes(value) for key, value in cursor}


def test_every_long_value_is_found_where_lmdb_has_it(file: Path) -> None:
    stored = contents(file)
    long = {key: value for key, value in stored.items() if len(value) > SMALL}
    assert 900 < len(long) < len(stored), "some are short, and lie in the tree itself"
    fd = os.open(file, os.O_RDONLY)
    try:
        for key, value in long.items():
            (place,) = places_of(fd, b"shards", [key])
            assert place.key == key and os.pread(fd, place.length, place.offset) == value
        together = list(places_of(fd, b"shards", stored))
        assert len(together) == len(long)
        assert list(places_of(fd, b"shards", [b"absent", b"", b"\xff" * 90])) == []
        assert list(places_of(fd, b"none", long)) == []
    finally:
        os.close(fd)


def test_what_is_asked_for_is_what_was_wanted_in_pieces_and_bounded(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, at, length, how: asked.append((at, length)))
    long = [key for key, value in contents(file).items() if len(value) > SMALL]
    fd = os.open(file, os.O_RDONLY)
    wanted = sum(place.length for place in places_of(fd, b"shards", long))
    os.close(fd)
    read_ahead(file, b"shards", long)
    heads = 4096 * len(long)
    assert wanted <= sum(length for _, length in asked) <= wanted + heads, (
        "no more than the pages' rests between"
    )
    assert max(length for _, length in asked) <= READ_AHEAD_PIECE_BYTES
    asked.clear()
    monkeypatch.setattr(data_file_places, "READ_AHEAD_BYTES_MAX", 300_000)
    read_ahead(file, b"shards", long)
    assert sum(length for _, length in asked) == 300_000


def test_an_empty_database_has_no_places(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path), max_dbs=4) as env:
        env.open_db(b"shards")
        read_ahead(tmp_path / "data.mdb", b"shards", [b"one"])
    read_ahead(tmp_path / "none", b"shards", [b"one"])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_whatever_the_file_has_become_it_ends_and_raises_nothing(file: Path, data: st.DataObject) -> None:
    """Flipped bits, other pages, a file cut off."""
    raw = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 40))):
        page = data.draw(st.integers(0, len(raw) // 4096 - 1))
        at = page * 4096 + data.draw(st.integers(0, 64))
        struct.pack_into("<H", raw, at, data.draw(st.integers(0, 0xFFFF)))
    broken = file.with_name(f"broken-{os.getpid()}")
    broken.write_bytes(raw[: data.draw(st.sampled_from([0, 100, 4096, 8192, len(raw) // 2, len(raw)]))])
    keys = list(contents(file))[::20]
    read_ahead(broken, b"shards", keys)
    begun = read_beginnings(broken, b"shards", keys, 500, 0)
    assert all(len(beginning) <= 500 for beginning, _ in begun.values())
    broken.unlink()


def test_beginnings_are_told_with_the_length_of_the_whole(file: Path) -> None:
    stored = contents(file)
    long = {key: value for key, value in stored.items() if len(value) > SMALL}
    with lmdb.open(str(file.parent), max_dbs=4, readonly=True, lock=False) as env:
        last = env.info()["last_txnid"]
    begun = read_beginnings(file, b"shards", [*stored, b"absent"], 500, last)
    assert begun == {key: (value[:500], len(value)) for key, value in long.items()}
    assert read_beginnings(file.parent / "none", b"shards", stored, 500, 0) == {}


def test_a_view_is_that_of_its_transaction_as_long_as_it_is_known(tmp_path: Path) -> None:
    """A commit shows in the file before it is durable: who reads beside it must not see it yet."""
    file = tmp_path / "data.mdb"

    def seen(transaction: int) -> set[bytes]:
        return set(read_beginnings(file, b"shards", [b"first", b"second", b"third"], 10, transaction))

    with lmdb.open(str(tmp_path), map_size=1 << 26, max_dbs=4) as env:
        shards = env.open_db(b"shards")

        def commit(added: bytes, gone: bytes = b"") -> None:
            with env.begin(write=True) as txn:
                txn.put(added, os.urandom(50_000), db=shards)
                if gone:
                    txn.delete(gone, db=shards)

        commit(b"first")
        with env.begin() as before:
            commit(b"second", gone=b"first")
            assert seen(before.id()) == {b"first"} and seen(before.id() + 1) == {b"second"}
            commit(b"third")
            # Two commits on, the file does not know it any more; what is found is what came next.
            assert seen(before.id()) == {b"second"}
        with env.begin() as now:
            assert seen(now.id()) == {b"second", b"third"}
