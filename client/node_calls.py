"""Calls to storage nodes: one request per node and batch, signed, with the ticket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from holdfast.protocol.codec import decode, encode
from holdfast.protocol.messages.cluster import MapNode
from holdfast.protocol.messages.nodes import PutAnswer, PutHeader, ReadAnswer, ReadHeader
from holdfast.protocol.requests import Signer
from holdfast.protocol.signing import Signed
from holdfast.protocol.stripe_reading import open_read_answer
from holdfast.protocol.transport import Transport, body_digest, frame

__all__ = ["HttpNodeCalls", "NodeCalls"]


class NodeCalls(Protocol):
    """What a client asks of nodes; tests put a fake here."""

    async def put(
        self,
        node: MapNode,
        ticket: bytes,
        header: PutHeader,
        shards: Sequence[bytes | memoryview],
        timeout_s: float,
    ) -> Signed:
        """Store a batch; the receipt, not yet verified."""
        ...

    async def read(
        self, node: MapNode, ticket: bytes, header: ReadHeader, timeout_s: float
    ) -> tuple[ReadAnswer, list[memoryview]]:
        """Read a batch: results, and for each result that is "ok" its shard's bytes, not yet verified."""
        ...


class HttpNodeCalls:
    """The real calls."""

    def __init__(self, transport: Transport, signer: Signer) -> None:
        self._transport = transport
        self._signer = signer

    async def put(
        self,
        node: MapNode,
        ticket: bytes,
        header: PutHeader,
        shards: Sequence[bytes | memoryview],
        timeout_s: float,
    ) -> Signed:
        """PUT /v1/shards."""
        raw = encode(header)
        answer = await self._transport.send(
            "PUT",
            node.url,
            "/v1/shards",
            frame(raw, shards),
            signer=self._signer,
            receiver=node.id,
            digest=body_digest(raw, ticket),
            ticket=ticket,
            timeout_s=timeout_s,
        )
        return decode(answer, PutAnswer).receipt

    async def read(
        self, node: MapNode, ticket: bytes, header: ReadHeader, timeout_s: float
    ) -> tuple[ReadAnswer, list[memoryview]]:
        """POST /v1/shards/read."""
        raw = encode(header)
        body = await self._transport.send(
            "POST",
            node.url,
            "/v1/shards/read",
            [raw],
            signer=self._signer,
            receiver=node.id,
            digest=body_digest(raw, ticket),
            ticket=ticket,
            reads=True,
            timeout_s=timeout_s,
        )
        return open_read_answer(body, len(header.entries))
