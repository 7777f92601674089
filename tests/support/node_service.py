"""A real node service in this process, a coordinator's pen, and people with devices and tickets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.client.node_calls import HttpNodeCalls
from holdfast.node.admission import Admission
from holdfast.node.compacting import Compactor
from holdfast.node.membership import Identity
from holdfast.node.scrubbing import Scrubber
from holdfast.node.service.compacts import CompactHandlers
from holdfast.node.service.door import Door
from holdfast.node.service.inventories import InventoryHandlers
from holdfast.node.service.routes import Handlers, make_routes
from holdfast.node.service.scrubs import ScrubHandlers
from holdfast.node.service.shards import ShardHandlers
from holdfast.node.store_lmdb import LmdbStore
from holdfast.node.writer import Writer
from holdfast.protocol import erasure
from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import Unreachable
from holdfast.protocol.ids import AccountId, ChunkId, ClusterId, NodeId, UploadId
from holdfast.protocol.messages.cluster import MapNode
from holdfast.protocol.messages.nodes import PutEntry, PutHeader, ReadAnswer, ReadEntry, ReadHeader
from holdfast.protocol.profiles import Profile
from holdfast.protocol.receipts import Receipt, open_receipt
from holdfast.protocol.requests import Signer
from holdfast.protocol.serving import ListenAddress, Server
from holdfast.protocol.signing import (
    Signed,
    device_id,
    generate_signing_key,
    key_id,
    node_id,
    public_key,
    sign,
)
from holdfast.protocol.stripes import digest_of
from holdfast.protocol.tickets import NO_UPLOAD, Ticket, Verb
from holdfast.protocol.transport import Buffers, Transport

CLUSTER = ClusterId(b"c" * 32)
COORDINATOR = generate_signing_key(b"coordinator key of the tests, 32")
PROFILE = Profile(4, 2)
UPLOAD = UploadId(b"u" * 16)


@dataclass
class Stripe:
    """A sealed chunk (well: any bytes) and its shards."""

    sealed: bytes

    def __post_init__(self) -> None:
        self.chunk = ChunkId(digest_of(self.sealed))
        self.shards = erasure.encode(PROFILE, self.sealed)
        self.digests = b"".join(digest_of(shard) for shard in self.shards)

    @property
    def entry(self) -> PutEntry:
        return PutEntry(self.chunk, len(self.sealed), self.digests)


def stripes(count: int, size: int = 1000, seed: bytes = b"") -> list[Stripe]:
    return [Stripe((digest_of(seed + b"%d" % i) * (size // 32 + 1))[:size]) for i in range(count)]


async def unsigned(transport: Transport, node: MapNode, method: str, path: str, body: Buffers = ()) -> bytes:
    """A request without a signature."""
    return await transport.send(
        method, node.url, path, body, signer=None, receiver=b"", digest=digest_of(b"")
    )


class Device:
    """Somebody's device, and the tickets that the coordinator gives it."""

    def __init__(
        self,
        node: MapNode,
        transport: Transport,
        name: bytes = b"ada",
        *,
        cluster: ClusterId = CLUSTER,
        coordinator: Ed25519PrivateKey = COORDINATOR,
    ) -> None:
        self.node = node
        self.cluster = cluster
        self.coordinator = coordinator
        self.transport = transport
        self.key: Ed25519PrivateKey = generate_signing_key(name.ljust(32, b"."))
        self.account = AccountId(digest_of(name))
        self.signer = Signer("device", self.account, device_id(public_key(self.key)), self.key, cluster)
        self.calls = HttpNodeCalls(transport, self.signer)

    def ticket(self, kind: Verb, *, pen: Ed25519PrivateKey | None = None, **changed: object) -> bytes:
        """A signed ticket; ``changed`` overrides what is right."""
        members = [self.node.id, *(NodeId(bytes([i]) * NodeId.SIZE) for i in range(1, 6))]
        ticket = Ticket(
            1,
            self.account,
            public_key(self.key),
            kind,
            7,
            3,
            4,
            2,
            members,
            UPLOAD if kind == "write" else NO_UPLOAD,
            100_000_000,
            SYSTEM.now_ms() + 60_000,
            1,
            key_id(public_key(self.coordinator)),
        )
        ticket = msgspec.structs.replace(ticket, **changed)  # type: ignore[type-var]
        payload = encode(ticket)
        return encode(Signed(payload, sign(pen or self.coordinator, "ticket", self.cluster, payload)))

    async def put(
        self,
        batch: Sequence[Stripe],
        *,
        ticket: bytes | None = None,
        header: PutHeader | None = None,
        shards: Sequence[bytes | memoryview] | None = None,
    ) -> Receipt:
        """Put slot 0 of the stripes; gives the verified receipt."""
        signed = await self.calls.put(
            self.node,
            self.ticket("write") if ticket is None else ticket,
            header or PutHeader(slot=0, entries=[stripe.entry for stripe in batch]),
            [stripe.shards[0] for stripe in batch] if shards is None else shards,
            10.0,
        )
        return open_receipt(signed, self.cluster, self.node.key)

    async def read(
        self, batch: Sequence[Stripe], *, slot: int = 0, ticket: bytes | None = None
    ) -> tuple[ReadAnswer, list[memoryview]]:
        """Read one slot of the stripes."""
        entries = [ReadEntry(stripe.chunk, UPLOAD, slot) for stripe in batch]
        wish = self.ticket("read") if ticket is None else ticket
        return await self.calls.read(self.node, wish, ReadHeader(entries=entries), 10.0)


@dataclass
class RunningNode:
    """A node service that listens."""

    service: ShardHandlers
    writer: Writer
    node: MapNode
    port: int


async def nobody_listens(_: object) -> None:
    raise Unreachable("there is no coordinator here")


@asynccontextmanager
async def running_node(
    folder: Path, source: Source = SYSTEM, capacity_bytes: int = 50_000_000
) -> AsyncIterator[RunningNode]:
    """Serve from an LMDB store in a folder."""
    key = generate_signing_key(b"node key of the tests, 32 bytes.")
    own = node_id(public_key(key))
    writer = Writer(lambda: LmdbStore(folder, source=source, capacity_bytes=capacity_bytes))
    identity = Identity(own, CLUSTER, writer.store.id, "127.0.0.1:0", key)
    door = Door(identity, Admission(own, CLUSTER, public_key(COORDINATOR), 1), source)
    service = ShardHandlers(door, writer, running_ms=lambda: 0, source=source, program="test")
    scrubber = Scrubber(writer, service.pool, source, period_s=1e9, tell=nobody_listens)
    service.met_damaged = scrubber.met
    compactor = Compactor(writer, source)
    handlers: list[Handlers] = [
        service,
        ScrubHandlers(door, writer, scrubber),
        InventoryHandlers(door, writer, service.pool),
        CompactHandlers(door, writer, compactor),
    ]
    compacting = asyncio.create_task(compactor.compact_forever())
    server = Server(make_routes(handlers), ListenAddress("127.0.0.1", 0))
    bound = await server.start()
    try:
        yield RunningNode(
            service, writer, MapNode(own, identity.public, f"http://{bound}", "zone"), bound.port
        )
    finally:
        await server.stop()
        compacting.cancel()
        await asyncio.gather(compacting, return_exceptions=True)
        compactor.close()
        service.close()
        await writer.close()
