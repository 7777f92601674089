"""Two stripes of 2+1, and a reader's whole world around them: who is slow, away, lies is up to the test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, cast

from holdfast.client.awaited_nodes import AwaitedNodes
from holdfast.client.download import Downloader
from holdfast.client.link import Link
from holdfast.protocol import erasure
from holdfast.protocol.ids import AccountId, ChunkId, Digest, NodeId, PublicKey, UploadId
from holdfast.protocol.messages.cluster import MapNode
from holdfast.protocol.messages.nodes import ReadAnswer, ReadHeader, ReadResult
from holdfast.protocol.messages.uploads import Located, LocatedChunk, LocatedGroup, ReportEntry
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripes import ShardRecord, StripeHeader, digest_of

__all__ = ["FIRST", "SEALED", "SECOND", "A", "B", "C", "D", "FewChunks"]

PROFILE = Profile(2, 1)
UPLOAD = UploadId(b"u" * 16)
A, B, C, D = (NodeId(bytes([number]) * 16) for number in range(1, 5))


class _Chunk:
    """One of them, with all that belongs to it."""

    def __init__(self, factor: int) -> None:
        self.sealed = bytes(factor * number * number % 251 for number in range(2000))
        self.id = ChunkId(digest_of(self.sealed))
        self.shards = [bytes(shard) for shard in erasure.encode(PROFILE, self.sealed)]
        self.header = StripeHeader(PROFILE, len(self.sealed), b"".join(map(digest_of, self.shards)))

    def row(self) -> LocatedChunk:
        return LocatedChunk(1, UPLOAD, len(self.sealed), Digest(self.header.stripe_digest), [])

    def record(self, slot: int) -> bytes:
        return ShardRecord(AccountId(b"a" * 32), self.id, UPLOAD, 1, slot, self.header).pack()


_CHUNKS = [_Chunk(1), _Chunk(3)]
_BY_ID = {chunk.id: chunk for chunk in _CHUNKS}
FIRST, SECOND = (chunk.id for chunk in _CHUNKS)
SEALED = {chunk.id: chunk.sealed for chunk in _CHUNKS}


class FewChunks:
    """Both a link and the nodes behind it.

    Args:
        holders: who has each slot.
        waits: node -> what it waits for, before each answer; may raise.
        lies: who gives zeros for which chunks, with the right header.
        lacks: who does not have its shard of which chunks.
        down: who the coordinator says is down.
    """

    def __init__(
        self,
        holders: list[list[NodeId]],
        waits: dict[NodeId, Callable[[], Awaitable[object]]],
        *,
        lies: Collection[tuple[NodeId, ChunkId]] = (),
        lacks: Collection[tuple[NodeId, ChunkId]] = (),
        down: Sequence[NodeId] = (),
    ) -> None:
        self.holders, self.waits, self.lies, self.lacks, self.down = holders, waits, lies, lacks, list(down)
        self.asked: list[NodeId] = []
        self.answered = {node: asyncio.Event() for slot in holders for node in slot}
        self.reported: list[tuple[int, NodeId, str]] = []

    # As a link

    async def locate(self, chunks: Sequence[ChunkId]) -> Located:
        rows = [_BY_ID[chunk].row() for chunk in chunks]
        group = LocatedGroup(group=1, version=1, k=2, m=1, holders=self.holders, ticket=b"t", expires_ms=0)
        return Located(chunks=list(rows), groups=[group], down=self.down, epoch=1)

    async def nodes(self, wanted: Sequence[NodeId], epoch: int) -> dict[NodeId, MapNode]:
        return {node: MapNode(node, PublicKey(b"k" * 32), f"http://{node.short}", "") for node in wanted}

    async def all_nodes(self) -> dict[NodeId, MapNode]:
        return await self.nodes([A, B, C, D], 0)

    async def report(self, entries: Sequence[ReportEntry]) -> None:
        self.reported.extend((entry.slot, entry.node, entry.kind) for entry in entries)

    # As nodes

    async def read(
        self, node: MapNode, ticket: bytes, header: ReadHeader, timeout_s: float
    ) -> tuple[ReadAnswer, list[memoryview]]:
        self.asked.append(node.id)
        if node.id in self.waits:
            await self.waits[node.id]()
        results, shards = [], []
        for entry in header.entries:
            if (node.id, entry.chunk) in self.lacks:
                results.append(ReadResult("absent", b"", 0))
                continue
            chunk = _BY_ID[entry.chunk]
            shard = chunk.shards[entry.slot]
            given = bytes(len(shard)) if (node.id, entry.chunk) in self.lies else shard
            results.append(ReadResult("ok", chunk.record(entry.slot), len(given)))
            shards.append(memoryview(given))
        self.answered[node.id].set()
        return ReadAnswer(results=results), shards

    # Reading

    def downloader(self, awaited: AwaitedNodes | None = None) -> Downloader:
        return Downloader(cast(Link, self), calls=cast(Any, self), awaited=awaited)

    async def fetch(self, downloader: Downloader | None = None, *wanted: ChunkId) -> dict[ChunkId, object]:
        """What chunks, by default the first, come back as: their sealed bytes, or an error."""
        downloader, found = downloader or self.downloader(), {}
        async with asyncio.timeout(20):
            async for chunk, sealed in downloader.fetch(wanted or (FIRST,)):
                assert chunk not in found
                found[chunk] = sealed
        return found

    async def fetch_first(self, downloader: Downloader | None = None) -> object:
        return (await self.fetch(downloader))[FIRST]
