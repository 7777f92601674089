"""What operators ask (POST/GET, msgpack, role "operator").

- ``POST /v1/admin/invites``      MakeInvite -> TokenMade
- ``POST /v1/admin/node-tokens``  MakeNodeToken -> TokenMade
- ``GET  /v1/admin/status``       ClusterStatus
"""

from __future__ import annotations

from holdfast.protocol.codec import Message
from holdfast.protocol.ids import NodeId
from holdfast.protocol.messages.accounts import StripeCounts

__all__ = ["ClusterStatus", "GroupStatus", "MakeInvite", "MakeNodeToken", "NodeStatus", "TokenMade"]


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
    """A node as the operator sees it. ``state``: up, suspect, down (and later: lost, draining)."""

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


class GroupStatus(Message):
    """A placement group: members in slot order, how many are up."""

    id: int
    version: int
    k: int
    m: int
    members: list[NodeId]
    up: int
    chunks: int


class ClusterStatus(Message):
    """``verdict``: safe, degraded, at_risk, unavailable or empty; ``sentence`` says it in words."""

    verdict: str
    sentence: str
    term: int
    epoch: int
    accounts: int
    chunks: int
    stored_bytes: int
    open_uploads: int
    stripes: StripeCounts
    nodes: list[NodeStatus]
    groups: list[GroupStatus]
