"""What the coordinator holds in memory: heartbeats, groups, caches. All of it can be made again.

Only the event loop touches it. Nodes and groups are read anew from the catalogue
whenever a command changed them; heartbeats fill themselves within seconds.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from holdfast.coordinator.catalogue.engine import Catalogue
from holdfast.coordinator.catalogue.moves import Move, all_moves
from holdfast.coordinator.catalogue.nodes import NodeRow, all_groups, all_nodes, epoch
from holdfast.coordinator.health import HealthSettings, NodeState, state_of
from holdfast.coordinator.limits import (
    DEVICE_LISTS_REMEMBERED_MAX,
    ENROLMENT_NONCE_MS,
    ENROLMENT_NONCES_MAX,
    FIRST_REPORTS_S,
    READ_TICKETS_REMEMBERED_MAX,
    SETTLE_LOOK_S,
)
from holdfast.coordinator.placement import Candidate, Group
from holdfast.protocol.accounts import DeviceList
from holdfast.protocol.clock import Source
from holdfast.protocol.errors import Refused
from holdfast.protocol.ids import AccountId, NodeId, PublicKey
from holdfast.protocol.limits import NONCE_BYTES
from holdfast.protocol.messages.nodes import Heartbeat
from holdfast.protocol.profiles import Profile, default_profile

__all__ = ["Beat", "Live", "TicketKey"]

TicketKey = tuple[AccountId, PublicKey, int, int]
"""Whose read ticket: account, device key, group, the group's version."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A node's last report, when it came on the steady clock and on the wall."""

    report: Heartbeat
    steady_s: float
    wall_ms: int


@dataclass(slots=True)
class Live:
    """The coordinator's memory."""

    source: Source
    health: HealthSettings
    profile: Profile | None
    started_s: float
    nodes: dict[NodeId, NodeRow] = field(default_factory=dict)
    groups: dict[int, Group] = field(default_factory=dict)
    moves: dict[tuple[int, int], Move] = field(default_factory=dict)
    epoch: int = 0
    beats: dict[NodeId, Beat] = field(default_factory=dict)
    device_lists: OrderedDict[AccountId, DeviceList] = field(default_factory=OrderedDict)
    read_tickets: OrderedDict[TicketKey, tuple[bytes, int]] = field(default_factory=OrderedDict)
    nonces: OrderedDict[bytes, tuple[AccountId, int]] = field(default_factory=OrderedDict)
    superseded: dict[NodeId, set[bytes]] = field(default_factory=dict)
    refusals: dict[NodeId, tuple[float, str]] = field(default_factory=dict)
    """When a report in a node's name was refused last, and why: its operator looks at the status first."""
    held_back: str = ""
    counters_due_s: float = 0.0
    met_s: dict[NodeId, float] = field(default_factory=dict)
    """Since when nodes are known that were not from the beginning."""
    started_ms: int = field(init=False)

    def __post_init__(self) -> None:
        self.started_ms = self.source.now_ms()

    def begin(self) -> None:
        """From now on it is served: what nodes have to be heard of by counts from here."""
        self.started_s, self.started_ms = self.source.monotonic(), self.source.now_ms()

    def steady_ms(self) -> int:
        """Wall time at the start plus what has passed since: no jump of the wall clock reaches it."""
        return self.started_ms + int(1000 * (self.source.monotonic() - self.started_s))

    async def refresh(self, catalogue: Catalogue) -> None:
        """Read nodes and groups anew."""
        nodes, groups, moves, number = await catalogue.read(
            lambda c: (all_nodes(c), all_groups(c), all_moves(c), epoch(c))
        )
        # Readers overtake each other: the last answer to come is not always the newest.
        if number >= self.epoch:
            if self.nodes:  # else they are there from the beginning
                came = dict.fromkeys(nodes.keys() - self.nodes.keys(), self.source.monotonic())
                self.met_s = {node: s for node, s in {**self.met_s, **came}.items() if node in nodes}
            self.nodes, self.groups, self.moves, self.epoch = nodes, groups, moves, number

    def state(self, node: NodeId) -> NodeState:
        """Up, suspect, down or stopping, now."""
        beat = self.beats.get(node)
        return state_of(
            last_seen_s=beat.steady_s if beat else None,
            started_s=self.started_s,
            now_s=self.source.monotonic(),
            told=beat.report.state if beat else "",
            settings=self.health,
        )

    async def settle(self) -> None:
        """After a start: hear from every node first, or give those that are silent time to become suspect.

        Without it the first uploads would find too few nodes up, and have fallback groups made over those
        that happened to report first.
        """
        until = self.started_s + self.health.suspect_after_s
        if not self.beats:
            # Not one: they have not noticed yet that there is a coordinator again.
            until = self.started_s + self.health.down_after_s
        # Looked at again and again: what ends the wait is the clock as often as a heartbeat.
        while self.nodes.keys() - self.beats.keys() and self.source.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(SETTLE_LOOK_S)

    def awaits_reports(self) -> bool:
        """May a node that was not heard of since the start still come by itself?

        It was without a coordinator, and looks for one again only now and then: longer, perhaps, than
        a node takes to be called down where these times are set short, or the machine is busy.
        """
        until = self.started_s + max(self.health.down_after_s, FIRST_REPORTS_S)
        return bool(self.nodes.keys() - self.beats.keys()) and self.source.monotonic() < until

    def down(self) -> list[NodeId]:
        """Nodes that are not worth asking first."""
        return [
            node
            for node in self.nodes
            if self.state(node) in ("down", "stopping") or not self.is_trusted(node)
        ]

    def is_serving(self, node: NodeId) -> bool:
        """Do its shards count as within reach? Up, with a store that works.

        A node that fell silent does not count, before it is declared down; right after a start those
        that were not heard of yet do, or every start would look like a disaster.
        """
        beat = self.beats.get(node)
        if beat is None:
            return self.state(node) == "suspect"
        return self.state(node) == "up" and beat.report.state in ("ok", "full")

    def is_trusted(self, node: NodeId) -> bool:
        """In the cluster, and not known to lie."""
        row = self.nodes.get(node)
        return row is not None and row.state != "distrusted"

    def counts(self, node: NodeId) -> bool:
        """Do the shards on it count? It serves them, and it does not lie about them."""
        return self.is_trusted(node) and self.is_serving(node)

    def writable(self, excluded: frozenset[NodeId]) -> list[Candidate]:
        """Nodes that may take shards: up, with room, not excluded."""
        found = []
        for node, row in self.nodes.items():
            beat = self.beats.get(node)
            if node in excluded or not self.is_trusted(node) or self.state(node) != "up":
                continue
            if beat is None or beat.report.state != "ok":
                continue
            found.append(Candidate(node, row.zone, beat.report.free_bytes, row.state == "joined"))
        return found

    def trouble(self, node: NodeId) -> str:
        """What is wrong with it, in words: as it says itself, or why its reports are refused; or empty."""
        beat, refused = self.beats.get(node), self.refusals.get(node)
        if beat is not None and beat.report.trouble:
            return beat.report.trouble
        if refused is not None and self.source.monotonic() - refused[0] < self.health.down_after_s:
            return refused[1]
        return ""

    def absent_s(self, node: NodeId) -> float:
        """Seconds since it was last heard of, or since the coordinator started, or got to know it."""
        beat = self.beats.get(node)
        since_s = beat.steady_s if beat else max(self.started_s, self.met_s.get(node, self.started_s))
        return self.source.monotonic() - since_s

    def usual_profile(self) -> Profile | None:
        """The profile the cluster should have: as set, or by the number of nodes."""
        return self.profile or default_profile(len(self.nodes))

    def remember_devices(self, listed: DeviceList) -> None:
        """Keep an account's current device list at hand; an older one changes nothing."""
        known = self.device_lists.get(listed.account)
        if known is None or known.seq <= listed.seq:
            self.device_lists[listed.account] = listed
        self.device_lists.move_to_end(listed.account)
        while len(self.device_lists) > DEVICE_LISTS_REMEMBERED_MAX:
            self.device_lists.popitem(last=False)

    def remember_ticket(self, key: TicketKey, ticket: bytes, expires_ms: int) -> None:
        """Keep a read ticket to hand out again."""
        self.read_tickets[key] = (ticket, expires_ms)
        while len(self.read_tickets) > READ_TICKETS_REMEMBERED_MAX:
            self.read_tickets.popitem(last=False)

    def new_nonce(self, account: AccountId) -> tuple[bytes, int]:
        """A nonce for an enrolment: (nonce, when it expires)."""
        nonce, expires = self.source.random_bytes(NONCE_BYTES), self.source.now_ms() + ENROLMENT_NONCE_MS
        self.nonces[nonce] = (account, expires)
        while len(self.nonces) > ENROLMENT_NONCES_MAX:
            self.nonces.popitem(last=False)
        return nonce, expires

    def use_nonce(self, nonce: bytes, account: AccountId) -> None:
        """Use it up; raises Refused."""
        found = self.nonces.pop(nonce, None)
        if found is None or found[0] != account or found[1] < self.source.now_ms():
            raise Refused(
                "this enrolment's nonce is not known or has expired", do="Run 'holdfast recover' again."
            )
