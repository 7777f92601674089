"""What counts can be found without the coordinator that made it count: nodes know each other in time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.coordinator_service import KeyNode
from support.devices import OpenDevice, post, tags
from support.witness_nodes import WitnessNode, joined_nodes

from holdfast.coordinator.catalogue.adopted import NO_STORE, adopt_nodes
from holdfast.coordinator.catalogue.nodes import add_token, raise_epoch
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import OutcomeUnknown, Unreachable
from holdfast.protocol.ids import StoreId
from holdfast.protocol.messages.cluster import ClusterMap, MapNode
from holdfast.protocol.messages.nodes import Joined
from holdfast.protocol.stripes import digest_of


@pytest.fixture
async def nodes(coordinator: Any, tmp_path: Path) -> AsyncIterator[list[WitnessNode]]:
    """Six nodes that keep heads, and were told the map once."""
    zones = ["zone"] * 6
    cluster = coordinator.address.cluster
    async with joined_nodes(coordinator.desk, cluster, tmp_path, SYSTEM, zones) as made:
        yield made


def map_of(node: WitnessNode) -> ClusterMap:
    assert node.store is not None
    kept = node.store.map()
    assert kept is not None
    return decode(kept.map.payload, ClusterMap)


async def groups_were_made(desk: Any) -> None:
    """As an upload does that finds none: the map changes, and no background turn has told of it."""
    desk.catalogue.write_now(raise_epoch)
    await desk.live.refresh(desk.catalogue)


async def test_who_keeps_a_head_keeps_the_map_by_which_its_chunks_are_found(
    coordinator: Any, nodes: list[WitnessNode], device: OpenDevice
) -> None:
    desk, one = coordinator.desk, await device("one")
    await groups_were_made(desk)
    assert all(map_of(node).epoch < desk.live.epoch for node in nodes)
    await post(one, coordinator, "first")
    keepers = [node for node in nodes if node.store and node.store.newest(one.known.account) is not None]
    assert len(keepers) >= 3
    assert {map_of(node).epoch for node in keepers} == {desk.live.epoch}


async def test_where_witnesses_do_not_take_the_map_no_head_counts_until_they_do(
    coordinator: Any, nodes: list[WitnessNode], device: OpenDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, one, ask = coordinator.desk, await device("one"), NodeCalls.ask

    async def lost(self: NodeCalls, node: Any, method: str, target: str, *rest: Any, **named: Any) -> Any:
        if target == "/v1/reign":
            raise Unreachable("it does not answer", why="on purpose")
        return await ask(self, node, method, target, *rest, **named)

    one.link._patience_s = 0.0
    await groups_were_made(desk)
    with monkeypatch.context() as patched:
        patched.setattr(NodeCalls, "ask", lost)
        with pytest.raises(OutcomeUnknown):
            await post(one, coordinator, "first")
        assert not any(node.store and node.store.newest(one.known.account) for node in nodes)
    await post(one, coordinator, "second")
    assert "second" in await tags(one)


async def test_a_map_that_was_told_is_not_told_again_with_every_head(
    coordinator: Any, nodes: list[WitnessNode], device: OpenDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, ask, told = await device("one"), NodeCalls.ask, []

    async def counted(self: NodeCalls, node: Any, method: str, target: str, *rest: Any, **named: Any) -> Any:
        told.append(target)
        return await ask(self, node, method, target, *rest, **named)

    monkeypatch.setattr(NodeCalls, "ask", counted)
    await post(one, coordinator, "first")
    assert "/v1/reign" not in told


async def join(coordinator: Any, transport: Any, store: StoreId) -> KeyNode:
    """Over the wire, with a token of its own."""
    desk, node = coordinator.desk, KeyNode(50, coordinator.address.cluster)
    secret, later_ms = SYSTEM.random_bytes(16), SYSTEM.now_ms() + 60_000
    desk.catalogue.write_now(lambda c: add_token(c, digest_of(secret), "node", later_ms, 0))
    await transport.call(
        *("POST", coordinator.address.url, "/v1/nodes/join", node.join(secret, store=store)),
        answer=Joined,
        signer=node.signer(),
        receiver=desk.identity.public,
    )
    return node


async def test_the_others_know_who_joined_before_it_is_told_that_it_belongs(
    coordinator: Any, nodes: list[WitnessNode], transport: Any
) -> None:
    joined = await join(coordinator, transport, StoreId(b"s" * 16))
    for node in nodes:
        assert joined.id in {known.id for known in map_of(node).nodes}


async def test_a_node_that_is_known_by_a_map_alone_may_still_join(coordinator: Any, transport: Any) -> None:
    """The coordinator was lost before it answered; the one that was rebuilt knows the node and no store."""
    desk, node = coordinator.desk, KeyNode(50, coordinator.address.cluster)
    told = [MapNode(node.id, node.public, node.url, "zone")]
    desk.catalogue.write_now(lambda c: adopt_nodes(c, told, SYSTEM.now_ms()))
    await desk.live.refresh(desk.catalogue)
    joined = await join(coordinator, transport, StoreId(b"s" * 16))
    assert desk.live.nodes[joined.id].store == NO_STORE, "its first report has it proven"
