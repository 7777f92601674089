"""Telling every node who coordinates, where, and by which map; and noticing that one's own term is over.

A node that has met a higher term answers with that term's charter. It is signed by the cluster's root,
so a node cannot make it up: from then on this coordinator serves reads only, and says so.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from holdfast.coordinator.limits import (
    NODE_CALL_TIMEOUT_S,
    REIGN_RETRY_S,
    TELL_SOON_S,
    WITNESSED_AT_ONCE_MAX,
    WITNESSES_LOOK_SOON_S,
)
from holdfast.protocol.charter import Charter, open_charter
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import HoldfastError, Refused, Superseded
from holdfast.protocol.ids import NodeId
from holdfast.protocol.messages.cluster import ClusterMap, MapGroup, MapNode
from holdfast.protocol.messages.witness import Reign, Reigned
from holdfast.protocol.signing import Signed, sign

if TYPE_CHECKING:
    from holdfast.coordinator.service.desk import Desk

__all__ = [
    "Reigning",
    "cluster_map",
    "reign_said",
    "require_map",
    "require_reign",
    "tell_nodes",
    "tell_soon",
]

_log = structlog.get_logger()


@dataclass(slots=True)
class Reigning:
    """What is known of the own reign.

    Attributes:
        url: where this coordinator serves; empty until it does.
        superseded: the higher term that a node has shown; 0: none.
        told: what each node heard last: epoch, URL, the start of its process, and whether it reported then.
        retry_s: when a node that did not answer is told again.
        map: the signed map by its epoch.
        tasks: nodes are being told, and nobody waits any more.
    """

    url: str = ""
    superseded: int = 0
    told: dict[NodeId, tuple[int, str, bytes, bool]] = field(default_factory=dict)
    retry_s: dict[NodeId, float] = field(default_factory=dict)
    map: tuple[int, Signed] | None = None
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


def require_reign(desk: Desk) -> None:
    """Raises Superseded when another coordinator reigns."""
    if desk.reigning.superseded:
        raise Superseded(
            f"this coordinator's term {desk.identity.term} is over: it changes nothing any more",
            why=f"the nodes follow the coordinator of term {desk.reigning.superseded}",
            term=desk.reigning.superseded,
        )


def reign_said(desk: Desk) -> str:
    """What an operator has to know before anything else, where another coordinator reigns; else nothing."""
    if not desk.reigning.superseded:
        return ""
    return (
        f"This coordinator's term {desk.identity.term} is over, the nodes follow that of term "
        f"{desk.reigning.superseded}: switch this one off. "
    )


def cluster_map(desk: Desk) -> Signed:
    """The signed map of nodes and groups; signed once per epoch."""
    live, identity = desk.live, desk.identity
    if desk.reigning.map is None or desk.reigning.map[0] != live.epoch:
        payload = encode(
            ClusterMap(
                1,
                identity.term,
                live.epoch,
                [MapNode(row.id, row.key, row.url, row.zone) for row in live.nodes.values()],
                [
                    MapGroup(g.id, g.version, g.profile.k, g.profile.m, list(g.members))
                    for g in live.groups.values()
                ],
            )
        )
        signature = sign(identity.key, "map", identity.cluster, payload)
        desk.reigning.map = (live.epoch, Signed(payload, signature))
    return desk.reigning.map[1]


async def tell_nodes(desk: Desk) -> None:
    """Tell every node that has not heard it; also those that do not report here: they may follow another.

    One that ceases to report is told again: that is how a coordinator that runs on learns of its successor.
    """
    live, now_s = desk.live, desk.source.monotonic()
    late = [
        node
        for node in live.nodes
        if desk.reigning.told.get(node) != _to_hear(desk, node)
        and desk.reigning.retry_s.get(node, now_s) <= now_s
    ]
    turns = asyncio.Semaphore(WITNESSED_AT_ONCE_MAX)

    async def one(node: NodeId) -> None:
        async with turns:
            try:
                await _tell(desk, node)
            except HoldfastError as error:
                _log.debug("a node did not hear who reigns", node=node.short, why=str(error))
                desk.reigning.retry_s[node] = desk.source.monotonic() + REIGN_RETRY_S

    await asyncio.gather(*map(one, late))


async def tell_soon(desk: Desk) -> None:
    """Tell all nodes now, and wait a moment for those that answer; of the others nobody waits."""
    telling = asyncio.create_task(tell_nodes(desk))
    desk.reigning.tasks.add(telling)
    telling.add_done_callback(desk.reigning.tasks.discard)
    await asyncio.wait({telling}, timeout=TELL_SOON_S)


async def require_map(desk: Desk, node: NodeId) -> None:
    """Have a node keep the newest map, unless it does: at no cost where it was told before.

    What a node vouches for can be found by what it keeps, then, should this coordinator be lost for good
    in the next moment: the nodes, and the groups in which the chunks lie.

    Raises:
        HoldfastError: it does not keep it, or does not answer.
    """
    told, wanted = desk.reigning.told.get(node), _to_hear(desk, node)
    if told is None or told[0] < wanted[0] or told[2] != wanted[2]:
        await _tell(desk, node)


def _to_hear(desk: Desk, node: NodeId) -> tuple[int, str, bytes, bool]:
    """What a node should have been told by now: see Reigning.told."""
    live = desk.live
    beat = live.beats.get(node)
    start = beat.report.start if beat is not None else b""
    return live.epoch, desk.reigning.url, start, live.state(node) == "up"


async def _tell(desk: Desk, node: NodeId) -> None:
    """Tell one node, and note that it was told. Raises HoldfastError."""
    identity, row, state = desk.identity, desk.live.nodes.get(node), _to_hear(desk, node)
    if row is not None:  # not let go meanwhile
        message = Reign(
            root=identity.root, charter=identity.charter, url=desk.reigning.url, map=cluster_map(desk)
        )
        answer = await desk.calls.ask(
            row, "POST", "/v1/reign", message, Reigned, timeout_s=NODE_CALL_TIMEOUT_S
        )
        if answer.charter is None:
            raise Refused(f"node {node.short} does not say whom it follows")
        _heed(desk, node, open_charter(identity.root, answer.charter, identity.cluster))
    before = desk.reigning.told.get(node)
    if before is None or before[2] != state[2]:
        look_s = desk.source.monotonic() + WITNESSES_LOOK_SOON_S
        desk.witnessing.look_s = min(desk.witnessing.look_s, look_s)
    desk.reigning.told[node] = state
    desk.reigning.retry_s.pop(node, None)


def _heed(desk: Desk, node: NodeId, charter: Charter) -> None:
    """Whom a node follows, by the root's word: perhaps a successor."""
    identity = desk.identity
    if charter.term == identity.term and charter.coordinator == identity.public:
        return
    if charter.term >= max(identity.term, desk.reigning.superseded + 1):
        desk.reigning.superseded = charter.term
        _log.error(
            "another coordinator reigns: this one serves reads only from now on",
            term=identity.term,
            reigns=charter.term,
            node=node.short,
        )
