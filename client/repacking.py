"""Which stored chunks of small files are hardly used any more: what is left in them is sent again.

A chunk holds many small files, and stays as long as one of them is needed. When few are left, the space of
all the others cannot come back; so the next backup takes the rest along in its own stream, and the chunk is
free once no snapshot names it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from holdfast.client.entries import Entry
from holdfast.client.limits import REPACK_PARTS
from holdfast.protocol.ids import ChunkId

__all__ = ["ChunkUse", "is_still_there"]


def is_still_there(entry: Entry) -> bool:
    """Does the file look on the disk as it did when it was backed up?"""
    try:
        now = os.lstat(b"/" + entry.path)
    except OSError:
        return False
    looks = (now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino)
    return stat.S_ISREG(now.st_mode) and looks == (
        entry.size,
        entry.mtime_ns,
        entry.ctime_ns,
        entry.inode,
    )


class ChunkUse:
    """Counts, over the parent snapshot's files, what a backup of these roots would still use of each chunk.

    Files that share their bytes are counted each: a chunk then looks fuller than it is, and is left alone.
    So is one of which nothing is used under the old names: its files may have been renamed.

    Args:
        roots: absolute paths; what lies elsewhere will not be in the snapshot.
    """

    def __init__(self, roots: Sequence[bytes]) -> None:
        self._roots = [root.strip(b"/") for root in roots]
        self._used: dict[ChunkId, list[int]] = {}
        self._little: frozenset[ChunkId] = frozenset()

    def note(self, entry: Entry) -> None:
        """One file of the parent snapshot. Only small ones count: large ones have chunks of their own."""
        if not entry.digest:
            return
        is_used = self._is_below(entry.path) and is_still_there(entry)
        for extent in entry.extents:
            counted = self._used.setdefault(extent.ref.chunk, [0, extent.ref.plain_bytes])
            if is_used:
                counted[0] += extent.length

    def _is_below(self, path: bytes) -> bool:
        return any(not root or path == root or path.startswith(root + b"/") for root in self._roots)

    def finish(self) -> None:
        """All are noted: from here on only little-used chunks are remembered."""
        self._little = frozenset(
            chunk for chunk, (used, size) in self._used.items() if 0 < used * REPACK_PARTS < size
        )
        self._used = {}

    def is_little(self, entry: Entry) -> bool:
        """Does a small file lie in a chunk that is hardly used?"""
        return bool(entry.digest) and any(extent.ref.chunk in self._little for extent in entry.extents)
