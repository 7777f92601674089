"""What a coordinator has to tell its nodes, and what they learn meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.coordinator.catalogue.nodes import raise_epoch
from holdfast.coordinator.identity import found_anew, read_kit
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.messages.witness import Reign, Reigned
from support.witness_nodes import WitnessNode

DEADLINE_S = 20.0
"""For what should take milliseconds."""

__all__ = ["DEADLINE_S", "follow_successor", "the_map_changed"]


async def the_map_changed(desk: Any) -> None:
    desk.catalogue.write_now(raise_epoch)
    await desk.live.refresh(desk.catalogue)


async def follow_successor(desk: Any, folder: Path, nodes: list[WitnessNode]) -> None:
    """These nodes learn of a coordinator of the next term."""
    kit = read_kit(folder / "cluster-kit.pem")
    identity = found_anew(folder, kit, desk.identity.term + 1, SYSTEM, desk.identity.operator)
    calls = NodeCalls(desk.calls._transport, identity)
    message = Reign(root=identity.root, charter=identity.charter, url="", map=None)
    for node in nodes:
        await calls.ask(desk.live.nodes[node.id], "POST", "/v1/reign", message, Reigned)
