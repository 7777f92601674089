"""Records what this process does to the files below a folder, by standing before the C library's calls.

Install it last: only libraries that are loaded by then are seen. Writes to mapped memory are not seen
either; the products map only what may be lost (LMDB's lock file, SQLite's index of its log, the note of
what is being read), and a test compares what was recorded with the files that are there in the end.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdfast.cluster.chaos.calls import StandIns
from support.crash.write_log import (
    Created,
    Durable,
    DurableFolder,
    Event,
    MadeFolder,
    Noted,
    Removed,
    Renamed,
    Sized,
    Written,
    pack,
)

__all__ = ["Recording"]

_INT, _LONG, _SIZE, _TEXT, _PLACE = (
    ctypes.c_int,
    ctypes.c_long,
    ctypes.c_size_t,
    ctypes.c_char_p,
    ctypes.c_void_p,
)
_AT_FDCWD = -100


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Recording:
    """From its making on, everything below ``root`` (which must be empty) goes into ``log``."""

    def __init__(self, root: Path, log: Path) -> None:
        self._root = os.fsencode(root.resolve())
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._lock = threading.RLock()
        self._count = 0
        self._files: dict[tuple[int, int], int] = {}
        self._calls = StandIns()
        for name in ("write", "pwrite", "pwrite64", "writev"):
            self._calls.before(name, _LONG, *self._shape_of_write(name))
        for name in ("fsync", "fdatasync"):
            self._calls.before(name, _INT, self._sync, _INT)
        for name in ("ftruncate", "ftruncate64"):
            self._calls.before(name, _INT, self._size, _INT, _LONG)
        for name in ("truncate", "truncate64"):
            self._calls.before(name, _INT, self._size_of_path, _TEXT, _LONG)
        for name in ("open", "open64"):
            self._calls.before(name, _INT, self._open, _TEXT, _INT, _INT)
        self._calls.before("mkdir", _INT, self._mkdir, _TEXT, _INT)
        self._calls.before("rename", _INT, self._rename, _TEXT, _TEXT)
        self._calls.before("unlink", _INT, self._unlink, _TEXT)
        self._calls.before("rmdir", _INT, self._unlink, _TEXT)
        self._calls.before("unlinkat", _INT, self._unlink_at, _INT, _TEXT, _INT)
        self.seen = self._calls.install()

    def note(self, kind: str, number: int, value: str = "") -> None:
        """Say something in the log."""
        self._say(Noted(kind, number, value))

    def _shape_of_write(self, name: str) -> tuple[Any, ...]:
        if name == "write":
            return self._write, _INT, _PLACE, _SIZE
        if name == "writev":
            return self._write_vector, _INT, ctypes.POINTER(_Vector), _INT
        return self._write_at, _INT, _PLACE, _SIZE, _LONG

    def _say(self, event: Event) -> int:
        with self._lock:
            raw = pack(event)
            with self._calls.straight():
                if os.write(self._log, raw) != len(raw):
                    raise OSError("the log takes no more")
            self._count += 1
            return self._count - 1

    def _below(self, path: bytes) -> str | None:
        """A path relative to the root; None for one that is not below it."""
        whole = os.path.abspath(path)
        if whole == self._root:
            return ""
        return os.fsdecode(whole[len(self._root) + 1 :]) if whole.startswith(self._root + b"/") else None

    def _file(self, fd: int) -> int | None:
        found = os.fstat(fd)
        return self._files.get((found.st_dev, found.st_ino)) if stat.S_ISREG(found.st_mode) else None

    def _forget(self, path: bytes) -> None:
        """A name goes; its number may soon be another file's."""
        with suppress(OSError):
            found = os.lstat(path)
            if found.st_nlink == 1 and stat.S_ISREG(found.st_mode):
                self._files.pop((found.st_dev, found.st_ino), None)

    # The functions

    def _wrote(self, fd: int, offset: int | None, content: bytes, done: int) -> int:
        file = self._file(fd)
        if file is None or done < 0:
            return done
        if done != len(content):
            raise OSError("a write that was cut short")
        if offset is None:
            offset = os.lseek(fd, 0, os.SEEK_CUR) - done
        with self._lock:
            at = self._say(Written(file, offset, content))
            if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DSYNC:
                self._say(Durable(file, 0, at))
        return done

    def _write(self, real: Any, fd: int, place: int, size: int) -> int:
        done = real(fd, place, size)
        return self._wrote(fd, None, ctypes.string_at(place, size), done) if size else int(done)

    def _write_at(self, real: Any, fd: int, place: int, size: int, offset: int) -> int:
        done = real(fd, place, size, offset)
        return self._wrote(fd, offset, ctypes.string_at(place, size), done) if size else int(done)

    def _write_vector(self, real: Any, fd: int, vectors: Any, count: int) -> int:
        content = b"".join(
            ctypes.string_at(vectors[number].base, vectors[number].length)
            for number in range(count)
            if vectors[number].length
        )
        return self._wrote(fd, None, content, real(fd, vectors, count))

    def _sync(self, real: Any, fd: int) -> int:
        until = self._count
        done = int(real(fd))
        if done == 0:
            file = self._file(fd)
            if file is not None:
                self._say(Durable(file, until))
            elif stat.S_ISDIR(os.fstat(fd).st_mode):
                path = self._below(os.readlink(b"/proc/self/fd/%d" % fd))
                if path is not None:
                    self._say(DurableFolder(path, until))
        return done

    def _size(self, real: Any, fd: int, length: int) -> int:
        done = int(real(fd, length))
        file = self._file(fd)
        if done == 0 and file is not None:
            self._say(Sized(file, length))
        return done

    def _size_of_path(self, real: Any, path: bytes, length: int) -> int:
        done = int(real(path, length))
        if done == 0 and self._below(path) is not None:
            found = os.stat(path)
            self._say(Sized(self._files[found.st_dev, found.st_ino], length))
        return done

    def _open(self, real: Any, path: bytes, flags: int, mode: int) -> int:
        below = self._below(path)
        existed = below is None or os.path.lexists(path)
        had = os.stat(path).st_size if below is not None and os.path.isfile(path) else 0
        fd = int(real(path, flags, mode))
        if below is None or fd < 0:
            return fd
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode):
            with self._lock:
                if not existed:
                    self._files[found.st_dev, found.st_ino] = self._count
                    self._say(Created(below, self._count))
                elif flags & os.O_TRUNC and had:
                    self._say(Sized(self._files[found.st_dev, found.st_ino], 0))
        return fd

    def _mkdir(self, real: Any, path: bytes, mode: int) -> int:
        done = int(real(path, mode))
        below = self._below(path)
        if done == 0 and below is not None:
            self._say(MadeFolder(below))
        return done

    def _rename(self, real: Any, path: bytes, to: bytes) -> int:
        one, other = self._below(path), self._below(to)
        if other is not None:
            self._forget(to)
        done = int(real(path, to))
        if done == 0 and one is not None and other is not None:
            self._say(Renamed(one, other))
        return done

    def _unlink(self, real: Any, path: bytes) -> int:
        below = self._below(path)
        if below is not None:
            self._forget(path)
        done = int(real(path))
        if done == 0 and below is not None:
            self._say(Removed(below))
        return done

    def _unlink_at(self, real: Any, folder: int, path: bytes, flags: int) -> int:
        if folder == _AT_FDCWD or path.startswith(b"/"):
            whole = path
        else:
            whole = os.readlink(b"/proc/self/fd/%d" % folder) + b"/" + path
        return self._unlink(lambda _: real(folder, path, flags), whole)
