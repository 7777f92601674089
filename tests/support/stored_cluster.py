"""A coordinator and real stores behind real node services, all in this process, on a clock that tests set.

No background task runs by itself: a test says which turn comes next, so that two things happen in just
the order it is about.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from holdfast.coordinator.catalogue import erasures
from holdfast.coordinator.catalogue.schema import chunks as chunk_rows
from holdfast.coordinator.catalogue.schema import missing
from holdfast.coordinator.erasing import send_orders
from holdfast.coordinator.reconciling import keep_reconciled
from holdfast.coordinator.repairing import keep_whole
from holdfast.node.admission import Admission
from holdfast.node.membership import Identity
from holdfast.node.rebuilding import Rebuilder
from holdfast.node.reigning import Reigning
from holdfast.node.service.door import Door
from holdfast.node.service.inventories import InventoryHandlers
from holdfast.node.service.rebuilds import RebuildHandlers
from holdfast.node.service.routes import make_routes
from holdfast.node.service.shards import ShardHandlers
from holdfast.node.service.witness import WitnessHandlers
from holdfast.node.store import Absent, Put, ShardKey
from holdfast.node.store_lmdb import LmdbStore
from holdfast.node.store_lmdb_heads import HeadStore
from holdfast.node.witnessing import Witnessing
from holdfast.node.writer import Writer
from holdfast.protocol import erasure
from holdfast.protocol.ids import ChunkId, NodeId, StoreId, UploadId
from holdfast.protocol.messages.uploads import CommitChunk, Committed, Lease
from holdfast.protocol.profiles import Profile
from holdfast.protocol.serving import ListenAddress, Server
from holdfast.protocol.stripes import ShardRecord, StripeHeader, digest_of
from support.coordinator_service import HandClock, KeyNode, Office, Person, office, upload_id

CAPACITY_BYTES = 200_000_000
END = b"\xff" * 90


def sealed(number: int, size: int = 600) -> bytes:
    """The bytes of a chunk that follow from its number."""
    return (digest_of(b"chunk of a stored cluster %d" % number) * (size // 32 + 1))[:size]


@dataclass
class Stored:
    """A node with a store."""

    key_node: KeyNode
    folder: Path
    office: Office
    writer: Writer = field(init=False)
    url: str = ""
    starts: int = 0
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    is_running: bool = False

    @property
    def id(self) -> NodeId:
        return self.key_node.id

    @property
    def store(self) -> Any:
        return self.writer.store

    async def start(self) -> None:
        """Open the store and serve."""
        running, key_node = self.office, self.key_node
        self.writer = Writer(
            lambda: LmdbStore(self.folder, source=running.clock, capacity_bytes=CAPACITY_BYTES)
        )
        identity = Identity(key_node.id, running.cluster, self.store.id, "127.0.0.1:0", key_node.key)
        admission = Admission(key_node.id, running.cluster, running.coordinator, 1)
        door = Door(identity, admission, running.clock)
        service = ShardHandlers(
            door, self.writer, running_ms=self.running_ms, source=running.clock, program="test"
        )
        rebuilder = Rebuilder(identity, self.writer, running.transport, service.pool)
        beside = self.folder.with_name(f"{self.folder.name}-heads")
        heads = HeadStore(beside)
        reigning = Reigning(beside, None, admission, self.raise_term)
        witness = WitnessHandlers(door, Witnessing(identity, heads), reigning, running.clock)
        handlers = [
            service,
            witness,
            RebuildHandlers(door, self.writer, rebuilder),
            InventoryHandlers(door, self.writer, service.pool),
        ]
        server = Server(make_routes(handlers), ListenAddress("127.0.0.1", 0))
        self.url = f"http://{await server.start()}"
        self.starts += 1
        self.is_running = True

        async def stop() -> None:
            self.is_running = False
            await server.stop()
            service.close()
            witness.close()
            heads.close()
            await self.writer.close()

        self.stack.push_async_callback(stop)

    async def stop(self) -> None:
        """Let go of the store."""
        await self.stack.aclose()

    async def raise_term(self, term: int) -> None:
        """Keep a higher term."""
        await self.writer.run(lambda store: store.raise_term(term))

    def running_ms(self) -> int:
        return int(1000 * self.office.clock.monotonic())

    async def beat(self, **changed: Any) -> None:
        """Report as a node does."""
        stats = self.store.stats()
        values: dict[str, Any] = {
            "url": self.url,
            "store": self.store.id,
            "store_counter": stats.counter,
            "shards": stats.shards,
            "order": stats.order,
            "pulse": self.store.pulse(),
            "start": digest_of(b"%d of %d" % (self.starts, self.key_node.number))[:16],
        }
        await self.office.beat(self.key_node, **{**values, **changed})

    async def hear(self) -> None:
        """Keep the pulse that the coordinator tells now."""
        pulse = self.office.desk.reconciling.pulse or 0
        await self.writer.run(lambda store: store.raise_pulse(pulse))

    def held(self, *, with_marked: bool = False) -> list[ShardKey]:
        """What lies in the store."""
        found: list[ShardKey] = self.store.scan(b"", END, 100_000)
        if with_marked:
            return found
        unmarked, _ = self.store.unmarked(b"", END, 100_000)
        return [ShardKey.unpack(key) for key in unmarked]

    async def erase(self, keys: Sequence[ShardKey]) -> None:
        """Lose shards, as if they had never been stored."""
        number = self.store.stats().order

        def work(store: Any) -> None:
            with store._writing() as (txn, totals):
                for key in keys:
                    store._remove(txn, totals, key.pack())

        await self.writer.run(work)
        assert self.store.stats().order == number

    async def erase_due(self) -> int:
        """What the node's housekeeping does."""
        erased: int = await self.writer.run(lambda store: store.erase_due(self.running_ms(), 100_000))
        return erased


@dataclass
class StoredCluster:
    """A coordinator, its nodes, somebody with an account."""

    office: Office
    folder: Path
    nodes: list[Stored]
    person: Person

    @property
    def desk(self) -> Any:
        return self.office.desk

    def node(self, node: NodeId) -> Stored:
        (found,) = [one for one in self.nodes if one.id == node]
        return found

    async def beat(self) -> None:
        """All nodes that run report."""
        for node in self.nodes:
            if node.is_running:
                await node.beat()

    async def advance(self, seconds: float) -> None:
        """Time goes by, and everybody reports."""
        self.office.clock.advance(seconds)
        await self.beat()

    async def open(self, upload: UploadId) -> Lease:
        """Begin a backup; gives its first lease."""
        return (await self.office.open(self.person, upload)).leases[0]

    def puts(self, lease: Lease, upload: UploadId, number: int, slot: int) -> Put:
        """One shard as a client would send it."""
        shards, header = stripe(lease, number)
        chunk = chunk_of(number)
        record = ShardRecord(self.person.account, chunk, upload, lease.group, slot, header)
        return Put(record, bytes(shards[slot]))

    async def put(
        self, lease: Lease, upload: UploadId, numbers: Sequence[int], slots: Sequence[int] | None = None
    ) -> None:
        """Store shards of chunks on the nodes of a group."""
        for slot, member in enumerate(lease.members):
            if slots is None or slot in slots:
                batch = [self.puts(lease, upload, number, slot) for number in numbers]
                await self.node(member).writer.put(batch)

    async def commit(
        self,
        lease: Lease,
        upload: UploadId,
        numbers: Sequence[int],
        slots: Sequence[int] | None = None,
        replaces: bytes = b"",
    ) -> Committed:
        """Commit chunks with the receipts of some slots."""
        stripes = []
        for number in numbers:
            _, header = stripe(lease, number)
            stripes.append(
                CommitChunk(
                    chunk_of(number),
                    lease.group,
                    lease.version,
                    header.sealed_bytes,
                    header.digests,
                    replaces,
                )
            )
        receipts = [
            self.node(member).key_node.receipt(self.person.account, upload, lease, stripes)
            for slot, member in enumerate(lease.members)
            if slots is None or slot in slots
        ]
        return await self.office.commit(self.person, upload, stripes, receipts)

    async def backup(self, numbers: Sequence[int], *, end: bool = True) -> tuple[Lease, UploadId]:
        """Chunks stored and committed, whole, as one upload."""
        upload = upload_id()
        lease = await self.open(upload)
        await self.put(lease, upload, numbers)
        await self.commit(lease, upload, numbers)
        if end:
            await self.office.end(self.person, upload)
        await self.beat()
        return lease, upload

    # What the coordinator does by itself, turn by turn

    async def reconcile(self, turns: int = 30) -> None:
        """Compare whoever is due, until nobody is."""
        for _ in range(turns):
            if await keep_reconciled(self.desk) is None:
                return
        raise AssertionError("comparing does not come to an end")

    async def compare_all(self) -> None:
        """Everybody is due."""
        for known in self.desk.reconciling.compared.values():
            known.due_s = self.office.clock.monotonic()
        await self.reconcile()

    async def send_orders(self) -> None:
        for _ in range(20):
            if await send_orders(self.desk) is None:
                return
        raise AssertionError("orders do not come to an end")

    async def repair(self, turns: int = 60) -> None:
        """Until nothing is missing that can be brought back."""
        for _ in range(turns):
            self.desk.repairs.rest.clear()
            await keep_whole(self.desk)
            if not self.missing() and not self.desk.live.moves:
                return
        raise AssertionError(f"repair does not come to an end: {self.missing()} {self.desk.live.moves}")

    # What the catalogue says

    def missing(self) -> list[tuple[ChunkId, int, str]]:
        """(chunk, slot, why) of what is noted as missing."""
        rows = self.desk.catalogue.read_now(lambda c: list(c.execute(select(missing))))
        return [(ChunkId(row.chunk), row.slot, row.why) for row in rows]

    def rows(self) -> dict[ChunkId, Any]:
        """Chunks there are."""
        rows = self.desk.catalogue.read_now(lambda c: list(c.execute(select(chunk_rows))))
        return {ChunkId(row.id): row for row in rows}

    def to_erase(self) -> int:
        """Shards that nodes are to be told to erase."""
        count: int = self.desk.catalogue.read_now(erasures.count_erasures)
        return count

    def is_unreconciled(self) -> bool:
        """Is the catalogue known to be old?"""
        told: bool = self.desk.catalogue.read_now(erasures.is_unreconciled)
        return told

    def readable(self, number: int) -> int:
        """Slots of a chunk's row whose holder really has the shard, whole."""
        row = self.rows()[chunk_of(number)]
        group = self.desk.live.groups[row.group_id]
        found = 0
        for slot, member in enumerate(group.members):
            node = self.node(member)
            key = ShardKey(group.id, slot, self.person.account, ChunkId(row.id), UploadId(row.generation))
            if node.is_running and not isinstance(node.store.read([key])[0], Absent):
                found += 1
        return found

    def readable_anywhere(self, number: int) -> int:
        """Slots of a chunk's row that some node has, whoever that is."""
        row = self.rows()[chunk_of(number)]
        account, chunk, generation = self.person.account, ChunkId(row.id), UploadId(row.generation)
        keys = [ShardKey(row.group_id, slot, account, chunk, generation) for slot in range(6)]
        return len(set().union(*(_slots_on(node, keys) for node in self.nodes)))


def _slots_on(node: Stored, key_of_slot: Sequence[ShardKey]) -> set[int]:
    found = node.store.read(list(key_of_slot))
    return {key.slot for key, one in zip(key_of_slot, found, strict=True) if not isinstance(one, Absent)}


def chunk_of(number: int) -> ChunkId:
    """The id of a numbered chunk."""
    return ChunkId(digest_of(sealed(number)))


def stripe(lease: Lease, number: int) -> tuple[Sequence[bytes | memoryview], StripeHeader]:
    """The shards of a numbered chunk, and their header."""
    profile, content = Profile(lease.k, lease.m), sealed(number)
    shards = erasure.encode(profile, content)
    return shards, StripeHeader(profile, len(content), b"".join(digest_of(shard) for shard in shards))


@asynccontextmanager
async def stored_cluster(
    folder: Path, count: int = 6, clock: HandClock | None = None
) -> AsyncIterator[StoredCluster]:
    """Entered again on the same folder with the same count it is a restart of everything."""
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(office(folder / "coordinator", clock))
        nodes = []
        for number in range(1, count + 1):
            key_node = KeyNode(number, running.cluster, f"zone-{number}")
            node = Stored(key_node, folder / f"node-{number}", running)
            await node.start()
            stack.push_async_callback(node.stop)
            nodes.append(node)
            if node.id not in running.desk.live.nodes:
                token = running.token("node")
                await running.join(key_node, token, url=node.url, store=StoreId(node.store.id))
            await node.beat()
        made = StoredCluster(running, folder, nodes, Person("ada", running.cluster))
        if not running.desk.catalogue.read_now(lambda c: list(c.exec_driver_sql("SELECT id FROM accounts"))):
            await running.register(made.person, running.token("invite"))
        yield made


def copy_catalogue(folder: Path, target: Path) -> None:
    """What somebody does who copies the coordinator's folder, or puts the copy back (while nobody serves)."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
