"""Calls to real nodes, with a hand in between: what a node or the network does wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import msgspec

from holdfast.client.node_calls import NodeCalls
from holdfast.protocol.codec import decode, encode
from holdfast.protocol.errors import OutcomeUnknown, TicketExpired, Unreachable
from holdfast.protocol.ids import ChunkId, Digest, NodeId, UploadId
from holdfast.protocol.messages.cluster import MapNode
from holdfast.protocol.messages.nodes import PutHeader, ReadAnswer, ReadHeader, ReadResult
from holdfast.protocol.receipts import Receipt
from holdfast.protocol.signing import Signed


class FaultyCalls:
    """NodeCalls with faults.

    Attributes:
        faults: node -> what goes wrong with it.
            put: "refuse", "lost", "hang", "forged", "other-upload", "other-shards", "expired"
            read: "refuse", "hang", "wrong", "short", "header", "absent", "reordered"
        puts, reads: requests made, by node.
    """

    def __init__(self, real: NodeCalls) -> None:
        self._real = real
        self.faults: dict[NodeId, str] = {}
        self.once: dict[NodeId, str] = {}
        self.puts: Counter[NodeId] = Counter()
        self.reads: Counter[NodeId] = Counter()
        self.in_flight_bytes = 0
        self.in_flight_bytes_most = 0

    def _fault(self, node: MapNode) -> str:
        return self.once.pop(node.id, "") or self.faults.get(node.id, "")

    async def put(
        self,
        node: MapNode,
        ticket: bytes,
        header: PutHeader,
        shards: Sequence[bytes | memoryview],
        timeout_s: float,
    ) -> Signed:
        """See NodeCalls.put."""
        self.puts[node.id] += 1
        size = sum(map(len, shards))
        self.in_flight_bytes += size
        self.in_flight_bytes_most = max(self.in_flight_bytes_most, self.in_flight_bytes)
        try:
            return await self._put(node, ticket, header, shards, timeout_s)
        finally:
            self.in_flight_bytes -= size

    async def _put(
        self,
        node: MapNode,
        ticket: bytes,
        header: PutHeader,
        shards: Sequence[bytes | memoryview],
        timeout_s: float,
    ) -> Signed:
        match self._fault(node):
            case "refuse":
                raise Unreachable("refused on purpose")
            case "hang":
                await asyncio.sleep(3600)
            case "lost":
                await self._real.put(node, ticket, header, shards, timeout_s)
                raise OutcomeUnknown("the answer was lost on purpose")
            case "expired":
                raise TicketExpired("expired on purpose")
            case "forged":
                signed = await self._real.put(node, ticket, header, shards, timeout_s)
                return Signed(signed.payload, type(signed.signature)(bytes(64)))
            case "other-upload":
                return await self._changed(node, ticket, header, shards, upload=UploadId(b"x" * 16))
            case "other-shards":
                return await self._changed(node, ticket, header, shards, entries=[])
        return await self._real.put(node, ticket, header, shards, timeout_s)

    async def _changed(
        self,
        node: MapNode,
        ticket: bytes,
        header: PutHeader,
        shards: Sequence[bytes | memoryview],
        **values: object,
    ) -> Signed:
        signed = await self._real.put(node, ticket, header, shards, 10.0)
        receipt = msgspec.structs.replace(decode(signed.payload, Receipt), **values)  # type: ignore[type-var]
        return Signed(encode(receipt), signed.signature)

    async def read(
        self, node: MapNode, ticket: bytes, header: ReadHeader, timeout_s: float
    ) -> tuple[ReadAnswer, list[memoryview]]:
        """See NodeCalls.read."""
        self.reads[node.id] += 1
        fault = self._fault(node)
        if fault == "refuse":
            raise Unreachable("refused on purpose")
        if fault == "hang":
            await asyncio.sleep(3600)
        answer, shards = await self._real.read(node, ticket, header, timeout_s)
        match fault:
            case "wrong":
                shards = [_flipped(shard) for shard in shards]
            case "short":
                shards = [shard[:-1] for shard in shards]
            case "header":
                results = [ReadResult(r.status, b"nonsense", r.shard_bytes) for r in answer.results]
                answer = ReadAnswer(results=results)
            case "absent":
                answer = ReadAnswer(results=[ReadResult("absent", b"", 0) for _ in answer.results])
                shards = []
            case "reordered":
                shards = shards[::-1]
        return answer, shards


def _flipped(shard: memoryview) -> memoryview:
    made = bytearray(shard)
    made[len(made) // 2] ^= 1
    return memoryview(bytes(made))


def unknown_chunk(number: int) -> ChunkId:
    """A chunk that nobody has stored."""
    return ChunkId(Digest(number.to_bytes(32, "big")))
