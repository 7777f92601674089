"""What operators ask (POST/GET, msgpack, role "operator").

- ``POST /v1/admin/invites``      MakeInvite -> TokenMade
- ``POST /v1/admin/node-tokens``  MakeNodeToken -> TokenMade
- ``GET  /v1/admin/status``       ClusterStatus
- ``POST /v1/admin/standing``     SetStanding -> Moving   (drain, undrain, remove a node)
- ``POST /v1/admin/rebalance``    Rebalance -> Moving
"""

from __future__ import annotations

from typing import Literal

from holdfast.protocol.codec import Message
from holdfast.protocol.ids import NodeId
from holdfast.protocol.messages.accounts import StripeCounts

__all__ = [
    "ClusterStatus",
    "GroupStatus",
    "InventoryStatus",
    "MakeInvite",
    "MakeNodeToken",
    "MoveStatus",
    "Moving",
    "NodeStatus",
    "Rebalance",
    "RepairStatus",
    "SetStanding",
    "TokenMade",
]


class MakeInvite(Message):
    """One account may register with it. ``quota_bytes`` 0: no quota."""

    quota_bytes: int
    lifetime_s: int


class MakeNodeToken(Message):
    """One node may join with it."""

    lifetime_s: int


class TokenMade(Message):
    """The secret, told once; the coordinator keeps only its hash."""

    secret: bytes
    expires_ms: int


class NodeStatus(Message):
    """A node as the operator sees it.

    Attributes:
        state: "up", "suspect", "down" or "stopping", as its heartbeats tell.
        standing: "joined", "draining", "lost" or "distrusted", as the cluster treats it.
        slots: of how many groups it holds a slot.
        quarantined: damaged shards it keeps aside.
        trouble: why its store has failed, in its own words, or why its reports are refused; or empty.
        file_bytes: length of its data file: what is erased stays in it until it is compacted.
        compacting: how far that is, in per cent; -1: not under way.
        compared_ms: when what it has was compared with the catalogue, whole; 0: not since the start.
    """

    id: NodeId
    url: str
    zone: str
    state: str
    store_state: str
    last_seen_ms: int
    capacity_bytes: int
    used_bytes: int
    free_bytes: int
    shards: int
    standing: str
    slots: int
    quarantined: int
    scrubbed_ms: int
    trouble: str
    file_bytes: int
    compacting: int
    compared_ms: int


class MoveStatus(Message):
    """A slot that is being filled; ``why``: lost, drain, distrusted, zone, rebalance or refill."""

    group: int
    slot: int
    node: NodeId
    old: NodeId | None
    why: str
    left_shards: int
    filled_shards: int


class RepairStatus(Message):
    """What is being brought back.

    Attributes:
        queued, queued_bytes: shards to bring back, and sealed bytes of their chunks.
        running: slots worked on now.
        done, done_bytes: since the coordinator started.
        bytes_per_s: sealed bytes per second of work; 0 when nothing was measured yet.
        eta_s: until the queue is empty; -1 when not known.
        waiting: slots that no node can take, in words: none is up that has room and no slot of the group.
    """

    queued: int
    queued_bytes: int
    running: int
    done: int
    done_bytes: int
    bytes_per_s: int
    eta_s: int
    waiting: list[str]
    moves: list[MoveStatus]


class SetStanding(Message):
    """Empty a node ("draining"), keep it after all ("joined"), let it go ("removed"), or believe it
    again that was found lying ("trusted").

    ``node`` is the beginning of its id in hex. ``dry_run`` changes nothing.
    """

    node: str
    standing: Literal["joined", "draining", "removed", "trusted"]
    dry_run: bool


class Rebalance(Message):
    """Move slots from the fullest to the emptiest nodes."""

    dry_run: bool


class Moving(Message):
    """What moves (or would): slots, shard bytes, about how long, and how safe it is meanwhile.

    Attributes:
        seconds: at ``bytes_per_s``, sealed bytes a second: measured, or (``is_measured`` false) assumed.
        smallest_spare: spare shards of the stripes that have the fewest while it lasts.
        stuck: slots that no other node can take.
    """

    node: str
    slots: int
    moved_bytes: int
    seconds: int
    bytes_per_s: int
    is_measured: bool
    smallest_spare: int
    stuck: int


class GroupStatus(Message):
    """A placement group: members in slot order, how many are up."""

    id: int
    version: int
    k: int
    m: int
    members: list[NodeId]
    up: int
    chunks: int


class InventoryStatus(Message):
    """How the catalogue compares with what nodes have.

    Attributes:
        unreconciled: the catalogue is older than what nodes have seen: nothing is swept or erased.
        waiting: nodes that are still to be compared before it is as good as any.
        strays: shards that no row explains, and of which it is not known yet what becomes of them.
        adopted: chunks taken up from the nodes since the coordinator started.
        erasing: shards that nodes are still to be told to erase.
    """

    unreconciled: bool
    waiting: list[NodeId]
    strays: int
    adopted: int
    erasing: int


class ClusterStatus(Message):
    """``verdict``: safe, degraded, at_risk or unavailable; ``sentence`` says it in words."""

    verdict: str
    sentence: str
    term: int
    epoch: int
    accounts: int
    chunks: int
    stored_bytes: int
    open_uploads: int
    stripes: StripeCounts
    repair: RepairStatus
    inventory: InventoryStatus
    nodes: list[NodeStatus]
    groups: list[GroupStatus]
