"""Nodes that take a connection and never answer: whoever answers is told, and goes on, without them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from support.devices import OpenDevice, post, tags
from support.witness_nodes import WitnessNode, beat

from holdfast.coordinator import keeping_witnesses, reigning
from holdfast.coordinator.background import TASKS
from holdfast.coordinator.catalogue.nodes import raise_epoch
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import OutcomeUnknown, Unreachable
from holdfast.protocol.ids import AccountId, NodeId

DEADLINE_S = 20.0
"""For what should take milliseconds."""


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[NodeId]]:
    """Nodes in it hang: who asks them gets no answer."""
    found: set[NodeId] = set()
    ask, ask_encoded = NodeCalls.ask, NodeCalls.ask_encoded

    def hangs_at(call: Any) -> Any:
        async def asked(self: NodeCalls, node: Any, *rest: Any, **named: Any) -> Any:
            if node.id in found:
                await asyncio.Event().wait()
            return await call(self, node, *rest, **named)

        return asked

    monkeypatch.setattr(NodeCalls, "ask", hangs_at(ask))
    monkeypatch.setattr(NodeCalls, "ask_encoded", hangs_at(ask_encoded))
    yield found


async def the_map_changed(desk: Any) -> None:
    desk.catalogue.write_now(raise_epoch)
    await desk.live.refresh(desk.catalogue)


def is_told(desk: Any, node: WitnessNode) -> bool:
    told = desk.reigning.told.get(node.id)
    return told is not None and told[0] == desk.live.epoch


def silence(desk: Any, nodes: list[WitnessNode], silent: list[WitnessNode]) -> None:
    """Of these nothing has been heard for long."""
    beat(desk, nodes)
    for node in silent:
        del desk.live.beats[node.id]
    desk.live.started_s -= 10 * desk.live.health.down_after_s
    assert all(desk.live.state(node.id) == "down" for node in silent)


async def test_more_silent_nodes_than_are_told_at_once_keep_none_that_answers_waiting(
    coordinator: Any, nodes: list[WitnessNode], hanging: set[NodeId], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = coordinator.desk
    monkeypatch.setattr(reigning, "TOLD_AT_ONCE_MAX", 1)
    silent, heard = nodes[:2], nodes[2:]  # those that come first hang
    hanging.update(node.id for node in silent)
    silence(desk, nodes, silent)
    await the_map_changed(desk)
    behind = asyncio.create_task(reigning.tell_silent(desk))
    try:
        async with asyncio.timeout(DEADLINE_S):
            await reigning.tell_heard(desk)
        assert all(is_told(desk, node) for node in heard)
        assert not behind.done() and not any(is_told(desk, node) for node in silent)
    finally:
        behind.cancel()


async def test_who_joins_is_known_to_all_that_answer_while_others_hang(
    coordinator: Any, nodes: list[WitnessNode], hanging: set[NodeId], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = coordinator.desk
    monkeypatch.setattr(reigning, "TOLD_AT_ONCE_MAX", 1)
    monkeypatch.setattr(reigning, "TELL_SOON_S", 1.0)
    silent, heard = nodes[:2], nodes[2:]
    hanging.update(node.id for node in silent)
    silence(desk, nodes, silent)
    await the_map_changed(desk)
    await reigning.tell_soon(desk)
    assert all(is_told(desk, node) for node in heard)
    desk.reigning.telling.cancel()


async def test_a_silent_node_that_follows_another_coordinator_is_asked_beside_those_that_report(
    coordinator: Any, nodes: list[WitnessNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, asked = coordinator.desk, []

    async def tells(desk: Any, node: NodeId) -> None:
        asked.append(node)

    silence(desk, nodes, nodes[:1])
    await the_map_changed(desk)
    monkeypatch.setattr(reigning, "tell_node", tells)
    await reigning.tell_heard(desk)
    assert asked == [node.id for node in nodes[1:]]
    await reigning.tell_silent(desk)
    assert asked == [*(node.id for node in nodes[1:]), nodes[0].id]
    assert {reigning.tell_heard, reigning.tell_silent} <= {
        task.turn for task in TASKS if task.also_superseded
    }


async def test_a_node_that_did_not_hear_it_is_left_alone_for_a_while_and_one_that_is_gone_forgotten(
    coordinator: Any, nodes: list[WitnessNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, asked = coordinator.desk, []

    async def refuses(desk: Any, node: NodeId) -> None:
        asked.append(node)
        raise Unreachable("it does not answer", why="on purpose")

    monkeypatch.setattr(reigning, "tell_node", refuses)
    await the_map_changed(desk)
    stranger = NodeId(bytes(NodeId.SIZE))
    desk.reigning.told[stranger] = desk.reigning.told[nodes[0].id]
    await reigning.tell_heard(desk)
    await reigning.tell_heard(desk)
    assert len(asked) == len(nodes) and stranger not in desk.reigning.told
    await reigning.tell_nodes(desk)
    assert len(asked) == 2 * len(nodes), "somebody waits for it"


async def test_heads_that_wait_for_a_node_that_hangs_keep_no_other_head_waiting(
    coordinator: Any,
    nodes: list[WitnessNode],
    device: OpenDevice,
    hanging: set[NodeId],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, one = coordinator.desk, await device("one")
    with monkeypatch.context() as patched:
        one.link._patience_s = 0.0
        patched.setattr("holdfast.coordinator.giving_out.WITNESS_CALL_TIMEOUT_S", 0.0)
        hanging.update(node.id for node in nodes)
        with pytest.raises(OutcomeUnknown):
            await post(one, coordinator, "first")
        hanging.clear()
    assert await tags(one) == []

    stuck, settle_again = AccountId(SYSTEM.random_bytes(AccountId.SIZE)), keeping_witnesses._settle_again

    async def one_hangs(desk: Any, account: AccountId) -> None:
        await (asyncio.Event().wait() if account == stuck else settle_again(desk, account))

    monkeypatch.setattr(keeping_witnesses, "_settle_again", one_hangs)
    monkeypatch.setattr(
        keeping_witnesses.head_rows, "accounts_with_pending", lambda c: [stuck, one.known.account]
    )
    turn = asyncio.create_task(keeping_witnesses.keep_witnesses(desk))
    try:
        async with asyncio.timeout(DEADLINE_S):
            while await tags(one) != ["first"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        turn.cancel()
