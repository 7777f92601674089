"""Nodes that take a connection and never answer: whoever answers is told without them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from support.news_for_nodes import DEADLINE_S, follow_successor, the_map_changed
from support.witness_nodes import WitnessNode, beat

from holdfast.coordinator import telling
from holdfast.coordinator.background import TASKS
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.coordinator.reigning import newest_map, tell_node, to_hear
from holdfast.coordinator.telling import end_telling, keep_told, tell_nodes
from holdfast.protocol.codec import decode
from holdfast.protocol.errors import Unreachable
from holdfast.protocol.ids import NodeId
from holdfast.protocol.messages.cluster import ClusterMap


def is_told(desk: Any, node: WitnessNode) -> bool:
    told = desk.reigning.told.get(node.id)
    return told is not None and told[0] == desk.live.epoch


async def told(desk: Any, nodes: list[WitnessNode]) -> None:
    """Wait until all of these were told, while the coordinator has its turns."""
    async with asyncio.timeout(DEADLINE_S):
        while not all(is_told(desk, node) for node in nodes):
            await keep_told(desk)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["down", "suspect, as right after a start", "up, and cannot be reached"])
async def test_more_nodes_that_hang_than_are_told_at_once_keep_none_that_answers_waiting(
    coordinator: Any,
    nodes: list[WitnessNode],
    hanging: set[NodeId],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    desk = coordinator.desk
    monkeypatch.setattr(telling, "PLACE_KEPT_S", 0.05)
    hang, heard = nodes[:4], nodes[4:]  # those that come first hang
    hanging.update(node.id for node in hang)
    beat(desk, nodes)
    if how != "up, and cannot be reached":
        for node in hang:
            del desk.live.beats[node.id]
    if how == "down":
        desk.live.started_s -= 10 * desk.live.health.down_after_s
        beat(desk, heard)
    await the_map_changed(desk)
    await told(desk, heard)
    assert not any(is_told(desk, node) for node in hang)
    await the_map_changed(desk)
    await told(desk, heard)  # also of what comes while those hang still


async def test_who_joins_is_known_to_all_that_answer_while_others_hang(
    coordinator: Any, nodes: list[WitnessNode], hanging: set[NodeId], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = coordinator.desk
    monkeypatch.setattr(telling, "PLACE_KEPT_S", 0.05)
    hanging.update(node.id for node in nodes[:4])
    for _ in range(3):  # one after the other, while the first calls to those that hang are under way
        await the_map_changed(desk)
        joining = asyncio.create_task(tell_nodes(desk, within_s=DEADLINE_S))
        async with asyncio.timeout(DEADLINE_S):
            while not all(is_told(desk, node) for node in nodes[4:]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        joining.cancel()
        assert not any(desk.reigning.telling[node.id].done() for node in nodes[:4])


async def test_a_second_one_who_joins_learns_of_a_successor_while_a_node_hangs(
    coordinator: Any, nodes: list[WitnessNode], hanging: set[NodeId], tmp_path: Path
) -> None:
    desk = coordinator.desk
    hanging.add(nodes[0].id)
    await the_map_changed(desk)
    await tell_nodes(desk, within_s=0.1)
    await follow_successor(desk, tmp_path / "coordinator", nodes[1:])
    await the_map_changed(desk)
    joining = asyncio.create_task(tell_nodes(desk, within_s=DEADLINE_S))
    async with asyncio.timeout(DEADLINE_S):
        while desk.reigning.superseded != 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    joining.cancel()


async def test_those_that_did_not_answer_last_time_are_asked_and_not_waited_for(
    coordinator: Any, nodes: list[WitnessNode], hanging: set[NodeId]
) -> None:
    desk = coordinator.desk
    beat(desk, nodes)
    for node in nodes[:2]:
        hanging.add(node.id)
        del desk.live.beats[node.id]
        desk.reigning.retry_s[node.id] = desk.source.monotonic() + 3600.0
    await the_map_changed(desk)
    async with asyncio.timeout(DEADLINE_S):
        await tell_nodes(desk, within_s=3600.0)
    assert all(is_told(desk, node) for node in nodes[2:])
    assert not any(desk.reigning.telling[node.id].done() for node in nodes[:2])


async def test_nodes_that_do_not_report_are_told_too_and_again_when_that_changes(
    coordinator: Any, nodes: list[WitnessNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, asked = coordinator.desk, []

    async def tells(desk: Any, node: NodeId) -> None:
        asked.append(node)
        desk.reigning.told[node] = to_hear(desk, node)

    await tell_nodes(desk, 60.0)
    monkeypatch.setattr(telling, "tell_node", tells)
    every = sorted(node.id for node in nodes)
    for how in ("suspect", "down", "stopping"):
        now = desk.source.monotonic()
        silent_s = {"suspect": desk.live.health.suspect_after_s, "down": desk.live.health.down_after_s}
        for node in nodes:
            known = desk.live.beats[node.id]
            report = msgspec.structs.replace(known.report, state="stopping" if how == "stopping" else "ok")
            age_s = silent_s.get(how, -0.1) + 0.1
            desk.live.beats[node.id] = replace(known, report=report, steady_s=now - age_s)
        assert {desk.live.state(node.id) for node in nodes} == {how}
        asked.clear()
        await keep_told(desk)
        await asyncio.gather(*desk.reigning.telling.values())
        assert sorted(asked) == every
    assert any(task.turn is keep_told and task.also_superseded for task in TASKS)


async def test_a_node_that_did_not_hear_it_is_left_alone_for_a_while_and_one_that_is_gone_forgotten(
    coordinator: Any, nodes: list[WitnessNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, asked = coordinator.desk, []

    async def refuses(desk: Any, node: NodeId) -> None:
        asked.append(node)
        raise Unreachable("it does not answer", why="on purpose")

    await tell_nodes(desk, 60.0)
    monkeypatch.setattr(telling, "tell_node", refuses)
    await the_map_changed(desk)
    stranger = NodeId(bytes(NodeId.SIZE))
    desk.reigning.told[stranger] = desk.reigning.told[nodes[0].id]
    desk.reigning.retry_s[stranger] = 1.0
    for _ in range(2):
        await keep_told(desk)
        await asyncio.gather(*desk.reigning.telling.values())
    assert len(asked) == len(nodes)
    assert stranger not in desk.reigning.told and stranger not in desk.reigning.retry_s
    await tell_nodes(desk, 60.0)
    assert len(asked) == 2 * len(nodes), "somebody waits for it"


async def test_what_nobody_foresaw_in_telling_ends_the_turn(
    coordinator: Any, nodes: list[WitnessNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(desk: Any, node: NodeId) -> None:
        raise KeyError("nobody foresaw this")

    desk = coordinator.desk
    await tell_nodes(desk, 60.0)
    monkeypatch.setattr(telling, "tell_node", breaks)
    await the_map_changed(desk)
    await keep_told(desk)
    await asyncio.gather(*desk.reigning.telling.values(), return_exceptions=True)
    with pytest.raises(KeyError):
        await keep_told(desk)


async def test_who_is_told_by_many_at_once_never_gets_an_older_map_after_a_newer_one(
    coordinator: Any, nodes: list[WitnessNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, ask, random = coordinator.desk, NodeCalls.ask, Random(7)
    seen: dict[NodeId, list[int]] = {node.id: [] for node in nodes}

    async def slow(
        self: NodeCalls, node: Any, method: str, target: str, message: Any, *rest: Any, **named: Any
    ) -> Any:
        await asyncio.sleep(0.02 * random.random())
        if target == "/v1/reign" and message.map is not None:
            seen[node.id].append(decode(message.map.payload, ClusterMap).epoch)
        answer = await ask(self, node, method, target, message, *rest, **named)
        await asyncio.sleep(0.02 * random.random())
        return answer

    async def changes() -> None:
        for _ in range(40):
            await the_map_changed(desk)
            await asyncio.sleep(0.01)

    monkeypatch.setattr(NodeCalls, "ask", slow)
    telling_all = [tell_nodes(desk, 60.0) for _ in range(8)] + [keep_told(desk) for _ in range(8)]
    telling_one = [tell_node(desk, node.id) for node in nodes for _ in range(4)]
    await asyncio.gather(changes(), *telling_all, *telling_one)
    await tell_nodes(desk, 60.0)
    assert all(epochs == sorted(epochs) for epochs in seen.values())
    assert all(node.store and node.store.map_digest == newest_map(desk) for node in nodes)


async def test_whom_telling_ends_with_is_waited_for(
    coordinator: Any, nodes: list[WitnessNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, ended, begun = coordinator.desk, [], asyncio.Event()

    async def slow(desk: Any, node: NodeId) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            ended.append(node)
            raise Unreachable("it ends while it is closed", why="on purpose")

    monkeypatch.setattr(telling, "tell_node", slow)
    before = asyncio.all_tasks()
    await the_map_changed(desk)
    await keep_told(desk)
    await begun.wait()
    await end_telling(desk)
    assert ended and not asyncio.all_tasks() - before


async def test_a_fault_is_not_forgotten_because_somebody_joins_meanwhile(
    coordinator: Any, nodes: list[WitnessNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, tell, faults = coordinator.desk, telling.tell_node, iter([KeyError("nobody foresaw this")])

    async def once(desk: Any, node: NodeId) -> None:
        for fault in faults:
            raise fault
        await tell(desk, node)

    monkeypatch.setattr(telling, "tell_node", once)
    await the_map_changed(desk)
    await keep_told(desk)
    await asyncio.gather(*desk.reigning.telling.values(), return_exceptions=True)
    await tell_nodes(desk, 60.0)
    with pytest.raises(KeyError):
        await keep_told(desk)
