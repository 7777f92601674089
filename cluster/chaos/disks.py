"""What happens to disks: bits that flip, files that end early, values that change places, old copies.

Works on a node's store from outside, as a bad disk would. Nothing here knows LMDB's library; it
knows what a shard record begins with, and how LMDB marks its pages (lmdb 0.9, mdb.c: MDB_page).
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from random import Random

from holdfast.node.store import ShardKey
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripes import ShardRecord, digest_of, record_header_bytes

__all__ = [
    "copy_catalogue",
    "copy_store",
    "cut_off",
    "flip_pages",
    "flip_values",
    "put_back",
    "swap_values",
    "wipe",
]

_RECORD_BEGINS = b"HFsr\x01"
_K_AT = 94
"""Where a record says k, and then m (docs/FORMAT.md, "Shard record")."""
_PAGE = 4096
_PAGE_HEAD = struct.Struct("<QHH")
_BRANCH, _LEAF = 0x01, 0x02


def _records(raw: bytes, live: Collection[bytes]) -> Iterator[tuple[bytes, int, int, int]]:
    """(key, where a record begins, where its shard begins, where it ends) of whole records that are in use.

    A small record lies in a page of the tree, which LMDB writes anew with each change beside it: what was
    there before stays in the file, so one key may come several times, and only one place is read. Of what
    was there before, the beginning may be left, and behind it live pages and keys: that is no record.
    """
    at = raw.find(_RECORD_BEGINS)
    while at >= 0:
        try:
            profile = Profile(raw[at + _K_AT], raw[at + _K_AT + 1])
            record = ShardRecord.unpack_header(raw[at : at + record_header_bytes(profile)])
        except (HoldfastError, IndexError):
            record = None
        if record is not None and (key := ShardKey.of(record).pack()) in live:
            begin = at + len(record.pack())
            end = begin + record.stripe.shard_bytes
            if digest_of(raw[begin:end]) == record.digest:
                yield key, at, begin, end
        at = raw.find(_RECORD_BEGINS, at + 1)


def flip_values(store: Path, live: Collection[bytes], count: int, random: Random) -> int:
    """Flip one bit in each of so many shards; gives how many were flipped.

    Args:
        live: packed keys that the store has; what LMDB keeps of older transactions is left alone.
    """
    file = store / "data.mdb"
    places: dict[bytes, list[int]] = {}
    lengths: dict[bytes, int] = {}
    for key, _, begin, end in _records(file.read_bytes(), live):
        places.setdefault(key, []).append(begin)
        lengths[key] = end - begin
    chosen = random.sample(list(places), min(count, len(places)))
    for key in chosen:
        at, bit = random.randrange(lengths[key]), random.randrange(8)
        for begin in places[key]:
            _flip(file, begin + at, bit)
    return len(chosen)


def flip_pages(store: Path, count: int, random: Random) -> int:
    """Flip one bit in each of so many pages of B-trees; gives how many. The node must not run."""
    file = store / "data.mdb"
    raw = file.read_bytes()
    pages = []
    for at in range(2 * _PAGE, len(raw) - _PAGE + 1, _PAGE):
        number, _, flags = _PAGE_HEAD.unpack_from(raw, at)
        if number * _PAGE == at and flags & 0x0F in (_BRANCH, _LEAF):
            pages.append(at)
    chosen = random.sample(pages, min(count, len(pages)))
    for at in chosen:
        _flip(file, at + random.randrange(_PAGE), random.randrange(8))
    return len(chosen)


def _flip(file: Path, at: int, bit: int) -> None:
    handle = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        byte = os.pread(handle, 1, at)[0]
        os.pwrite(handle, bytes([byte ^ (1 << bit)]), at)
    finally:
        os.close(handle)


def swap_values(store: Path, live: Collection[bytes], count: int, random: Random) -> int:
    """Let so many pairs of equally long shards change places; gives how many."""
    file = store / "data.mdb"
    raw = file.read_bytes()
    by_length: dict[int, list[tuple[int, int]]] = {}
    for _, at, _, end in _records(raw, live):
        by_length.setdefault(end - at, []).append((at, end))
    pairs = []
    for places in by_length.values():
        random.shuffle(places)
        pairs += list(zip(places[::2], places[1::2], strict=False))
    chosen = random.sample(pairs, min(count, len(pairs)))
    with file.open("r+b") as opened:
        for (one, one_end), (other, other_end) in chosen:
            for at, content in ((one, raw[other:other_end]), (other, raw[one:one_end])):
                opened.seek(at)
                opened.write(content)
    return len(chosen)


def cut_off(store: Path, keep_percent: float) -> int:
    """The file loses its end; gives how many bytes went. The node must not run."""
    file = store / "data.mdb"
    size = file.stat().st_size
    kept = int(size * keep_percent / 100) // _PAGE * _PAGE
    os.truncate(file, kept)
    return size - kept


def copy_store(store: Path, to: Path) -> None:
    """A copy as the disk has it now. The node must not write meanwhile."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    shutil.copy2(store / "data.mdb", to / "data.mdb")


def put_back(copy: Path, store: Path) -> None:
    """The store becomes what the copy was. The node must not run."""
    shutil.rmtree(store)
    store.mkdir(mode=0o700)
    shutil.copy2(copy / "data.mdb", store / "data.mdb")


def copy_catalogue(folder: Path, to: Path) -> None:
    """A coordinator's catalogue as one folder has it, in place of another's. Nobody may write to either."""
    to.mkdir(parents=True, exist_ok=True)
    for old in to.glob("catalogue.sqlite*"):
        old.unlink()
    for file in folder.glob("catalogue.sqlite*"):
        if not file.name.endswith("-shm"):  # an index of the log, made again from it
            shutil.copy2(file, to / file.name)


def wipe(store: Path) -> None:
    """The disk is empty. The node must not run."""
    shutil.rmtree(store)
