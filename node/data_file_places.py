"""Where values lie in LMDB's data file, to ask the disk for all of them before any is waited for.

The store is mapped without read-ahead: what the kernel would guess brings more of a store larger than memory
than anybody wants. A value that is not in memory then comes page by page, each when it is touched, and
lmdb's Python library touches all of it before it says where it is. What a request will touch is known,
though. So the way to it is read from the file here, as LMDB would walk it, and the kernel is told
(posix_fadvise(2)).

What a value begins with, a record's header, can be read there, too, without touching the rest of it.

None of it is believed: the file may be written meanwhile, or be damaged. What is found is used for asking the
kernel, and for reading headers, which prove themselves. Reads are bounded, nothing is mapped, nothing raises.

Source: lmdb 0.9, mdb.c: MDB_page, MDB_node, MDB_db, MDB_meta (64 bits, little-endian).
"""

from __future__ import annotations

import os
import resource
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from holdfast.node.data_file import META_DB_BYTES, META_MAGIC
from holdfast.node.limits import READ_AHEAD_BYTES_MAX, READ_AHEAD_PIECE_BYTES

__all__ = ["DiskWaits", "Place", "places_of", "read_ahead", "read_beginnings"]

_META: Final = struct.Struct("<16xI4x16x")
_ROOT_AT: Final = 40
_HEAD: Final = struct.Struct("<QHHHH")
"""Page number, padding, flags, and the ends of the node list and of the free room behind it."""
_NODE: Final = struct.Struct("<HHHH")
"""Two halves of a size (or, with the flags, three parts of a page number), flags, key length."""
_NUMBER: Final = struct.Struct("<Q")
_BRANCH, _LEAF = 0x01, 0x02
_BIG, _SUB = 0x01, 0x02
"""The value lies on pages of its own; the value is another database's record."""
_DEPTH_MAX: Final = 32
_NO_SUCH_FILE: Final = (struct.error, IndexError, ValueError, OSError, OverflowError)


class DiskWaits:
    """How often this thread has waited for a page of a mapped file since this was made."""

    def __init__(self) -> None:
        self._before = resource.getrusage(resource.RUSAGE_THREAD).ru_majflt

    def count(self) -> int:
        """Major faults (getrusage(2))."""
        return resource.getrusage(resource.RUSAGE_THREAD).ru_majflt - self._before


class Place(NamedTuple):
    """Where the value of a key lies in the file, in bytes."""

    key: bytes
    offset: int
    length: int


def read_ahead(file: Path, name: bytes, keys: Iterable[bytes]) -> None:
    """Have the kernel begin to read the values under these keys; what is not found is left alone.

    Args:
        file: LMDB's data file. name: of the database in it.
    """
    with suppress(*_NO_SUCH_FILE):
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            left = READ_AHEAD_BYTES_MAX
            for offset, length in _runs(places_of(fd, name, keys)):
                # Piece by piece: of one longer piece of advice the kernel takes the beginning.
                end = offset + min(length, left)
                for at in range(offset, end, READ_AHEAD_PIECE_BYTES):
                    piece = min(READ_AHEAD_PIECE_BYTES, end - at)
                    os.posix_fadvise(fd, at, piece, os.POSIX_FADV_WILLNEED)
                left -= end - offset
        finally:
            os.close(fd)


def read_beginnings(
    file: Path, name: bytes, keys: Iterable[bytes], most_bytes: int, transaction: int
) -> dict[bytes, tuple[memoryview, int]]:
    """What values that have pages of their own begin with, and how long they are, as far as they are found.

    Args:
        file: LMDB's data file. name: of the database in it.
        transaction: the number of one that is open: until it ends no page of its view is written again.
    """
    found: dict[bytes, tuple[memoryview, int]] = {}
    with suppress(*_NO_SUCH_FILE):  # LMDB is asked for what is not found
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for place in places_of(fd, name, keys, transaction):
                beginning = os.pread(fd, min(most_bytes, place.length), place.offset)
                found[place.key] = memoryview(beginning), place.length
        finally:
            os.close(fd)
    return found


def places_of(fd: int, name: bytes, keys: Iterable[bytes], transaction: int | None = None) -> Iterator[Place]:
    """Where each value lies that has pages of its own, for the keys that are found.

    Args:
        transaction: what the file held after it, or after the first one later that is still known; None:
            what it holds now, be it durable or not.

    Raises:
        struct.error, IndexError, ValueError, OSError: this is no such file, or not any more.
    """
    pages = _Pages(fd, transaction)
    database = pages.find(pages.main_root, name)
    if database is None or database[0] != _SUB:
        return
    (root,) = _NUMBER.unpack_from(database[2], _ROOT_AT)
    for key in keys:
        found = pages.find(root, key)
        if found is not None and found[0] == _BIG:
            (number,) = _NUMBER.unpack(found[2])
            yield Place(key, number * pages.page_bytes + _HEAD.size, found[1])


class _Pages:
    """Pages of one file, each read once."""

    def __init__(self, fd: int, transaction: int | None) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._kept: dict[int, bytes] = {}
        self.page_bytes = os.sysconf("SC_PAGE_SIZE")
        known = sorted((self._meta(0), self._meta(1)))
        since = [] if transaction is None else [meta for meta in known if meta[0] >= transaction]
        self.main_root = (since[0] if since else known[-1])[1]

    def _meta(self, number: int) -> tuple[int, int]:
        """(transaction, root of the database of databases)."""
        raw = self._page(number)
        (magic,) = _META.unpack_from(raw)
        if magic != META_MAGIC:
            raise ValueError("no meta page")
        databases = _META.size
        (root,) = _NUMBER.unpack_from(raw, databases + META_DB_BYTES + _ROOT_AT)
        (transaction,) = _NUMBER.unpack_from(raw, databases + 2 * META_DB_BYTES + _NUMBER.size)
        return transaction, root

    def _page(self, number: int) -> bytes:
        if number not in self._kept:
            if not 0 <= number < self._size // self.page_bytes:
                raise ValueError("no such page")
            self._kept[number] = os.pread(self._fd, self.page_bytes, number * self.page_bytes)
        return self._kept[number]

    def find(self, root: int, key: bytes) -> tuple[int, int, bytes] | None:
        """(flags, size, what stands in the leaf) of a key's value; None: there is none."""
        number = root
        for _ in range(_DEPTH_MAX):
            raw = self._page(number)
            told, _, flags, lower, _ = _HEAD.unpack_from(raw)
            if told != number:
                raise ValueError("another page lies here")
            count = (lower - _HEAD.size) // 2
            nodes = struct.unpack_from(f"<{count}H", raw, _HEAD.size)
            # A branch's first key is not stored: everything before the second one lies below it.
            first = 1 if flags & _BRANCH else 0
            at = _last_not_behind(raw, nodes, key, first)
            if at < 0:
                return None
            low, high, more, key_bytes = _NODE.unpack_from(raw, nodes[at])
            begin = nodes[at] + _NODE.size
            if flags & _BRANCH:
                number = low | high << 16 | more << 32
            elif flags & _LEAF and raw[begin : begin + key_bytes] == key:
                begin += key_bytes
                size = low | high << 16
                return more, size, raw[begin : begin + (_NUMBER.size if more == _BIG else size)]
            else:
                return None
        raise ValueError("no tree is so deep")


def _last_not_behind(raw: bytes, nodes: tuple[int, ...], key: bytes, first: int) -> int:
    """The last node from ``first`` on whose key is not behind this one; ``first`` - 1 when all are."""
    low, high = first, len(nodes)
    while low < high:
        middle = (low + high) // 2
        (key_bytes,) = struct.unpack_from("<H", raw, nodes[middle] + 6)
        begin = nodes[middle] + _NODE.size
        if raw[begin : begin + key_bytes] <= key:
            low = middle + 1
        else:
            high = middle
    return low - 1


def _runs(places: Iterable[Place]) -> Iterator[tuple[int, int]]:
    """The same in as few runs as they make: values stored together lie side by side, a page head between."""
    begin = end = 0
    for _, offset, length in sorted(places, key=lambda place: place.offset):
        if offset <= end + os.sysconf("SC_PAGE_SIZE"):
            end = max(end, offset + length)
            continue
        if end:
            yield begin, end - begin
        begin, end = offset, offset + length
    if end:
        yield begin, end - begin
