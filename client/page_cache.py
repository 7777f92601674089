"""Manifest pages kept on this device, as they are stored: sealed, named by chunk id.

They prove themselves when they are opened, so a damaged cache costs a fetch,
never a wrong answer. Bounded; the longest unused pages go first.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from holdfast.client.limits import CACHE_BYTES_MAX
from holdfast.protocol.ids import ChunkId

__all__ = ["PageCache"]

_TRIM_EVERY_PUTS = 256


class PageCache:
    """A folder of sealed pages. Trouble with it is never an error: it is a cache."""

    def __init__(self, folder: Path, limit_bytes: int = CACHE_BYTES_MAX) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._puts = 0

    def _path(self, chunk: ChunkId) -> Path:
        name = chunk.hex()
        return self._folder / name[:2] / name

    def get(self, chunk: ChunkId) -> bytes | None:
        """The sealed page, or None."""
        try:
            sealed = self._path(chunk).read_bytes()
            os.utime(self._path(chunk))
        except OSError:
            return None
        return sealed

    def put(self, chunk: ChunkId, sealed: bytes | bytearray) -> None:
        """Keep a sealed page."""
        path = self._path(chunk)
        with suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            beside = path.with_suffix(f".{os.getpid()}")
            beside.write_bytes(sealed)
            beside.replace(path)
        self._puts += 1
        if self._puts % _TRIM_EVERY_PUTS == 0:
            self.trim()

    def drop(self, chunk: ChunkId) -> None:
        """Forget a page that turned out to be damaged."""
        with suppress(OSError):
            self._path(chunk).unlink()

    def trim(self) -> None:
        """Remove the longest unused pages beyond the bound."""
        found = []
        for path in self._folder.glob("??/*"):
            with suppress(OSError):
                told = path.stat()
                found.append((told.st_mtime, told.st_size, path))
        size = sum(entry[1] for entry in found)
        for _, length, path in sorted(found):
            if size <= self._limit:
                return
            with suppress(OSError):
                path.unlink()
                size -= length
