"""A small last batch is sent while the coordinator is asked for it: what if all of it was stored already?"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import pytest
from blake3 import blake3
from support.coordinator_service import KeyNode

from holdfast.client.link import Link
from holdfast.client.recent_chunks import RecentChunks
from holdfast.client.sealing import PlainId, SealedChunk
from holdfast.client.stripe_batch import encode_batch
from holdfast.client.upload import Uploader
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.errors import Unreachable
from holdfast.protocol.ids import AccountId, ChunkId, ClusterId, NodeId, UploadId
from holdfast.protocol.limits import TICKET_LIFETIME_MS
from holdfast.protocol.messages.cluster import MapNode
from holdfast.protocol.messages.nodes import PutHeader
from holdfast.protocol.messages.uploads import Claimed, CommitChunk, Lease, StoredChunk, UploadOpened
from holdfast.protocol.signing import Signed

CLUSTER, ACCOUNT = ClusterId(bytes(32)), AccountId(bytes(32))
NODES = [KeyNode(number, CLUSTER) for number in (1, 2, 3)]
SEALED = b"sealed long ago, by another session" * 20
CHUNK = SealedChunk(PlainId(bytes(32)), ChunkId(blake3(SEALED).digest()), SEALED, len(SEALED), 1)


class Coordinator:
    """Has every chunk already; counts what it is asked."""

    cluster = CLUSTER

    def __init__(self, source: FixedSource) -> None:
        self.asked: Counter[str] = Counter()
        expires_ms = source.now_ms() + TICKET_LIFETIME_MS
        self.lease = Lease(
            group=1,
            version=1,
            k=1,
            m=2,
            members=[node.id for node in NODES],
            up=[True] * 3,
            ticket=b"",
            expires_ms=expires_ms,
        )

    async def open_upload(self, upload: UploadId, expected_bytes: int) -> UploadOpened:
        return UploadOpened(
            upload=upload, leases=[self.lease], epoch=1, head_seq=0, sweep_generation=0, silence_ms=60_000
        )

    async def renew_upload(self, upload: UploadId, exclude: Sequence[NodeId]) -> UploadOpened:
        self.asked["renew"] += 1
        return await self.open_upload(upload, 0)

    async def claim(self, upload: UploadId, chunks: Sequence[ChunkId]) -> Claimed:
        stripe = encode_batch(self.lease, [CHUNK]).stripes[0].stripe_digest
        return Claimed(stored=[StoredChunk(UploadId(bytes(16)), 1, 2, stripe)], send=[None])

    async def nodes(self, members: Sequence[NodeId], epoch: int) -> dict[NodeId, MapNode]:
        return {node.id: MapNode(node.id, node.public, "http://x", "zone") for node in NODES}

    async def commit(self, upload: UploadId, message: Any) -> Any:
        self.asked["commit"] += 1
        raise AssertionError("there is nothing to commit")

    async def end_upload(self, upload: UploadId) -> None:
        self.asked["end"] += 1


class Calls:
    """Nodes that take what they are sent; but one hangs, or none answers."""

    def __init__(self, lease: Lease, *, hanging: NodeId | None = None, reachable: bool = True) -> None:
        self.lease, self.hanging, self.reachable = lease, hanging, reachable
        self.upload = UploadId(bytes(16))
        self.under_way = 0

    async def put(
        self,
        node: MapNode,
        ticket: bytes,
        header: PutHeader,
        shards: Sequence[bytes | memoryview],
        timeout_s: float,
    ) -> Signed:
        self.under_way += 1
        try:
            if not self.reachable:
                raise Unreachable("nobody is there")
            if node.id == self.hanging:
                await asyncio.Event().wait()
            stripes = [CommitChunk(e.chunk, 1, 1, e.sealed_bytes, e.digests, b"") for e in header.entries]
            giving = next(each for each in NODES if each.id == node.id)
            return giving.receipt(ACCOUNT, self.upload, self.lease, stripes)
        finally:
            self.under_way -= 1


async def uploaded(coordinator: Coordinator, calls: Calls, source: FixedSource) -> Uploader:
    uploader = Uploader(
        cast(Link, cast(Any, coordinator)), source=source, calls=cast(Any, calls), recent=RecentChunks()
    )
    calls.upload = uploader.upload
    async with asyncio.timeout(20):
        async with uploader:
            await uploader.put([CHUNK])
            await uploader.settle()
            assert calls.under_way == 0, "nothing is sent any more that nobody waits for"
    return uploader


@pytest.mark.parametrize("hanging", [None, NODES[1].id], ids=["all take it", "one hangs"])
async def test_it_is_neither_committed_nor_held_nor_sent_on(hanging: NodeId | None) -> None:
    source = FixedSource()
    coordinator = Coordinator(source)
    made = await uploaded(coordinator, Calls(coordinator.lease, hanging=hanging), source)
    assert made.held is None and coordinator.asked == {"end": 1}
    assert made.stats.new_chunks == 0 and made.stats.new_bytes == 0


async def test_nodes_that_do_not_take_it_do_no_harm() -> None:
    """It is stored: a backup must not fail for want of nodes to store it once more."""
    source = FixedSource()
    coordinator = Coordinator(source)
    await uploaded(coordinator, Calls(coordinator.lease, reachable=False), source)
    assert coordinator.asked == {"end": 1}
