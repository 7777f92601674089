"""What anyone may ask the coordinator, and the signed cluster map."""

from __future__ import annotations

from typing import Literal

from holdfast.protocol.codec import Message, Record, decode
from holdfast.protocol.errors import BadRequest
from holdfast.protocol.ids import ClusterId, NodeId, PublicKey
from holdfast.protocol.profiles import Profile
from holdfast.protocol.signing import Signed, verify

__all__ = ["ClusterInfo", "ClusterMap", "MapGroup", "MapNode", "Refusal", "open_map"]


class Refusal(Message):
    """The body of every answer that is not 2xx: a typed error."""

    error: str
    what: str
    why: str = ""
    do: str = ""
    details: dict[str, str | int | bool | list[str]] = {}  # noqa: RUF012 - msgspec copies it


class ClusterInfo(Message):
    """``GET /v1/cluster`` (unsigned): enough to prove which cluster answers."""

    cluster: ClusterId
    root_key: PublicKey
    charter: Signed
    time_ms: int
    program: str


class MapNode(Record):
    """One node as clients need it."""

    id: NodeId
    key: PublicKey
    url: str
    zone: str


class MapGroup(Record):
    """One placement group: the node of every slot, in slot order."""

    id: int
    version: int
    k: int
    m: int
    members: list[NodeId]

    @property
    def profile(self) -> Profile:
        """The group's redundancy."""
        return Profile(self.k, self.m)


class ClusterMap(Record):
    """Nodes and groups at one epoch; ``GET /v1/map`` gives it as ``Signed`` (kind "map")."""

    version: Literal[1]
    term: int
    epoch: int
    nodes: list[MapNode]
    groups: list[MapGroup]


def open_map(signed: Signed, cluster: ClusterId, coordinator: PublicKey) -> ClusterMap:
    """The map in an envelope.

    Raises:
        Refused: not signed by this coordinator.
        BadRequest: not a map, or a group without one node for each slot.
    """
    verify(coordinator, signed.signature, "map", cluster, signed.payload)
    opened = decode(signed.payload, ClusterMap)
    if any(len(group.members) != group.profile.n for group in opened.groups):
        raise BadRequest("a group of the cluster map does not name one node for each slot")
    return opened
