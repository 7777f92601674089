"""Which stored chunks of small files are hardly used any more: what is left in them is sent again.

A chunk holds many small files, and stays as long as one of them is needed. When few are left, the space of
all the others cannot come back; so the next backup takes the rest along in its own stream, and the chunk is
free once no snapshot names it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

from holdfast.client.entries import Entry
from holdfast.client.limits import REPACK_PARTS
from holdfast.client.manifest import Page, PageEntry
from holdfast.client.snapshot_record import ChunkRef
from holdfast.protocol.ids import ChunkId

__all__ = ["ChunkUse", "is_still_there"]


def is_still_there(entry: Entry | PageEntry) -> bool:
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
    """Which chunks of small files are little used."""

    def __init__(self, little: frozenset[ChunkId] = frozenset()) -> None:
        self._little = little

    @classmethod
    def of(cls, pages: Iterable[tuple[ChunkRef, Page | None]], roots: Sequence[bytes]) -> ChunkUse:
        """Count over the parent's files what a backup of these roots would still use of each chunk.

        Files that share their bytes are counted each: a chunk then looks fuller than it is, and is left
        alone. So is one of which nothing is used under the old names: its files may have been renamed.

        Args:
            roots: absolute paths; what lies elsewhere will not be in the snapshot.
        """
        below = _Below(roots)
        used: dict[ChunkId, int] = {}
        enough: set[ChunkId] = set()
        for _, page in pages:
            if page is None:
                continue
            chunks = page.chunks
            for raw in page.raw_entries:
                # Only small files count: large ones have chunks of their own.
                if not raw.digest or not below.holds(raw.path):
                    continue
                wanted = [
                    (chunks[index], length)
                    for index, _, length in raw.extents
                    if 0 <= index < len(chunks) and chunks[index].chunk not in enough
                ]
                # Where nothing has changed, three files out of four need not be looked at.
                if not wanted or not is_still_there(raw):
                    continue
                for ref, length in wanted:
                    count = used[ref.chunk] = used.get(ref.chunk, 0) + length
                    if count * REPACK_PARTS >= ref.plain_bytes:
                        enough.add(ref.chunk)
        return cls(frozenset(used.keys() - enough))

    def is_little(self, entry: Entry) -> bool:
        """Does a small file lie in a chunk that is hardly used?"""
        return bool(self._little and entry.digest) and any(
            extent.ref.chunk in self._little for extent in entry.extents
        )

    def holds_little(self, page: Page) -> bool:
        """Does a page name such a chunk?"""
        return bool(self._little) and any(ref.chunk in self._little for ref in page.chunks)


class _Below:
    """Which paths lie at or below some roots."""

    def __init__(self, roots: Sequence[bytes]) -> None:
        self._exactly = {root.strip(b"/") for root in roots}
        self._everything = b"" in self._exactly
        self._inside = tuple(root + b"/" for root in self._exactly)

    def holds(self, path: bytes) -> bool:
        return self._everything or path.startswith(self._inside) or path in self._exactly
