"""Reading files for a backup: metadata, content, holes; never through a link, never fatal."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from functools import lru_cache
from heapq import nlargest

import msgspec

from holdfast.client.entries import Entry, Kind
from holdfast.client.limits import FILE_HOLES_MAX, XATTR_BYTES_MAX
from holdfast.client.walk import Found

__all__ = [
    "FileReader",
    "SkippedFile",
    "attributes_of",
    "describe",
    "holes_of",
    "owner_names",
    "unchanged",
    "untrusted",
]

_NO_XATTRS = (errno.ENODATA, errno.ENOENT, errno.ENOTSUP)
"""It has none (any more), is gone itself, or lies on a filesystem that knows none."""
_UNTRUSTED_NS = 2_000_000_000
"""A file touched this shortly before it was read is not taken as unchanged next time."""


class SkippedFile(Exception):
    """This one cannot be backed up; the reason is for people."""


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def _group_name(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""


def attributes_of(path: bytes, left_out: list[str]) -> tuple[tuple[bytes, bytes], ...]:
    """Extended attributes, sorted. Which ones cannot be read, or are too many, joins ``left_out``."""
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
    except OSError as error:
        if error.errno not in _NO_XATTRS:
            left_out.append(f"all attributes ({error.strerror})")
        return ()
    found, size = [], 0
    for name in names:
        try:
            value = os.getxattr(path, name, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                left_out.append(f"{name} ({error.strerror})")
            continue
        size += len(os.fsencode(name)) + len(value)
        if size > XATTR_BYTES_MAX:
            left_out.append(f"{name} and what follows (more than {XATTR_BYTES_MAX >> 10} KiB)")
            break
        found.append((os.fsencode(name), value))
    return tuple(found)


@lru_cache(maxsize=4096)
def owner_names(uid: int, gid: int) -> tuple[str, str]:
    """Names of a user and a group, as a page can hold them; empty where the system knows none."""
    user, group = (name.encode(errors="replace").decode() for name in (_user_name(uid), _group_name(gid)))
    return user, group


def describe(found: Found, now_ns: int, left_out: list[str] | None = None) -> Entry:
    """The entry of something found, without content.

    Args:
        left_out: takes the names of extended attributes that could not be had, and why.

    Raises:
        SkippedFile: a socket or device, or it vanished.
    """
    told = found.stat
    mode, kind = told.st_mode, _kind(told.st_mode)
    if kind is None:
        what = "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise SkippedFile(f"it is {what}")
    target = b""
    if kind == "symlink":
        try:
            target = os.readlink(found.path)
        except OSError as error:
            raise SkippedFile(error.strerror or str(error)) from error
    user, group = owner_names(told.st_uid, told.st_gid)
    is_file, mtime_ns, ctime_ns = kind == "file", told.st_mtime_ns, told.st_ctime_ns
    linked = is_file and told.st_nlink > 1
    return Entry(
        kind=kind,
        path=found.path.lstrip(b"/"),
        mode=stat.S_IMODE(mode),
        uid=told.st_uid,
        gid=told.st_gid,
        user=user,
        group=group,
        mtime_ns=mtime_ns,
        ctime_ns=ctime_ns if is_file else 0,
        inode=told.st_ino if is_file else 0,
        device=told.st_dev if linked else 0,
        size=told.st_size if is_file else 0,
        target=target,
        linked=linked,
        xattrs=attributes_of(found.path, [] if left_out is None else left_out),
        trusted=is_file and now_ns - max(mtime_ns, ctime_ns) > _UNTRUSTED_NS,
    )


def _kind(mode: int) -> Kind | None:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "dir"
    if stat.S_ISLNK(mode):
        return "symlink"
    return "fifo" if stat.S_ISFIFO(mode) else None


def unchanged(now: Entry, before: Entry) -> bool:
    """Is the content of the file what it was at the last backup? Then it is not read again."""
    return (
        before.kind == "file"
        and before.trusted
        and (now.size, now.mtime_ns, now.ctime_ns, now.inode)
        == (before.size, before.mtime_ns, before.ctime_ns, before.inode)
    )


class FileReader:
    """One open file. Reading gives what is there at most up to the size it had when opened.

    Raises:
        SkippedFile: it cannot be opened, or is something else by now.
    """

    def __init__(self, path: bytes) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            try:
                self._fd = os.open(path, flags | os.O_NOATIME)
            except PermissionError:
                self._fd = os.open(path, flags)  # NOATIME is for the owner and root only
        except OSError as error:
            why = "it vanished" if error.errno == errno.ENOENT else error.strerror or str(error)
            raise SkippedFile(why) from error
        self.stat = os.fstat(self._fd)
        if not stat.S_ISREG(self.stat.st_mode):
            os.close(self._fd)
            raise SkippedFile("it is something else by now")

    def __enter__(self) -> FileReader:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def runs(self) -> list[tuple[int, int]]:
        """(offset, length) of what is not a hole; the whole file where holes are not told."""
        size = self.stat.st_size
        if size == 0:
            return []
        if self.stat.st_blocks * 512 >= size:
            return [(0, size)]
        found, at = [], 0
        try:
            while at < size:
                start = os.lseek(self._fd, at, os.SEEK_DATA)
                at = os.lseek(self._fd, start, os.SEEK_HOLE)
                found.append((start, min(at, size) - start))
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: nothing but a hole from here on
                return [(0, size)]
        return _joined([run for run in found if run[1] > 0])

    def whole_into(self, room: memoryview) -> memoryview:
        """All of a small file, put at the beginning of some room that is long enough; less where it has
        been cut off.

        Raises:
            SkippedFile: it cannot be read.
        """
        size, got = self.stat.st_size, 0
        while got < size and (count := self.read_into(room[got:size], got)):
            got += count
        return room[:got]

    def read_into(self, room: memoryview, offset: int) -> int:
        """Read at an offset into some room; gives how many bytes, 0 where the file ends by now.

        Raises:
            SkippedFile: it cannot be read.
        """
        try:
            return os.preadv(self._fd, [room], offset)
        except OSError as error:
            raise SkippedFile(error.strerror or str(error)) from error

    def changed_since(self, entry: Entry) -> bool:
        """Was it changed between being looked at and now?"""
        now = os.fstat(self._fd)
        return (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (entry.size, entry.mtime_ns, entry.ctime_ns)


def _joined(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same runs with at most FILE_HOLES_MAX holes between them: the largest stay."""
    if len(runs) <= FILE_HOLES_MAX:
        return runs
    between = [runs[i + 1][0] - sum(runs[i]) for i in range(len(runs) - 1)]
    kept = set(nlargest(FILE_HOLES_MAX - 1, range(len(between)), key=between.__getitem__))
    joined, (start, length) = [], runs[0]
    for index, (next_start, next_length) in enumerate(runs[1:]):
        if index in kept:
            joined.append((start, length))
            start, length = next_start, next_length
        else:
            length = next_start + next_length - start
    return [*joined, (start, length)]


def holes_of(size: int, runs: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The ranges between runs, up to ``size``."""
    found, at = [], 0
    for start, length in runs:
        if start > at:
            found.append((at, start - at))
        at = start + length
    if at < size:
        found.append((at, size - at))
    return tuple(found)


def untrusted(entry: Entry, size: int) -> Entry:
    """The entry of a file that changed while it was read: as long as what was read, read again next time."""
    return msgspec.structs.replace(entry, size=size, trusted=False)
