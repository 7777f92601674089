"""Where sealed chunks go and come from: two small protocols, and a fake of both.

Backup and restore know only these; the uploader and the downloader are the real
ones, :class:`MemoryChunks` is the one tests break on purpose.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from blake3 import blake3

from holdfast.client.sealing import SealedChunk
from holdfast.protocol.errors import HoldfastError, IntegrityFailure, NotFound
from holdfast.protocol.ids import ChunkId

__all__ = ["ChunkSink", "ChunkSource", "MemoryChunks"]


class ChunkSink(Protocol):
    """Takes sealed chunks and makes them durable."""

    async def put(self, batch: Sequence[SealedChunk]) -> None:
        """Take responsibility for a batch; waits while too much is in flight.

        Raises:
            HoldfastError: the upload's first error.
        """
        ...

    async def settle(self) -> None:
        """Return when everything put is acknowledged and committed; raises otherwise."""
        ...


class ChunkSource(Protocol):
    """Gives sealed chunks back."""

    def fetch(
        self, wanted: Sequence[ChunkId]
    ) -> AsyncIterator[tuple[ChunkId, bytes | bytearray | HoldfastError]]:
        """Each wanted id exactly once, in any order: its verified sealed bytes, or why not."""
        ...


class MemoryChunks:
    """Sink and source in memory.

    ``lost`` and ``errors`` decide what a fetch gives; ``fail_puts`` breaks puts.
    """

    def __init__(self) -> None:
        self.stored: dict[ChunkId, bytes] = {}
        self.errors: dict[ChunkId, HoldfastError] = {}
        self.fail_puts: HoldfastError | None = None
        self.put_count = 0

    async def put(self, batch: Sequence[SealedChunk]) -> None:
        """Keep them."""
        if self.fail_puts is not None:
            raise self.fail_puts
        for chunk in batch:
            self.put_count += 1
            self.stored[chunk.chunk_id] = bytes(chunk.sealed)

    async def settle(self) -> None:
        """Nothing is ever in flight."""

    async def fetch(
        self, wanted: Sequence[ChunkId]
    ) -> AsyncIterator[tuple[ChunkId, bytes | bytearray | HoldfastError]]:
        """What is kept, or the injected error."""
        for chunk in dict.fromkeys(wanted):
            if chunk in self.errors:
                yield chunk, self.errors[chunk]
            elif chunk in self.stored and blake3(self.stored[chunk]).digest() != chunk:
                yield chunk, IntegrityFailure(f"chunk {chunk.short} is damaged")
            elif chunk in self.stored:
                yield chunk, self.stored[chunk]
            else:
                yield chunk, NotFound(f"chunk {chunk.short} is not stored")
