"""Walking what is to be backed up, in the manifest's order: by path components.

A folder comes before what is in it, names sort as bytes. The folders above each
given path are named too, so that a restore can make them with their own modes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from holdfast.client.exclude import Excluder
from holdfast.protocol.errors import BadRequest

__all__ = ["Found", "Problem", "components", "normal_roots", "walk"]


class Found(msgspec.Struct, frozen=True):
    """Something that may be backed up: its absolute path and lstat."""

    path: bytes
    stat: os.stat_result


class Problem(Struct, frozen=True):
    """Something that could not be looked at."""

    path: bytes
    why: str


def components(path: bytes) -> tuple[bytes, ...]:
    """The names of a path: the order of walk and manifest."""
    return tuple(filter(None, path.split(b"/")))


def normal_roots(paths: Sequence[str | bytes | os.PathLike[str] | os.PathLike[bytes]]) -> list[bytes]:
    """Absolute paths in walking order; those below another are dropped.

    A given path that is a symbolic link is kept as a link, and what it leads to is added.

    Raises:
        BadRequest: a path does not exist.
    """
    if not paths:
        raise BadRequest("nothing to back up was named", do="Name files or folders.")
    wanted: set[bytes] = set()
    for path in paths:
        absolute = os.path.abspath(os.fsencode(path))
        if not os.path.lexists(absolute):
            raise BadRequest(f"{os.fsdecode(absolute)} does not exist")
        wanted.add(absolute)
        if os.path.islink(absolute) and os.path.exists(absolute):
            wanted.add(os.path.realpath(absolute))
    kept: list[bytes] = []
    for path in sorted(wanted, key=components):
        above = components(kept[-1]) if kept else None
        inside = above is not None and components(path)[: len(above)] == above
        if not (inside and not os.path.islink(kept[-1])):
            kept.append(path)
    return kept


def walk(
    roots: Sequence[bytes], excluder: Excluder, *, one_file_system: bool = False
) -> Iterator[Found | Problem]:
    """Everything in and above the roots, each path once, in order of components."""
    told: set[bytes] = set()
    for root in roots:
        parts = components(root)
        for depth in range(1, len(parts)):
            above = b"/" + b"/".join(parts[:depth])
            if above not in told:
                told.add(above)
                yield from _looked_at(above, follow=True)
        for found in _looked_at(root, follow=False):
            yield found
            if isinstance(found, Found) and stat.S_ISDIR(found.stat.st_mode):
                device = found.stat.st_dev if one_file_system else None
                yield from _below(root, excluder, device)


def _looked_at(path: bytes, *, follow: bool) -> Iterator[Found | Problem]:
    if path == b"/":
        # The root folder itself has no name; what is in it does.
        yield Found(path, os.stat(path))
        return
    try:
        yield Found(path, os.stat(path, follow_symlinks=follow))
    except OSError as error:
        yield Problem(path, error.strerror or str(error))


def _listed(folder: bytes) -> list[os.DirEntry[bytes]]:
    with os.scandir(folder) as listing:
        return sorted(listing, key=lambda entry: entry.name, reverse=True)


def _below(root: bytes, excluder: Excluder, device: int | None) -> Iterator[Found | Problem]:
    """Depth first, without recursion: the stack holds what is still to be told, last first."""
    try:
        stack = _listed(root)
    except OSError as error:
        yield Problem(root, error.strerror or str(error))
        return
    while stack:
        entry = stack.pop()
        try:
            is_folder = entry.is_dir(follow_symlinks=False)
            if excluder and excluder.excludes(entry.path, is_folder):
                continue
            found = entry.stat(follow_symlinks=False)
            yield Found(entry.path, found)
            # A mount point is told, what is mounted on it is not.
            if is_folder and (device is None or found.st_dev == device):
                stack.extend(_listed(entry.path))
        except OSError as error:
            yield Problem(entry.path, error.strerror or str(error))
