"""What is known of a local cluster: its processes, and what its coordinator says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.cluster.processes import ProcessState
from holdfast.protocol.address import Address
from holdfast.protocol.ids import NodeId
from holdfast.protocol.messages.admin import ClusterStatus, NodeStatus

__all__ = ["LocalStatus", "MemberState", "summed_up"]


@dataclass(frozen=True, slots=True)
class MemberState:
    """One process of the cluster.

    Attributes:
        name: "coordinator" or "node-3"; ``number`` is 0 for the coordinator.
        process: "running", "paused" or "stopped", as the operating system says.
        state: "up", "suspect", "down", "stopping", as the coordinator says; "unknown" when it
            does not answer or has never met the node.
    """

    name: str
    number: int
    process: ProcessState
    pid: int | None
    url: str
    zone: str = ""
    node: NodeId | None = None
    state: str = "unknown"
    store_state: str = ""
    used_bytes: int = 0
    capacity_bytes: int = 0
    shards: int = 0


@dataclass(frozen=True, slots=True)
class LocalStatus:
    """The whole cluster at one moment. ``cluster`` is None when the coordinator does not answer."""

    folder: str
    address: Address | None
    coordinator: MemberState
    nodes: tuple[MemberState, ...]
    cluster: ClusterStatus | None
    sentence: str

    @property
    def verdict(self) -> str:
        """safe, degraded, at_risk, unavailable, empty; "stopped" or "unreachable" without a coordinator."""
        if self.cluster is not None:
            return self.cluster.verdict
        return "unreachable" if self.coordinator.process != "stopped" else "stopped"

    @property
    def healthy(self) -> bool:
        """The coordinator answers and calls every node up."""
        return self.cluster is not None and all(node.state == "up" for node in self.nodes)

    @property
    def up(self) -> int:
        """Nodes that the coordinator calls up."""
        return sum(node.state == "up" for node in self.nodes)

    def node(self, number: int) -> MemberState:
        """Node 1..n."""
        return self.nodes[number - 1]

    def numbers(self) -> Mapping[NodeId, int]:
        """Node id -> number, of all nodes that have joined."""
        return {member.node: member.number for member in self.nodes if member.node is not None}


def summed_up(
    told: ClusterStatus | None, coordinator: MemberState, nodes: tuple[MemberState, ...]
) -> str:
    """One sentence for a person."""
    running = sum(node.process == "running" for node in nodes)
    if told is not None:
        up = sum(node.state == "up" for node in nodes)
        return f"{told.sentence} {up} of {len(nodes)} nodes are up."
    if coordinator.process == "running":
        return f"The coordinator runs but does not answer; {running} of {len(nodes)} nodes run."
    if coordinator.process == "paused":
        return f"The coordinator is paused: 'holdfast cluster resume coordinator'. {running} nodes run."
    if running:
        return f"The coordinator is stopped: 'holdfast cluster start coordinator'. {running} nodes run."
    return "The cluster is stopped: 'holdfast cluster up' starts it, with everything it stored."


def found_among(told: ClusterStatus | None, node: NodeId | None) -> NodeStatus | None:
    """What the coordinator says of one node."""
    if told is None or node is None:
        return None
    return next((status for status in told.nodes if status.id == node), None)
