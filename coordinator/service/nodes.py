"""Nodes: joining and heartbeats; the public face and the cluster map."""

from __future__ import annotations

from dataclasses import replace

import structlog

from holdfast.coordinator.catalogue.moves import prove_anew
from holdfast.coordinator.catalogue.nodes import NodeRow, join_node, update_node
from holdfast.coordinator.erasing import notice_orders
from holdfast.coordinator.limits import COUNTED_BYTES_MAX, PULSE_AHEAD_MAX, STARTS_REMEMBERED_MAX
from holdfast.coordinator.live import Beat
from holdfast.coordinator.reconciling import hear_pulse, pulse_told
from holdfast.coordinator.reigning import cluster_map, require_reign
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.telling import tell_nodes
from holdfast.protocol.address import parse_url
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import BadRequest, Conflict
from holdfast.protocol.failpoints import reached
from holdfast.protocol.handling import Answer, Request, Routes, msgpack_answer
from holdfast.protocol.ids import NodeId
from holdfast.protocol.limits import LABEL_BYTES_MAX, NODES_MAX, TROUBLE_BYTES_MAX
from holdfast.protocol.messages.cluster import ClusterInfo
from holdfast.protocol.messages.nodes import Heartbeat, HeartbeatAnswer, Join, Joined
from holdfast.protocol.signing import check_public_key, node_id
from holdfast.protocol.stripes import digest_of

__all__ = ["NodeHandlers"]

_log = structlog.get_logger()


def _check_told(told: Join | Heartbeat) -> None:
    if len(told.zone.encode()) > LABEL_BYTES_MAX:
        raise BadRequest(f"a zone's name has at most {LABEL_BYTES_MAX} bytes")
    if not 0 <= told.capacity_bytes <= COUNTED_BYTES_MAX:
        raise BadRequest("a node's capacity is out of bounds")
    if isinstance(told, Heartbeat):
        counts = (
            *(told.store_counter, told.used_bytes, told.free_bytes, told.shards, told.quarantined),
            *(told.order, told.pulse, told.file_bytes, told.compacting + 1),
        )
        if any(not 0 <= count <= COUNTED_BYTES_MAX for count in counts):
            raise BadRequest("a node's counts are out of bounds")
        if len(told.trouble.encode()) > TROUBLE_BYTES_MAX:
            raise BadRequest(f"what troubles a node is said in {TROUBLE_BYTES_MAX} bytes")


class NodeHandlers:
    """See protocol.messages.nodes and protocol.messages.cluster."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self, router: Routes) -> None:
        """Add the paths."""
        router.add_get("/v1/cluster", self.cluster)
        router.add_get("/v1/map", self.map)
        router.add_post("/v1/nodes/join", self.join)
        router.add_post("/v1/nodes/heartbeat", self.heartbeat)

    async def cluster(self, request: Request) -> Answer:
        """Enough to prove which cluster answers."""
        identity = self._desk.identity
        return msgpack_answer(
            ClusterInfo(
                cluster=identity.cluster,
                root_key=identity.root,
                charter=identity.charter,
                time_ms=self._desk.source.now_ms(),
                program=self._desk.program,
            )
        )

    async def map(self, request: Request) -> Answer:
        """The signed cluster map; signed once per epoch."""
        return msgpack_answer(cluster_map(self._desk))

    async def join(self, request: Request) -> Answer:
        """A new node with a token."""
        desk = self._desk
        node, body = await desk.node(request, lambda raw: decode(raw, Join).key)
        told = decode(body, Join)
        check_public_key(told.key)
        if node != node_id(told.key):
            raise BadRequest("a node's id is not its key's")
        _check_told(told)
        if node not in desk.live.nodes and len(desk.live.nodes) >= NODES_MAX:
            raise BadRequest(f"a cluster has at most {NODES_MAX} nodes")
        row = NodeRow(node, told.key, parse_url(told.url), told.zone, told.capacity_bytes, told.store)
        digest, now_ms = digest_of(told.token), desk.source.now_ms()
        await desk.catalogue.write(lambda c: join_node(c, digest, row, now_ms))
        await desk.live.refresh(desk.catalogue)
        await tell_nodes(desk)  # or a coordinator that is rebuilt right after would not know of it
        require_reign(desk)  # perhaps that was news: it belongs to the other one
        return msgpack_answer(
            Joined(node=node, term=desk.identity.term, heartbeat_ms=desk.live.health.heartbeat_ms)
        )

    async def heartbeat(self, request: Request) -> Answer:
        """A node's report: it is up, and this is how full it is."""
        desk = self._desk
        node, body = await desk.node(request)
        report = decode(body, Heartbeat)
        _check_told(report)
        row = desk.live.nodes[NodeId(node)]
        try:
            self._refuse_clone(node, report)
            await self._refuse_leap(report)
            # A store that has failed proves nothing, neither that it is new nor that it is old.
            if not report.trouble and not self._is_proven(row, report):
                await self._prove_anew(row, report)
        except Conflict as error:
            told = f"its reports are refused: {error.what}. {error.do or ''}".strip()
            desk.live.refusals[node] = (desk.source.monotonic(), told)
            raise
        await self._hear(node, report)
        desk.live.beats[node] = Beat(report, desk.source.monotonic(), desk.source.now_ms())
        url = parse_url(report.url)
        if (url, report.zone) != (row.url, row.zone):
            changed = replace(row, url=url, zone=report.zone, capacity_bytes=report.capacity_bytes)
            await desk.catalogue.write(lambda c: update_node(c, changed))
            await desk.live.refresh(desk.catalogue)
        return msgpack_answer(
            HeartbeatAnswer(
                term=desk.identity.term,
                epoch=desk.live.epoch,
                heartbeat_ms=desk.live.health.heartbeat_ms,
                time_ms=desk.source.now_ms(),
                pulse=await pulse_told(desk),
            )
        )

    async def _refuse_leap(self, report: Heartbeat) -> None:
        """The catalogue takes over the highest pulse it hears of, and tells it to all: none is made up."""
        if report.pulse > await pulse_told(self._desk) + PULSE_AHEAD_MAX:
            raise Conflict(
                f"it says that it has heard of pulse {report.pulse} of the catalogue, which cannot be",
                do="Check its disk and memory; with an empty folder it joins as a new node.",
            )

    async def _hear(self, node: NodeId, report: Heartbeat) -> None:
        """What the node remembers of the catalogue tells whether this is an old copy of it.

        The word of a node that lies does not stop all sweeping.
        """
        desk = self._desk
        if not desk.live.is_trusted(node):
            return
        await hear_pulse(desk, node, report.pulse)
        if report.order > desk.erasing.taken.get(node, 0):
            await notice_orders(desk, node, report.order)
            desk.erasing.taken[node] = report.order

    def _refuse_clone(self, node: NodeId, report: Heartbeat) -> None:
        """Two processes with one key: the one that started last counts, the other is refused for good."""
        live = self._desk.live
        superseded = live.superseded.setdefault(node, set())
        if report.start in superseded:
            raise Conflict(
                f"another process runs under the identity of node {node.short}",
                why="a node's folder was copied, or it was started twice",
                do="Stop one of the two; a copy becomes a node of its own with an empty folder.",
            )
        before = live.beats.get(node)
        if before is not None and before.report.start != report.start:
            if len(superseded) >= STARTS_REMEMBERED_MAX:
                superseded.clear()
            superseded.add(before.report.start)

    def _is_proven(self, row: NodeRow, report: Heartbeat) -> bool:
        """Is it the store we know, and not an older copy of it?"""
        before = self._desk.live.beats.get(row.id)
        seen = before.report.store_counter if before is not None and before.report.store == row.store else 0
        return report.store == row.store and report.store_counter >= max(row.store_counter, seen)

    async def _prove_anew(self, row: NodeRow, report: Heartbeat) -> None:
        """A new, empty store under a known identity, or an older copy: everything in it is to be proven."""
        desk = self._desk
        # A rebuilt catalogue knows no store of nodes that were silent then: what they hold is proven anew.
        if report.store != row.store and report.shards and any(row.store):
            raise Conflict(
                f"node {row.id.short} reports another store than it joined with, and there are shards in it",
                why="disks may have been swapped between nodes",
                do="Put the right disk back, or join as a new node from an empty folder.",
            )
        what = "an older copy of its store" if report.store == row.store else "a new, empty store"
        _log.warning(f"a node came with {what}: its slots are proven and filled", node=row.id.short)
        now_ms = desk.source.now_ms()
        await desk.catalogue.write(
            lambda c: prove_anew(c, row.id, report.store, report.store_counter, now_ms)
        )
        reached("coordinator.move.proving")
        await desk.live.refresh(desk.catalogue)
