"""Comparing two trees completely: content, types, modes, owners, times, links, attributes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["Comparison", "Difference", "compare_trees", "tree_paths"]

_PORTION = 1 << 20


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same at a path (relative to the roots)."""

    path: bytes
    what: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """``files`` and ``bytes`` that were compared; differences, at most as many as asked for."""

    files: int
    entries: int
    bytes: int
    differences: tuple[Difference, ...]

    @property
    def identical(self) -> bool:
        """Nothing differs."""
        return not self.differences


def tree_paths(root: bytes, leave_out: Callable[[bytes, bool], bool]) -> Iterator[bytes]:
    """Relative paths of everything below a folder, sorted, what is left out excepted."""
    pending = [b""]
    while pending:
        folder = pending.pop()
        with os.scandir(os.path.join(root, folder)) as listing:
            names = sorted(listing, key=lambda entry: entry.name)
        for entry in names:
            is_folder = entry.is_dir(follow_symlinks=False)
            if leave_out(entry.path, is_folder):
                continue
            path = os.path.join(folder, entry.name)
            yield path
            if is_folder:
                pending.append(path)


def _same_content(one: bytes, other: bytes) -> bool:
    with open(one, "rb") as first, open(other, "rb") as second:
        while True:
            a, b = first.read(_PORTION), second.read(_PORTION)
            if a != b:
                return False
            if not a:
                return True


def _xattrs(path: bytes) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    except OSError:
        return {}


def _differ(one: bytes, other: bytes) -> Iterator[str]:
    """In what two entries differ."""
    a, b = os.lstat(one), os.lstat(other)
    if stat.S_IFMT(a.st_mode) != stat.S_IFMT(b.st_mode):
        yield "another type"
        return
    if stat.S_ISLNK(a.st_mode):
        if os.readlink(one) != os.readlink(other):
            yield "leads elsewhere"
    elif stat.S_IMODE(a.st_mode) != stat.S_IMODE(b.st_mode):
        yield f"mode {stat.S_IMODE(a.st_mode):o} became {stat.S_IMODE(b.st_mode):o}"
    if os.geteuid() == 0 and (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid):
        yield "another owner"
    if a.st_mtime_ns != b.st_mtime_ns:
        yield f"modified at {a.st_mtime_ns} became {b.st_mtime_ns}"
    if _xattrs(one) != _xattrs(other):
        yield "other attributes"
    if stat.S_ISREG(a.st_mode):
        if a.st_size != b.st_size:
            yield f"{a.st_size} bytes became {b.st_size}"
        elif not _same_content(one, other):
            yield "other content"
        if a.st_blocks * 512 < a.st_size and b.st_blocks > a.st_blocks + 128:
            yield "its holes were filled"


class _HardLinks:
    """Names that share an inode must share one on the other side, too."""

    def __init__(self) -> None:
        self._partners: dict[tuple[int, int], tuple[int, int]] = {}

    def agree(self, one: os.stat_result, other: os.stat_result) -> bool:
        if not stat.S_ISREG(one.st_mode) or one.st_nlink == 1:
            return True
        here, there = (one.st_dev, one.st_ino), (other.st_dev, other.st_ino)
        return self._partners.setdefault(here, there) == there


def compare_trees(
    source: bytes,
    restored: bytes,
    *,
    leave_out: Callable[[bytes, bool], bool] = lambda path, is_folder: False,
    only_restored: bool = False,
    most: int = 50,
) -> Comparison:
    """Compare everything below two folders.

    Args:
        leave_out: (absolute source path, is a folder) -> not part of the comparison.
        only_restored: what is not in ``restored`` does not count (after a restore that said what it
            could not produce); what is there must still be right.
    """
    found: list[Difference] = []
    links, files, entries, size = _HardLinks(), 0, 0, 0
    expected = set(tree_paths(source, leave_out))
    for path in sorted(expected):
        one, other = os.path.join(source, path), os.path.join(restored, path)
        if not os.path.lexists(other):
            if not only_restored:
                found.append(Difference(path, "is missing"))
            continue
        entries += 1
        # The times and modes of a folder that is not whole are not finished either.
        is_folder = os.path.isdir(one) and not os.path.islink(one)
        if not (only_restored and is_folder):
            found.extend(Difference(path, what) for what in _differ(one, other))
        told = os.lstat(one)
        if stat.S_ISREG(told.st_mode):
            files, size = files + 1, size + told.st_size
            if not links.agree(told, os.lstat(other)):
                found.append(Difference(path, "is not linked as it was"))
    for path in tree_paths(restored, lambda _path, _is_folder: False):
        if path not in expected:
            found.append(Difference(path, "was not there before"))
    return Comparison(files, entries, size, tuple(found[:most]))
