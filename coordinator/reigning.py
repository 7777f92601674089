"""Telling a node who coordinates, where, and by which map; and noticing that one's own term is over.

A node that has met a higher term answers with that term's charter. It is signed by the cluster's root,
so a node cannot make it up: from then on this coordinator serves reads only, and says so.

Nodes say which map they keep. One that was not signed here is read before it gives way to ours: this
catalogue may be a copy that somebody put back, and nodes that joined since are in that map alone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import structlog

from holdfast.coordinator.catalogue.adopted import adopt_map
from holdfast.coordinator.catalogue.nodes import NodeRow
from holdfast.coordinator.gathering import open_kept_map
from holdfast.coordinator.health import NodeState
from holdfast.coordinator.limits import (
    MAP_TOLD_MAX,
    MAPS_REMEMBERED_MAX,
    NODE_CALL_TIMEOUT_S,
    REIGN_BYTES_PER_S_MIN,
    REIGN_CALL_TIMEOUT_S,
    TOLD_AT_ONCE_MAX,
    WITNESSES_LOOK_SOON_S,
)
from holdfast.coordinator.reconciling import begin_round
from holdfast.protocol.charter import Charter, open_charter
from holdfast.protocol.codec import encode
from holdfast.protocol.errors import Refused, Superseded
from holdfast.protocol.ids import NodeId
from holdfast.protocol.limits import LARGE_BODY_BYTES
from holdfast.protocol.messages.cluster import ClusterMap, MapGroup, MapNode
from holdfast.protocol.messages.witness import AccountsKept, ReadAccounts, Reign, Reigned
from holdfast.protocol.signing import Signed, sign
from holdfast.protocol.stripes import digest_of

if TYPE_CHECKING:
    from holdfast.coordinator.service.desk import Desk

__all__ = [
    "Reigning",
    "cluster_map",
    "has_asked_all",
    "newest_map",
    "reign_said",
    "require_reign",
    "take_in",
    "tell_node",
    "to_hear",
]

_log = structlog.get_logger()


ToHear = tuple[int, str, bytes, NodeState]
"""See Reigning.told."""


@dataclass(slots=True)
class Reigning:
    """What is known of the own reign.

    Attributes:
        url: where this coordinator serves; empty until it does.
        superseded: the higher term that a node has shown; 0: none.
        told: what each node heard last: epoch, URL, the start of its process, and its state then.
        retry_s: when a node that did not hear it is told again.
        map: the signed map by its epoch.
        digest: of the map's payload. known_maps: of all that were signed here, or taken over.
        turns: one tells a node at a time.
        telling: who is being told, whether somebody waits for it or not (coordinator.telling).
        places, places_behind: how many are told at a time: of those that answer, and of the others.
    """

    url: str = ""
    superseded: int = 0
    told: dict[NodeId, ToHear] = field(default_factory=dict)
    retry_s: dict[NodeId, float] = field(default_factory=dict)
    map: tuple[int, Signed] | None = None
    digest: bytes = b""
    known_maps: dict[bytes, None] = field(default_factory=dict)
    turns: WeakValueDictionary[NodeId, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    telling: dict[NodeId, asyncio.Task[None]] = field(default_factory=dict)
    places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(TOLD_AT_ONCE_MAX))
    places_behind: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(TOLD_AT_ONCE_MAX))

    def remember(self, payload: bytes) -> bytes:
        """A map that was signed here, or whose nodes are known by now; gives its digest."""
        digest = bytes(digest_of(payload))
        self.known_maps.pop(digest, None)
        self.known_maps[digest] = None
        while len(self.known_maps) > MAPS_REMEMBERED_MAX:
            del self.known_maps[next(iter(self.known_maps))]
        return digest


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
        desk.reigning.digest = desk.reigning.remember(payload)
    return desk.reigning.map[1]


def newest_map(desk: Desk) -> bytes:
    """The digest by which a node says that it keeps the map as it is now."""
    cluster_map(desk)
    return desk.reigning.digest


def has_asked_all(desk: Desk) -> bool:
    """Was every node told what it should have heard, or did not hear it? Else it may know a successor."""
    reigning = desk.reigning
    return all(
        reigning.told.get(node) == to_hear(desk, node) or node in reigning.retry_s for node in desk.live.nodes
    )


def to_hear(desk: Desk, node: NodeId) -> ToHear:
    """What a node should have been told by now: see Reigning.told."""
    live = desk.live
    beat = live.beats.get(node)
    start = beat.report.start if beat is not None else b""
    return live.epoch, desk.reigning.url, start, live.state(node)


async def tell_node(desk: Desk, node: NodeId) -> None:
    """Tell one node, and note that it was told: who reigns, where, and the map as it is now.

    Raises:
        HoldfastError: it does not answer, follows nobody, or does not keep this map.
    """
    reigning, before = desk.reigning, desk.reigning.told.get(node)
    async with reigning.turns.setdefault(node, asyncio.Lock()):
        row, state, told = desk.live.nodes.get(node), to_hear(desk, node), reigning.told.get(node)
        if row is None or (told is not before and told == state):
            return  # let go, or somebody else has told it meanwhile
        newest_map(desk)  # that one is no news
        if told is None or told[2] != state[2] or len(cluster_map(desk).payload) > LARGE_BODY_BYTES // 2:
            # Who does not follow us yet would not take a long message; and what it keeps may be news.
            await _take_over(desk, row, (await _say(desk, row, None)).map)
        for _ in range(MAP_TOLD_MAX):
            state, digest = to_hear(desk, node), newest_map(desk)
            answer = await _say(desk, row, cluster_map(desk))
            if answer.map == digest or reigning.superseded:
                break
            await _take_over(desk, row, answer.map)
        else:
            raise Refused(f"node {node.short} does not keep the cluster map")
        if told is None or told[2] != state[2]:
            look_s = desk.source.monotonic() + WITNESSES_LOOK_SOON_S
            desk.witnessing.look_s = min(desk.witnessing.look_s, look_s)
        reigning.told[node] = state
        reigning.retry_s.pop(node, None)


async def _take_over(desk: Desk, row: NodeRow, digest: bytes) -> None:
    """Before a node gets another map: what is in the one that it keeps, where that was not signed here.

    It may be of a newer catalogue, of which this one is a copy that somebody put back: of nodes that joined
    since nobody else may tell. Numbers that one gave are not given again.

    Raises:
        HoldfastError: it does not tell, or what it tells does not prove itself.
    """
    reigning, identity = desk.reigning, desk.identity
    if not digest or digest in reigning.known_maps or reigning.superseded:
        return
    page = await desk.calls.ask(
        row, "POST", "/v1/kept/accounts", ReadAccounts(after=b""), AccountsKept, timeout_s=NODE_CALL_TIMEOUT_S
    )
    if page.map is None:
        return
    opened = open_kept_map(page.map, identity.root, identity.cluster)
    await take_in(desk, opened)
    reigning.remember(page.map.map.payload)


async def take_in(desk: Desk, opened: ClusterMap) -> None:
    """Let nodes in that a proven map names and this catalogue does not know; all is compared anew then."""
    newest_map(desk)  # that one is no news, nor is what was taken in before
    payload = encode(opened)
    if digest_of(payload) in desk.reigning.known_maps:
        return
    now_ms = desk.source.now_ms()
    joined = await desk.catalogue.write(lambda c: adopt_map(c, opened, now_ms))
    await desk.live.refresh(desk.catalogue)
    desk.reigning.remember(payload)
    if joined:
        begin_round(desk, is_old=True)
        _log.warning("nodes that joined since the catalogue was copied were taken in", count=joined)


async def _say(desk: Desk, row: NodeRow, listed: Signed | None) -> Reigned:
    """Say to a node who reigns, and heed what it answers. Raises HoldfastError."""
    identity = desk.identity
    message = Reign(root=identity.root, charter=identity.charter, url=desk.reigning.url, map=listed)
    size = len(listed.payload) if listed is not None else 0
    timeout_s = REIGN_CALL_TIMEOUT_S + size / REIGN_BYTES_PER_S_MIN
    answer = await desk.calls.ask(row, "POST", "/v1/reign", message, Reigned, timeout_s=timeout_s)
    if answer.charter is None:
        raise Refused(f"node {row.id.short} does not say whom it follows")
    _heed(desk, row.id, open_charter(identity.root, answer.charter, identity.cluster))
    return answer


def _heed(desk: Desk, node: NodeId, charter: Charter) -> None:
    """Whom a node follows, by the root's word: perhaps a successor. Raises Refused: one that is over."""
    identity = desk.identity
    if charter.term < identity.term:
        raise Refused(f"node {node.short} follows the coordinator of term {charter.term} still")
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
