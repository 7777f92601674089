"""Which chunks a client stored lately: what it may meet again, it asks for before it sends it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from holdfast.client.limits import RECENT_CHUNKS_MAX
from holdfast.protocol.ids import ChunkId

__all__ = ["RecentChunks"]


class RecentChunks:
    """Bounded, the oldest forgotten."""

    def __init__(self) -> None:
        self._chunks: OrderedDict[ChunkId, None] = OrderedDict()

    def add(self, chunks: Iterable[ChunkId]) -> None:
        """These are stored."""
        for chunk in chunks:
            self._chunks[chunk] = None
            self._chunks.move_to_end(chunk)
        while len(self._chunks) > RECENT_CHUNKS_MAX:
            self._chunks.popitem(last=False)

    def has_any(self, chunks: Iterable[ChunkId]) -> bool:
        """Is one of them remembered?"""
        return any(chunk in self._chunks for chunk in chunks)
