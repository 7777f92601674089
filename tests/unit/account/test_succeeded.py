"""A coordinator that runs on while another one is made learns of it from the nodes, and changes no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.devices import OpenDevice, post
from support.witness_nodes import WitnessNode, beat, joined_nodes

from holdfast.coordinator.identity import found_anew, read_kit
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.coordinator.reigning import tell_nodes
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import Superseded
from holdfast.protocol.messages.witness import Reign, Reigned


@pytest.fixture
async def nodes(coordinator: Any, tmp_path: Path) -> AsyncIterator[list[WitnessNode]]:
    zones = ["zone"] * 3
    cluster = coordinator.address.cluster
    async with joined_nodes(coordinator.desk, cluster, tmp_path, SYSTEM, zones) as made:
        yield made


async def test_nodes_that_ceased_to_report_tell_whom_they_follow(
    coordinator: Any, nodes: list[WitnessNode], device: OpenDevice, tmp_path: Path
) -> None:
    desk, folder = coordinator.desk, tmp_path / "coordinator"
    one = await device("one")
    successor = found_anew(folder, read_kit(folder / "cluster-kit.pem"), 2, SYSTEM, desk.identity.operator)
    calls = NodeCalls(desk.calls._transport, successor)
    message = Reign(root=successor.root, charter=successor.charter, url="http://127.0.0.1:1", map=None)
    for node in nodes:
        await calls.ask(desk.live.nodes[node.id], "POST", "/v1/reign", message, Reigned)
    await tell_nodes(desk)
    assert desk.reigning.superseded == 0, "they were told before, and nothing has changed yet"
    beat(desk, nodes)
    long_ago = desk.source.monotonic() - 10 * desk.live.health.down_after_s
    for node in nodes:  # they report to the other one now
        desk.live.beats[node.id] = replace(desk.live.beats[node.id], steady_s=long_ago)
    await tell_nodes(desk)
    assert desk.reigning.superseded == 2
    with pytest.raises(Superseded):
        await post(one, coordinator, "nobody would witness it")
