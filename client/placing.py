"""Putting files into a target folder, and nowhere else, whatever the manifest says.

Every component below the target is opened with O_NOFOLLOW relative to its parent
(openat): no '..', no absolute path, no symbolic link below the target is ever
followed. Files get a temporary name, their content is made durable, then they are
renamed into place: a file is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal

from msgspec import Struct

from holdfast.client.entries import Entry
from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.errors import Conflict, HoldfastError, Locked, NoRoom

__all__ = ["Overwrite", "Placed", "Target", "no_room_or", "temporary_prefix"]

Overwrite = Literal["never", "always", "if-changed", "if-newer"]

temporary_prefix: Final = b".holdfast-restore-"
_TEMPORARY: Final = re.compile(re.escape(temporary_prefix) + rb"[0-9a-f]{16}-[0-9]+")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDERS_OPEN_MAX: Final = 64
_PRIVILEGED_XATTRS: Final = (b"security.", b"trusted.", b"system.")
_libc: Final = ctypes.CDLL(None, use_errno=True)
_SYNC_FILE_RANGE_WRITE: Final = 2
_RENAME_NOREPLACE: Final = 1


class Placed(Struct):
    """Counts of what could not be set as a user who is not root."""

    owners_skipped: int = 0
    modes_reduced: int = 0
    xattrs_skipped: int = 0


class Target:
    """A folder to restore into; one restore at a time.

    Attributes:
        never_replaces: the kernel itself refuses to put a file in the place of another.

    Raises:
        Locked: another restore runs in it.
        HoldfastError: it cannot be made or opened.
    """

    def __init__(
        self, path: str | os.PathLike[str], overwrite: Overwrite, *, source: Source = SYSTEM
    ) -> None:
        self.path = os.fspath(path)
        self._overwrite = overwrite
        self.never_replaces = overwrite == "never" and hasattr(_libc, "renameat2")
        self._is_root = os.geteuid() == 0
        try:
            os.makedirs(self.path, exist_ok=True)
            self._root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise HoldfastError(
                f"cannot restore into {self.path}",
                why=error.strerror or str(error),
                do="Choose another --target.",
            ) from error
        try:
            fcntl.flock(self._root, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._root)
            raise Locked(
                f"another restore is running in {self.path}", do="Wait for it, or choose another."
            ) from None
        self._folders: OrderedDict[tuple[bytes, ...], int] = OrderedDict()
        self._filesystems = {os.fstat(self._root).st_dev: self._root}
        self._made: set[tuple[bytes, ...]] = set()
        self._looked_in: tuple[tuple[bytes, ...] | None, bytes | None] = None, None
        self._number = 0
        # Not the process id: in a container an interrupted restore may well have had the same.
        self._own = temporary_prefix + source.random_bytes(8).hex().encode() + b"-"
        self.placed = Placed()
        try:
            self._clean(self._root)
        except OSError as error:
            self.close()
            raise no_room_or(error, self.path) from error

    def close(self) -> None:
        """Let go of all folders."""
        for fd in self._folders.values():
            os.close(fd)
        self._folders.clear()
        if self._root >= 0:
            for fd in self._filesystems.values():
                os.close(fd)
            self._filesystems.clear()
            self._root = -1

    # Folders

    def folder(self, parts: tuple[bytes, ...]) -> int:
        """An open descriptor of a folder below the target, made where it is missing (0700).

        Raises:
            Conflict: something that is no folder is in the way.
        """
        # From the deepest one that is open, downwards: without recursion, for hostile depths.
        depth = len(parts)
        while depth and parts[:depth] not in self._folders:
            depth -= 1
        fd = self._folders[parts[:depth]] if depth else self._root
        if depth:
            self._folders.move_to_end(parts[:depth])
        for end in range(depth + 1, len(parts) + 1):
            fd = self._open_folder(fd, parts[:end])
        return fd

    def _open_folder(self, above: int, parts: tuple[bytes, ...]) -> int:
        fd = self._opened_or_made(above, parts)
        try:
            if parts not in self._made:
                self._clean(fd)
            device = os.fstat(fd).st_dev
            if device not in self._filesystems:
                self._filesystems[device] = os.dup(fd)
        except BaseException:
            os.close(fd)  # and all of it anew the next time: its filesystem would never be synced
            raise
        self._folders[parts] = fd
        while len(self._folders) > _FOLDERS_OPEN_MAX:
            _, oldest = self._folders.popitem(last=False)
            os.close(oldest)
        return fd

    def _opened_or_made(self, above: int, parts: tuple[bytes, ...]) -> int:
        name = parts[-1]
        try:
            try:
                return os.open(name, _FOLDER, dir_fd=above)
            except FileNotFoundError:
                # Somebody may make it in this moment: then it is theirs, as if it had been there.
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=above)
                    self._made.add(parts)
                return os.open(name, _FOLDER, dir_fd=above)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise Conflict(f"something that is not a folder is in the way at {_shown(parts)}") from error
            raise

    def _clean(self, fd: int) -> None:
        """Remove what an interrupted restore left in a folder that was there before."""
        with os.scandir(fd) as listing:
            names = [os.fsencode(entry.name) for entry in listing if not entry.is_dir(follow_symlinks=False)]
        for name in names:
            # Our own wait for their rename: a folder may be closed and opened again meanwhile.
            if _TEMPORARY.fullmatch(name) and not name.startswith(self._own):
                os.unlink(name, dir_fd=fd)

    def made_folder(self, parts: tuple[bytes, ...]) -> bool:
        """Did this restore make it (or may it change what was there)?"""
        return parts in self._made or self._overwrite == "always"

    def finish_folder(self, parts: tuple[bytes, ...], entry: Entry) -> None:
        """Owner, mode, attributes and times of a folder, when everything in it is there."""
        if self.made_folder(parts):
            fd = self.folder(parts)
            self._set_metadata(fd, entry)
        self._made.discard(parts)

    # Files

    def wants(self, parts: tuple[bytes, ...], entry: Entry) -> bool:
        """Should this entry be written, by what is there and --overwrite?

        Raises:
            Conflict: a folder is in the way of a file.
        """
        found = self._existing(parts)
        if found is not None and stat.S_ISDIR(found.st_mode):
            raise Conflict(f"a folder is in the way at {_shown(parts)}")
        return found is None or replaces(found, entry, self._overwrite)

    def looks_wanted(self, parts: tuple[bytes, ...], entry: Entry) -> bool:
        """A quick look by path, to spare fetching what is there; :meth:`wants` decides when writing."""
        above = parts[:-1]
        if above != self._looked_in[0]:
            # Where there was no folder a moment ago there is no file to spare: one look for all of them.
            named = os.path.join(os.fsencode(self.path), *above)
            self._looked_in = above, named if os.path.isdir(named) else None
        folder = self._looked_in[1]
        if folder is None:
            return True
        try:
            found = os.lstat(os.path.join(folder, parts[-1]))
        except OSError:
            return True
        return stat.S_ISDIR(found.st_mode) or replaces(found, entry, self._overwrite)

    def _existing(self, parts: tuple[bytes, ...]) -> os.stat_result | None:
        try:
            return os.stat(parts[-1], dir_fd=self.folder(parts[:-1]), follow_symlinks=False)
        except FileNotFoundError:
            return None

    def temporary(self, parts: tuple[bytes, ...]) -> tuple[int, bytes]:
        """A new file beside its place: (descriptor, name)."""
        self._number += 1
        name = self._own + b"%d" % self._number
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self.folder(parts[:-1])), name

    def discard(self, parts: tuple[bytes, ...], name: bytes) -> None:
        """Remove a temporary file."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.folder(parts[:-1]))

    def describe(self, fd: int, entry: Entry) -> None:
        """Owner, mode, attributes and times of a file that is written."""
        self._set_metadata(fd, entry)

    def rename(self, parts: tuple[bytes, ...], name: bytes, entry: Entry) -> bool:
        """Put a finished file into its place; False where something stays that came there meanwhile.

        Raises:
            Conflict: it is a folder.
        """
        folder = self.folder(parts[:-1])
        while self.never_replaces:
            number = _rename_to_free(folder, name, parts[-1])
            if number == 0:
                return True
            if number in (errno.EINVAL, errno.ENOSYS):
                self.never_replaces = False  # this filesystem cannot: a look has to do
            elif number != errno.EEXIST:
                raise OSError(number, os.strerror(number))
            elif not self.wants(parts, entry):
                return False
            # else it has gone again since: the place is free
        if not self.wants(parts, entry):
            return False
        os.rename(name, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
        return True

    def sync_all(self) -> None:
        """Make everything written durable (syncfs(2)), also on what is mounted below the target.

        May run beside a thread that writes on: what was written before the call is durable after it.
        """
        for fd in list(self._filesystems.values()):
            if _libc.syncfs(fd) != 0:
                number = ctypes.get_errno()
                raise no_room_or(OSError(number, os.strerror(number)), self.path)

    def write_back(self, fd: int, offset: int, length: int) -> None:
        """Let the disk begin on what was just written, so that the sync at the end finds little to do.

        sync_file_range(2) with SYNC_FILE_RANGE_WRITE: starts, does not wait, promises nothing; where a
        filesystem does not know it, nothing is lost.
        """
        _libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)

    # Links and others

    def hard_link(self, parts: tuple[bytes, ...], first: tuple[bytes, ...]) -> None:
        """Another name for a file that this restore has placed."""
        # A descriptor of our own: opening the other folder may close the longest unused one.
        source = os.dup(self.folder(first[:-1]))
        try:
            self._replacing(
                parts,
                lambda name, folder: os.link(
                    first[-1], name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False
                ),
            )
        finally:
            os.close(source)

    def symlink(self, parts: tuple[bytes, ...], entry: Entry) -> None:
        """A symbolic link; what it leads to is nobody's business here."""

        def make(name: bytes, folder: int) -> None:
            os.symlink(entry.target, name, dir_fd=folder)
            if self._is_root:
                os.chown(name, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)
            elif (entry.uid, entry.gid) != (os.geteuid(), os.getegid()):
                self.placed.owners_skipped += 1
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)

        self._replacing(parts, make)

    def fifo(self, parts: tuple[bytes, ...], entry: Entry) -> None:
        """A named pipe."""

        def make(name: bytes, folder: int) -> None:
            os.mkfifo(name, 0o600, dir_fd=folder)
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                path = f"/proc/self/fd/{fd}"
                if self._is_root:
                    os.chown(path, entry.uid, entry.gid)
                os.chmod(path, entry.mode & 0o777)
                os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
            finally:
                os.close(fd)

        self._replacing(parts, make)

    def _replacing(self, parts: tuple[bytes, ...], make: Callable[[bytes, int], None]) -> None:
        """Make something under a temporary name, then rename it into place."""
        self._number += 1
        name = self._own + b"%d" % self._number
        folder = self.folder(parts[:-1])
        try:
            make(name, folder)
            os.rename(name, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
            # Renaming onto another name of the same file does nothing and leaves the temporary one.
            self.discard(parts, name)
        except BaseException:
            self.discard(parts, name)
            raise

    def _set_metadata(self, fd: int, entry: Entry) -> None:
        mode = entry.mode
        if self._is_root:
            os.fchown(fd, entry.uid, entry.gid)
        else:
            if (entry.uid, entry.gid) != (os.geteuid(), os.getegid()):
                self.placed.owners_skipped += 1
            if mode & (stat.S_ISUID | stat.S_ISGID):
                # Without its owner such a bit would give somebody else's rights.
                self.placed.modes_reduced += 1
                mode &= ~(stat.S_ISUID | stat.S_ISGID)
        for name, value in entry.xattrs:
            self._set_xattr(fd, name, value)
        os.fchmod(fd, mode)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _set_xattr(self, fd: int, name: bytes, value: bytes) -> None:
        if name.startswith(_PRIVILEGED_XATTRS) and not self._is_root:
            self.placed.xattrs_skipped += 1
            return
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.placed.xattrs_skipped += 1


def _rename_to_free(folder: int, name: bytes, to: bytes) -> int:
    """renameat2(2) with RENAME_NOREPLACE within a folder; 0, or the error's number (EEXIST: it is taken)."""
    if _libc.renameat2(folder, name, folder, to, _RENAME_NOREPLACE) == 0:
        return 0
    return ctypes.get_errno()


def replaces(found: os.stat_result, entry: Entry, overwrite: Overwrite) -> bool:
    """May this entry take the place of what was found there?"""
    if overwrite == "if-changed":
        return (found.st_size, found.st_mtime_ns) != (entry.size, entry.mtime_ns)
    if overwrite == "if-newer":
        return entry.mtime_ns > found.st_mtime_ns
    return overwrite == "always"


def no_room_or(error: OSError, path: str) -> HoldfastError:
    """NoRoom for a full disk, a plain error for any other trouble of the target's filesystem."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoRoom(
            f"the disk of {path} is full",
            do="Free some room and run the restore again: what is there is whole and is skipped.",
        )
    return HoldfastError(f"writing below {path} failed", why=error.strerror or str(error))


def _shown(parts: tuple[bytes, ...]) -> str:
    return os.fsdecode(b"/".join(parts))
