"""One stripe of 2+1, and a reader's whole world around it: who is slow, away, or lies is up to the test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
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

__all__ = ["CHUNK", "SEALED", "A", "B", "C", "D", "OneChunk"]

PROFILE = Profile(2, 1)
UPLOAD = UploadId(b"u" * 16)
SEALED = bytes(number * number % 251 for number in range(2000))
CHUNK = ChunkId(digest_of(SEALED))
SHARDS = [bytes(shard) for shard in erasure.encode(PROFILE, SEALED)]
HEADER = StripeHeader(PROFILE, len(SEALED), b"".join(map(digest_of, SHARDS)))
A, B, C, D = (NodeId(bytes([number]) * 16) for number in range(1, 5))


class OneChunk:
    """One chunk of 2+1, as a link and as its nodes.

    Args:
        holders: who has each slot.
        liars: who gives zeros, with the right header.
        waits: node -> what it waits for, before each answer; may raise.
        down: who the coordinator says is down.
    """

    def __init__(
        self,
        holders: list[list[NodeId]],
        liars: set[NodeId],
        waits: dict[NodeId, Callable[[], Awaitable[object]]],
        down: Sequence[NodeId] = (),
    ) -> None:
        self.holders, self.liars, self.waits, self.down = holders, liars, waits, list(down)
        self.asked: list[NodeId] = []
        self.answered = {node: asyncio.Event() for slot in holders for node in slot}
        self.reported: list[tuple[int, NodeId, str]] = []

    async def locate(self, chunks: Sequence[ChunkId]) -> Located:
        row = LocatedChunk(1, UPLOAD, len(SEALED), Digest(HEADER.stripe_digest), [])
        group = LocatedGroup(group=1, version=1, k=2, m=1, holders=self.holders, ticket=b"t", expires_ms=0)
        return Located(chunks=[row for _ in chunks], groups=[group], down=self.down, epoch=1)

    async def nodes(self, wanted: Sequence[NodeId], epoch: int) -> dict[NodeId, MapNode]:
        return {node: MapNode(node, PublicKey(b"k" * 32), f"http://{node.short}", "") for node in wanted}

    async def all_nodes(self) -> dict[NodeId, MapNode]:
        return await self.nodes([A, B, C, D], 0)

    async def report(self, entries: Sequence[ReportEntry]) -> None:
        self.reported.extend((entry.slot, entry.node, entry.kind) for entry in entries)

    async def read(
        self, node: MapNode, ticket: bytes, header: ReadHeader, timeout_s: float
    ) -> tuple[ReadAnswer, list[memoryview]]:
        self.asked.append(node.id)
        if node.id in self.waits:
            await self.waits[node.id]()
        (entry,) = header.entries
        shard = SHARDS[entry.slot]
        record = ShardRecord(AccountId(b"a" * 32), CHUNK, UPLOAD, 1, entry.slot, HEADER).pack()
        self.answered[node.id].set()
        given = bytes(len(shard)) if node.id in self.liars else shard
        return ReadAnswer(results=[ReadResult("ok", record, len(given))]), [memoryview(given)]

    def downloader(self, awaited: AwaitedNodes | None = None) -> Downloader:
        return Downloader(cast(Link, self), calls=cast(Any, self), awaited=awaited)

    async def fetch(self, downloader: Downloader | None = None) -> object:
        """What the chunk comes back as: its sealed bytes, or an error."""
        downloader = downloader or self.downloader()
        async with asyncio.timeout(20):
            ((_, sealed),) = [found async for found in downloader.fetch([CHUNK])]
        return sealed
