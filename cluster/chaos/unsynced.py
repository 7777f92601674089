"""What a process has written and no disk need have yet; and a power cut that takes it away.

A killed process loses nothing of what it wrote: the kernel has it. A machine that loses its power loses what
was not synced. So a member of a run stands before the C library's writing calls (chaos.calls) and keeps,
for every file below its folder, what each write since the file's last sync has replaced. After every
process was killed, :func:`lose_unsynced` puts some or all of it back, in parts of 512 bytes.

Names are not taken back: what was renamed or removed without syncing its folder stays so (power cuts of
that kind are replayed from recorded write logs, see docs/reliability.md).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from holdfast.cluster.chaos.calls import StandIns

__all__ = ["Unsynced", "lose_unsynced"]

_SECTOR: Final = 512
_ENTRY: Final = struct.Struct("<QQQQ")
"""Where something was written, how long it is, how long the file was before, how many old bytes follow."""
_SYNCED: Final = (1 << 64) - 1
"""In place of an offset: entries before the one that begins at the next number are durable by now."""
_AT_FDCWD: Final = -100
_INT, _LONG, _SIZE = ctypes.c_int, ctypes.c_long, ctypes.c_size_t
_TEXT, _PLACE = ctypes.c_char_p, ctypes.c_void_p


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Unsynced:
    """From its making on, keeps what this process's writes below ``root`` replace until they are synced.

    Make it when every library that writes is loaded, and keep it for as long as the process lives.

    Args:
        journals: a folder for what was replaced, a file for each file written to.
    """

    def __init__(self, root: Path, journals: Path) -> None:
        self._root = os.fsencode(root.resolve())
        self._journals = os.fsencode(journals)
        self._lock = threading.RLock()
        self._open: dict[int, int] = {}
        self._calls = StandIns()
        self._calls.before("write", _LONG, self._write, _INT, _PLACE, _SIZE)
        for name in ("pwrite", "pwrite64"):
            self._calls.before(name, _LONG, self._write_at, _INT, _PLACE, _SIZE, _LONG)
        self._calls.before("writev", _LONG, self._write_vector, _INT, ctypes.POINTER(_Vector), _INT)
        for name in ("fsync", "fdatasync"):
            self._calls.before(name, _INT, self._sync, _INT)
        for name in ("ftruncate", "ftruncate64"):
            self._calls.before(name, _INT, self._cut, _INT, _LONG)
        self._calls.before("rename", _INT, self._rename, _TEXT, _TEXT)
        self._calls.before("unlink", _INT, self._unlink, _TEXT)
        self._calls.before("unlinkat", _INT, self._unlink_at, _INT, _TEXT, _INT)
        self._calls.install()

    # The journals

    def _is_ours(self, fd: int) -> os.stat_result | None:
        """What the descriptor is, when it is a file below the root."""
        try:
            found = os.fstat(fd)
        except OSError:
            return None  # the call itself will say so
        if not stat.S_ISREG(found.st_mode):
            return None
        return found if os.readlink(b"/proc/self/fd/%d" % fd).startswith(self._root + b"/") else None

    def _journal(self, inode: int) -> int:
        if inode not in self._open:
            path = b"%s/%d" % (self._journals, inode)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._open[inode] = os.open(path, flags, 0o600)
        return self._open[inode]

    def _replacing(self, fd: int, offset: int | None, length: int) -> None:
        found = self._is_ours(fd)
        if found is None or not length or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DSYNC:
            return
        if offset is None:
            appends = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND
            offset = found.st_size if appends else os.lseek(fd, 0, os.SEEK_CUR)
        old = b""
        if offset < found.st_size:
            # By a descriptor of its own: the writing one need not be open for reading.
            reading = os.open(b"/proc/self/fd/%d" % fd, os.O_RDONLY | os.O_CLOEXEC)
            try:
                old = os.pread(reading, length, offset)
            finally:
                os.close(reading)
        entry = _ENTRY.pack(offset, length, found.st_size, len(old)) + old
        if os.write(self._journal(found.st_ino), entry) != len(entry):
            raise OSError("the journal takes no more")

    def _forget(self, path: bytes) -> None:
        """A name goes; its number may soon be another file's."""
        with suppress(OSError):
            found = os.lstat(path)
            if found.st_nlink == 1 and stat.S_ISREG(found.st_mode):
                self._drop(found.st_ino)

    def _drop(self, inode: int) -> None:
        if (journal := self._open.pop(inode, None)) is not None:
            os.close(journal)
        with suppress(FileNotFoundError):
            os.unlink(b"%s/%d" % (self._journals, inode))

    # The functions

    def _write(self, real: Any, fd: int, place: int, size: int) -> int:
        with self._lock:
            self._replacing(fd, None, size)
        return int(real(fd, place, size))

    def _write_at(self, real: Any, fd: int, place: int, size: int, offset: int) -> int:
        with self._lock:
            self._replacing(fd, offset, size)
        return int(real(fd, place, size, offset))

    def _write_vector(self, real: Any, fd: int, vectors: Any, count: int) -> int:
        with self._lock:
            self._replacing(fd, None, sum(vectors[number].length for number in range(count)))
        return int(real(fd, vectors, count))

    def _cut(self, real: Any, fd: int, length: int) -> int:
        found = self._is_ours(fd)
        if found is not None and length != found.st_size:
            with self._lock:
                self._replacing(fd, min(length, found.st_size), abs(length - found.st_size))
        return int(real(fd, length))

    def _sync(self, real: Any, fd: int) -> int:
        found = self._is_ours(fd)
        if found is None:
            return int(real(fd))
        with self._lock:
            until = os.fstat(self._journal(found.st_ino)).st_size
        done = int(real(fd))
        if done == 0:
            with self._lock:
                self._synced(self._journal(found.st_ino), until)
        return done

    def _synced(self, journal: int, until: int) -> None:
        """What was written while it was synced may have come too late."""
        if os.fstat(journal).st_size <= until:
            os.ftruncate(journal, 0)
        else:
            os.write(journal, _ENTRY.pack(_SYNCED, until, 0, 0))

    def _rename(self, real: Any, path: bytes, to: bytes) -> int:
        with self._lock:
            self._forget(to)
        return int(real(path, to))

    def _unlink(self, real: Any, path: bytes) -> int:
        with self._lock:
            self._forget(path)
        return int(real(path))

    def _unlink_at(self, real: Any, folder: int, path: bytes, flags: int) -> int:
        at = folder != _AT_FDCWD and not path.startswith(b"/")
        whole = os.readlink(b"/proc/self/fd/%d" % folder) + b"/" + path if at else path
        with self._lock:
            self._forget(whole)
        return int(real(folder, path, flags))


# The power cut


@dataclass(frozen=True, slots=True)
class _Replaced:
    offset: int
    length: int
    size_before: int
    old: bytes


def lose_unsynced(root: Path, journals: Path, random: Random) -> int:
    """Take unsynced writes from the files below a folder, as a power cut may; gives the bytes it took.

    Nobody may have any of the files open. Of each file all is lost, or each part of 512 bytes by itself.

    Args:
        journals: what :class:`Unsynced` kept; emptied.
    """
    files = {path.stat().st_ino: path for path in sorted(root.rglob("*")) if path.is_file()}
    lost = 0
    for journal in sorted(journals.glob("*")):
        file = files.get(int(journal.name))
        entries = list(_entries(journal.read_bytes()))
        if file is not None and entries:
            lost += _put_back(file, entries, random)
        journal.unlink()
    for index in root.glob("*-shm"):
        index.unlink()  # SQLite's index of its log: in memory alone, and made again from the log
    return lost


def _entries(raw: bytes) -> Iterator[_Replaced]:
    """What is not durable, in the order in which it was written."""
    found: list[tuple[int, _Replaced]] = []
    at, durable = 0, 0
    while at + _ENTRY.size <= len(raw):
        offset, length, size_before, count = _ENTRY.unpack_from(raw, at)
        if offset == _SYNCED:
            durable = max(durable, length)
        elif at + _ENTRY.size + count <= len(raw):  # else it was killed before it wrote anything
            begin = at + _ENTRY.size
            found.append((at, _Replaced(offset, length, size_before, raw[begin : begin + count])))
        at += _ENTRY.size + count
    return (entry for at, entry in found if at >= durable)


def _put_back(file: Path, entries: list[_Replaced], random: Random) -> int:
    """Make a file what it may be after the power cut; gives how many bytes are other than they were."""
    with file.open("r+b") as opened:
        image: dict[int, bytearray] = {}
        for entry in entries:
            for sector in range(entry.offset // _SECTOR, -(-(entry.offset + entry.length) // _SECTOR)):
                if sector not in image:
                    opened.seek(sector * _SECTOR)
                    image[sector] = bytearray(opened.read(_SECTOR).ljust(_SECTOR, b"\0"))
        for entry in reversed(entries):
            _lay(image, entry.offset, entry.old.ljust(entry.length, b"\0"))
        is_all = random.random() < 0.5
        share = 1.0 if is_all else random.random()
        size = entries[0].size_before if is_all else file.stat().st_size
        lost = 0
        for sector, old in sorted(image.items()):
            begin = sector * _SECTOR
            if begin < size and (is_all or random.random() < share):
                opened.seek(begin)
                opened.write(old[: size - begin])
                lost += _SECTOR
        opened.truncate(size)
    return lost


def _lay(image: dict[int, bytearray], offset: int, content: bytes) -> None:
    at = 0
    while at < len(content):
        sector, within = divmod(offset + at, _SECTOR)
        count = min(_SECTOR - within, len(content) - at)
        image[sector][within : within + count] = content[at : at + count]
        at += count
