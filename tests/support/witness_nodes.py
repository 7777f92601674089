"""Nodes that keep heads and nothing else, served in this process; and how they join a coordinator's desk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from holdfast.coordinator.catalogue.nodes import NodeRow, add_token, join_node
from holdfast.coordinator.live import Beat
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.telling import tell_nodes
from holdfast.node.admission import Admission
from holdfast.node.membership import Identity
from holdfast.node.reigning import KnownReign, Reigning, known_reign
from holdfast.node.service.door import Door
from holdfast.node.service.routes import make_routes
from holdfast.node.service.witness import WitnessHandlers
from holdfast.node.store_lmdb_heads import HeadStore
from holdfast.node.witnessing import Witnessing
from holdfast.protocol.clock import Source
from holdfast.protocol.ids import ClusterId, NodeId, StoreId
from holdfast.protocol.serving import ListenAddress, Server
from holdfast.protocol.signing import generate_signing_key, node_id, public_key
from support.coordinator_service import KeyNode

__all__ = ["WitnessNode", "joined_nodes"]


async def no_store(term: int) -> None:
    """There is no shard store here that could keep a term."""


@dataclass
class WitnessNode:
    """One node; it keeps its folder and its port when it is stopped and started again."""

    number: int
    cluster: ClusterId
    folder: Path
    source: Source
    zone: str = "zone"
    port: int = 0
    store: HeadStore | None = None
    reigning: Reigning | None = None
    moved: list[KnownReign] = field(default_factory=list)
    _server: Server | None = None
    _handlers: WitnessHandlers | None = None

    @property
    def key(self) -> Ed25519PrivateKey:
        return generate_signing_key(bytes([100 + self.number]) * 32)

    @property
    def id(self) -> NodeId:
        return node_id(public_key(self.key))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_up(self) -> bool:
        return self._server is not None

    async def start(self) -> None:
        """Serve; what was kept is there."""
        identity = Identity(
            self.id, self.cluster, StoreId(bytes([self.number]) * 16), "127.0.0.1:0", self.key
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        known = known_reign(self.folder, self.cluster)
        term = known.charter.term if known is not None else 0
        admission = Admission(
            self.id, self.cluster, known.charter.coordinator if known is not None else None, term
        )
        self.reigning = Reigning(self.folder, known, admission, no_store)
        self.reigning.moved = self.moved.append
        self.store = HeadStore(self.folder / "heads")
        door = Door(identity, admission, self.source)
        self._handlers = WitnessHandlers(door, Witnessing(identity, self.store), self.reigning, self.source)
        self._server = Server(make_routes([self._handlers]), ListenAddress("127.0.0.1", self.port))
        self.port = (await self._server.start()).port

    async def stop(self) -> None:
        """Nobody answers at this port any more."""
        if self._server is not None:
            assert self._handlers is not None and self.store is not None
            await self._server.stop()
            self._handlers.close()
            self.store.close()
            self._server = None


@asynccontextmanager
async def joined_nodes(
    desk: Desk, cluster: ClusterId, folder: Path, source: Source, zones: Sequence[str]
) -> AsyncIterator[list[WitnessNode]]:
    """A node in each of these zones, up and in the cluster; at the end whatever still asks them ends, too."""
    made = [
        WitnessNode(number, cluster, folder / f"node-{number}", source, zone)
        for number, zone in enumerate(zones, 1)
    ]
    for node in made:
        await node.start()
    await _join_all(desk, made)
    yield made
    for node in made:
        await node.stop()
    await asyncio.gather(*desk.witnessing.tasks, return_exceptions=True)


async def _join_all(desk: Desk, nodes: list[WitnessNode]) -> None:
    """Make them nodes of the cluster that are up, and tell them who reigns."""
    for node in nodes:
        row = NodeRow(
            node.id, public_key(node.key), node.url, node.zone, 10**9, StoreId(bytes([node.number]) * 16)
        )
        token, now_ms = bytes([node.number]) * 32, desk.source.now_ms()
        desk.catalogue.write_now(
            lambda c, t=token, r=row: (  # type: ignore[misc]
                add_token(c, t, "node", now_ms + 60_000, 0),  # noqa: B023
                join_node(c, t, r, now_ms),  # noqa: B023
            )
        )
    await desk.live.refresh(desk.catalogue)
    beat(desk, nodes)
    await tell_nodes(desk, 60.0)


def beat(desk: Desk, nodes: list[WitnessNode]) -> None:
    """Those that run report; of the others nothing was heard for long."""
    for node in nodes:
        report = KeyNode(node.number, node.cluster).heartbeat(url=node.url, zone=node.zone)
        age_s = 0.0 if node.is_up else 10 * desk.live.health.down_after_s
        desk.live.beats[node.id] = Beat(report, desk.source.monotonic() - age_s, desk.source.now_ms())
