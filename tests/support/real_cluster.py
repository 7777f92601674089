"""A coordinator and real nodes with LMDB stores, all in this process, on one clock that tests set.

Nothing happens by itself: a test has nodes report, and runs turns of the coordinator's background work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from holdfast.client.node_calls import HttpNodeCalls
from holdfast.coordinator.auditing import audit
from holdfast.coordinator.catalogue.schema import chunks, missing
from holdfast.coordinator.health import HealthSettings
from holdfast.coordinator.keeping_membership import keep_membership
from holdfast.coordinator.repairing import keep_whole
from holdfast.coordinator.service.stripes import account_verdict
from holdfast.node.admission import Admission
from holdfast.node.membership import Identity
from holdfast.node.rebuilding import Rebuilder
from holdfast.node.service.audits import AuditHandlers
from holdfast.node.service.door import Door
from holdfast.node.service.inventories import InventoryHandlers
from holdfast.node.service.rebuilds import RebuildHandlers
from holdfast.node.service.routes import make_routes
from holdfast.node.service.shards import ShardHandlers
from holdfast.node.store import Found, Put, ReadOutcome, ShardKey
from holdfast.node.store_lmdb import LmdbStore
from holdfast.node.writer import Writer
from holdfast.protocol import erasure
from holdfast.protocol.errors import Unreachable
from holdfast.protocol.ids import ChunkId, NodeId, UploadId
from holdfast.protocol.messages.cluster import MapNode
from holdfast.protocol.messages.nodes import PutEntry, PutHeader
from holdfast.protocol.messages.uploads import CommitChunk, Lease
from holdfast.protocol.profiles import Profile
from holdfast.protocol.serving import ListenAddress, Server
from holdfast.protocol.stripes import digest_of
from support.coordinator_service import HandClock, KeyNode, Office, Person, office, upload_id

HEALTH = HealthSettings(heartbeat_ms=1000, suspect_after_s=5, down_after_s=10, lost_after_s=60)


class TestedStore:
    """A real store whose answers to reads a test may bend."""

    __test__ = False

    def __init__(self, store: LmdbStore) -> None:
        self._store = store
        self.bend: Callable[[ShardKey, ReadOutcome], ReadOutcome] | None = None
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, keys: Sequence[ShardKey]) -> list[ReadOutcome]:
        self.reads += len(keys)
        outcomes = self._store.read(keys)
        bend = self.bend
        return outcomes if bend is None else [bend(*pair) for pair in zip(keys, outcomes, strict=True)]


def lie(_: ShardKey, outcome: ReadOutcome) -> ReadOutcome:
    """The record as it should be, and beside it other bytes than it names."""
    if not isinstance(outcome, Found):
        return outcome
    return Found(outcome.header, bytes(byte ^ 0x5A for byte in outcome.shard))


@dataclass
class RealNode(KeyNode):
    """A node with a store and a server. ``is_up``: does it report, and answer?"""

    folder: Path = Path()
    writer: Writer = None  # type: ignore[assignment]
    store_view: TestedStore = None  # type: ignore[assignment]
    bound: str = ""
    is_up: bool = True
    beats: int = 0
    _ending: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def url(self) -> str:
        return f"http://{self.bound}"

    @property
    def store(self) -> Any:
        return self.writer.store.id

    async def start(self, running: Office) -> None:
        """Serve from the folder."""

        def opened() -> Any:
            self.store_view = TestedStore(
                LmdbStore(self.folder, source=running.clock, capacity_bytes=200_000_000)
            )
            return self.store_view

        self.writer = Writer(opened)
        identity = Identity(self.id, self.cluster, self.writer.store.id, "127.0.0.1:0", self.key)
        door = Door(identity, Admission(self.id, self.cluster, running.coordinator, 1), running.clock)
        service = ShardHandlers(door, self.writer, running_ms=lambda: 0, source=running.clock, program="test")
        rebuilder = Rebuilder(identity, self.writer, running.transport, service.pool)
        handlers = [
            service,
            RebuildHandlers(door, self.writer, rebuilder),
            AuditHandlers(door, self.writer, service.pool, lambda keys: None),
            InventoryHandlers(door, self.writer, service.pool),
        ]
        server = Server(
            make_routes(handlers),
            ListenAddress.parse(self.bound) if self.bound else ListenAddress("127.0.0.1", 0),
        )
        self.bound = str(await server.start())
        self.is_up = True

        async def end() -> None:
            await server.stop()
            service.close()
            await self.writer.close()

        self._ending.push_async_callback(end)

    async def stop(self) -> None:
        """As if the machine were gone."""
        self.is_up = False
        await self._ending.aclose()

    def report(self) -> dict[str, Any]:
        """What its heartbeat says."""
        stats = self.writer.store.stats()
        return {
            "used_bytes": stats.used_bytes,
            "free_bytes": 200_000_000 - stats.used_bytes,
            "capacity_bytes": 200_000_000,
            "shards": stats.shards,
            "store_counter": stats.counter,
        }

    def held(self) -> list[ShardKey]:
        """Every shard it has."""
        return self.writer.store.scan(b"", b"\xff" * 90, 100_000)


@dataclass
class RealCluster:
    """The office, its nodes, and one person with stripes."""

    office: Office
    folder: Path
    nodes: list[RealNode]
    person: Person

    @property
    def desk(self) -> Any:
        return self.office.desk

    def node(self, node: NodeId) -> RealNode:
        (found,) = [each for each in self.nodes if each.id == node]
        return found

    async def add_node(self, zone: str = "zone") -> RealNode:
        """One more, joined and up."""
        number = len(self.nodes) + 1
        made = RealNode(number, self.office.cluster, zone, folder=self.folder / f"node-{number}")
        made.folder.mkdir()
        await made.start(self.office)
        self.nodes.append(made)
        await self.office.join(made, self.office.token("node"), capacity_bytes=200_000_000)
        await self.beat()
        return made

    async def beat(self) -> None:
        """Everybody who is up reports."""
        for node in self.nodes:
            if node.is_up:
                await self.office.beat(node, **node.report())

    async def pass_time(self, seconds: float) -> None:
        """Time goes by, a heartbeat a second."""
        for _ in range(int(seconds)):
            self.office.clock.advance(1)
            await self.beat()

    async def store(
        self, contents: Sequence[bytes], *, without: Sequence[NodeId] = (), place: int = 0
    ) -> UploadId:
        """Put stripes on the nodes and commit them, as a client does; ``place``: into which group leased."""
        running, person, upload = self.office, self.person, upload_id()
        opened = await running.open(person, upload, exclude=list(without))
        lease = sorted(opened.leases, key=lambda lease: lease.group)[place]
        wanted = [ChunkId(digest_of(content)) for content in contents]
        await running.claim(person, upload, wanted)
        stripes, receipts = await self._put(lease, contents)
        await running.commit(person, upload, stripes, receipts)
        await running.end(person, upload)
        return upload

    async def _put(self, lease: Lease, contents: Sequence[bytes]) -> tuple[list[CommitChunk], list[Any]]:
        profile = Profile(lease.k, lease.m)
        shards = [erasure.encode(profile, content) for content in contents]
        digests = [b"".join(digest_of(shard) for shard in each) for each in shards]
        ids = [ChunkId(digest_of(content)) for content in contents]
        calls = HttpNodeCalls(self.office.transport, self.person.signer())
        receipts = []
        for slot, member in enumerate(lease.members):
            node = self.node(member)
            header = PutHeader(
                slot=slot,
                entries=[
                    PutEntry(chunk, len(content), digest)
                    for chunk, content, digest in zip(ids, contents, digests, strict=True)
                ],
            )
            listed = MapNode(node.id, node.public, node.url, node.zone)
            try:
                receipts.append(
                    await calls.put(listed, lease.ticket, header, [each[slot] for each in shards], 10.0)
                )
            except Unreachable:
                continue
        stripes = [
            CommitChunk(chunk, lease.group, lease.version, len(content), digest, b"")
            for chunk, content, digest in zip(ids, contents, digests, strict=True)
        ]
        return stripes, receipts

    # What the coordinator does

    async def audit(self, stripes: int = 20) -> Any:
        return await audit(self.desk, stripes)

    async def keep(self, turns: int = 30) -> None:
        """Turns of membership and repair, with heartbeats, until there is nothing to do."""
        for _ in range(turns):
            self.office.clock.advance(1)
            await self.beat()
            await keep_membership(self.desk)
            await keep_whole(self.desk)
            if not self.desk.live.moves and not self.missing() and not self.desk.repairs.waiting:
                return

    # What the catalogue says

    def missing(self) -> list[tuple[bytes, int, int, str]]:
        """(chunk, group, slot, why) of every missing row."""
        found = self.desk.catalogue.read_now(lambda c: list(c.execute(select(missing))))
        return [(row.chunk, row.group_id, row.slot, row.why) for row in found]

    def rows(self) -> list[Any]:
        """Every chunk's row."""
        return self.desk.catalogue.read_now(lambda c: list(c.execute(select(chunks))))

    def standing(self, node: NodeId) -> str:
        return str(self.desk.live.nodes[node].state)

    async def spare(self) -> dict[str, int]:
        """Stripes by spare shards, those that there are."""
        told = await account_verdict(self.desk, None)
        return {spare: count for spare, count in told.stripes.by_spare.items() if count}

    async def forge(self, node: RealNode, puts: Sequence[Put]) -> None:
        """Have shards in a node's store without anybody's leave."""
        await node.writer.put(list(puts))


def contents(count: int, size: int = 5000, seed: bytes = b"") -> list[bytes]:
    """So many different sealed chunks (well: any bytes)."""
    return [(digest_of(seed + b"%d" % number) * (size // 32 + 1))[:size] for number in range(count)]


@asynccontextmanager
async def real_cluster(
    folder: Path, count: int, *, zones: int = 1, health: HealthSettings = HEALTH
) -> AsyncIterator[RealCluster]:
    """So many nodes, up, and a person without stripes."""
    clock = HandClock()
    async with office(folder / "coordinator", clock, health=health) as running:
        made = RealCluster(running, folder, [], await running.person("ada"))
        try:
            for number in range(count):
                await made.add_node(f"zone-{number % zones}")
            yield made
        finally:
            for node in made.nodes:
                if node.is_up:
                    await node.stop()
