"""A coordinator that is succeeded: it learns of it from the nodes, and devices go on with the other one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.devices import OpenDevice, post, tags
from support.witness_nodes import WitnessNode, beat, joined_nodes

from holdfast.coordinator.identity import found_anew, read_kit
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.coordinator.service.desk import Desk
from holdfast.coordinator.service.routes import make_routes
from holdfast.coordinator.telling import tell_nodes
from holdfast.protocol.address import Address
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import (
    BadRequest,
    HoldfastError,
    NotFound,
    OutcomeUnknown,
    Refused,
    Rollback,
    Superseded,
)
from holdfast.protocol.ids import ChunkId
from holdfast.protocol.messages.witness import Reign, Reigned
from holdfast.protocol.serving import ListenAddress, Server


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
    await tell_nodes(desk, 60.0)
    assert desk.reigning.superseded == 0, "they were told before, and nothing has changed yet"
    beat(desk, nodes)
    long_ago = desk.source.monotonic() - 10 * desk.live.health.down_after_s
    for node in nodes:  # they report to the other one now
        desk.live.beats[node.id] = replace(desk.live.beats[node.id], steady_s=long_ago)
    await tell_nodes(desk, 60.0)
    assert desk.reigning.superseded == 2
    with pytest.raises(Superseded):
        await post(one, coordinator, "nobody would witness it")


@asynccontextmanager
async def successor(coordinator: Any, tmp_path: Path) -> AsyncIterator[Address]:
    """Another coordinator of the cluster, of term 2, with the same catalogue; where it serves."""
    desk, folder = coordinator.desk, tmp_path / "coordinator"
    identity = found_anew(folder, read_kit(folder / "cluster-kit.pem"), 2, SYSTEM, desk.identity.operator)
    other = Desk(identity, desk.catalogue, desk.live, SYSTEM, "test", desk.calls._transport)
    server = Server(make_routes(other), ListenAddress("127.0.0.1", 0))
    bound = await server.start()
    try:
        yield Address(f"http://{bound}", identity.cluster)
    finally:
        await server.stop()


async def test_a_device_at_work_goes_on_with_the_successor_and_never_goes_back(
    device: OpenDevice, coordinator: Any, tmp_path: Path
) -> None:
    one = await device("one")
    await post(one, coordinator, "before")
    async with successor(coordinator, tmp_path) as address:
        one.link.address = address  # as if it were the same one
        await post(one, coordinator, "after")
        assert await tags(one) == ["before", "after"]
        assert one.home.account().term == one.known.term == 2
        one.link.address = coordinator.address
        with pytest.raises(Rollback):
            await one.head()


async def test_a_read_that_meets_the_successor_first_goes_on_with_it(
    device: OpenDevice, coordinator: Any, tmp_path: Path
) -> None:
    """It asks for the map beside its chunks: signed by the successor before the link has met that one."""
    one, absent = await device("one"), ChunkId(bytes(32))
    async with successor(coordinator, tmp_path) as address:
        one.link.address = address
        ((_, told),) = [found async for found in one.downloader.fetch([absent])]
    assert isinstance(told, NotFound) and one.link.charter.term == 2


async def test_a_refusal_says_nothing_of_a_head_whose_answer_was_lost(
    device: OpenDevice, coordinator: Any, transport: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second try comes to another coordinator, which refuses it; the first may have been taken."""
    one = await device("one")
    async with successor(coordinator, tmp_path) as address:
        one.link.address = address
        view = await one.head()
        send = transport.call

        async def lost_on_its_way_back(method: str, url: str, target: str, *rest: Any, **more: Any) -> Any:
            answer = await send(method, url, target, *rest, **more)
            if method == "POST" and target == "/v1/heads":
                one.link.address = coordinator.address
                raise OutcomeUnknown("the answer was lost", why="on purpose")
            return answer

        monkeypatch.setattr(transport, "call", lost_on_its_way_back)
        with pytest.raises(OutcomeUnknown):
            await post(one, coordinator, "taken all the same", view=view)
        one.link.address = address
        assert await tags(one) == ["taken all the same"]


@pytest.mark.parametrize("answers", [HoldfastError("a proxy's page"), BadRequest("no such message")])
async def test_nor_does_one_after_which_nobody_says_who_refused(
    answers: HoldfastError,
    device: OpenDevice,
    coordinator: Any,
    transport: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first try's answer is lost, the second is refused, and who reigns cannot be found out."""
    one, tries = await device("one"), 0
    view = await one.head()

    async def call(method: str, url: str, target: str, *rest: Any, **more: Any) -> Any:
        nonlocal tries
        if target == "/v1/cluster":
            raise answers
        tries += 1
        raise OutcomeUnknown("the answer was lost") if tries == 1 else Refused("signed for somebody else")

    monkeypatch.setattr(transport, "call", call)
    with pytest.raises(OutcomeUnknown):
        await post(one, coordinator, "taken, perhaps", view=view)
    assert tries == 2
