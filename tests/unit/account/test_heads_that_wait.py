"""Heads that wait for witnesses which hang, or were given up: others go on, and none is settled early."""

from __future__ import annotations

import asyncio
from pathlib import Path
from sqlite3 import OperationalError
from typing import Any

import pytest
from support.devices import OpenDevice, post, tags
from support.news_for_nodes import DEADLINE_S, follow_successor, the_map_changed
from support.witness_nodes import WitnessNode

from holdfast.coordinator import keeping_witnesses, reigning
from holdfast.coordinator.catalogue import heads as head_rows
from holdfast.coordinator.catalogue.accounts import account_row
from holdfast.coordinator.catalogue.nodes import set_standing
from holdfast.coordinator.keeping_witnesses import keep_witnesses
from holdfast.coordinator.node_calls import NodeCalls
from holdfast.coordinator.telling import end_telling, keep_told, tell_nodes
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import OutcomeUnknown
from holdfast.protocol.ids import AccountId, NodeId


async def leave_waiting(
    desk: Any,
    one: Any,
    coordinator: Any,
    nodes: list[WitnessNode],
    hanging: set[NodeId],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Post a head that no witness answers for."""
    with monkeypatch.context() as patched:
        one.link._patience_s = 0.0
        patched.setattr("holdfast.coordinator.giving_out.WITNESS_CALL_TIMEOUT_S", 0.0)
        hanging.update(node.id for node in nodes)
        with pytest.raises(OutcomeUnknown):
            await post(one, coordinator, "first")
        hanging.clear()
    assert await tags(one) == []


async def give_up_its_witnesses(desk: Any, one: Any) -> AccountId:
    """Everybody whom this account's waiting head was given to is lost for good; gives the account."""
    account: AccountId = one.known.account
    waiting = desk.catalogue.read_now(lambda c: head_rows.pending_head(c, account_row(c, account)))
    for witness in waiting.witnesses:
        await desk.catalogue.write(lambda c, w=witness: set_standing(c, w.node, "lost"))
    await desk.live.refresh(desk.catalogue)
    return account


async def test_a_witness_that_hung_while_it_was_told_keeps_the_next_head(
    coordinator: Any,
    nodes: list[WitnessNode],
    device: OpenDevice,
    hanging: set[NodeId],
) -> None:
    """The call that hangs ends, while the head still waits for its witnesses."""
    desk, one = coordinator.desk, await device("one")
    one.link._patience_s = 0.0
    hanging.update(node.id for node in nodes)
    await the_map_changed(desk)
    await keep_told(desk)
    await asyncio.sleep(0)
    hanging.clear()
    await post(one, coordinator, "first")


async def test_heads_that_wait_for_a_node_that_hangs_keep_no_other_head_waiting(
    coordinator: Any,
    nodes: list[WitnessNode],
    device: OpenDevice,
    hanging: set[NodeId],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, one = coordinator.desk, await device("one")
    await leave_waiting(desk, one, coordinator, nodes, hanging, monkeypatch)
    stuck, settle_again = AccountId(SYSTEM.random_bytes(AccountId.SIZE)), keeping_witnesses._settle_again

    async def one_hangs(desk: Any, account: AccountId) -> None:
        await (asyncio.Event().wait() if account == stuck else settle_again(desk, account))

    monkeypatch.setattr(keeping_witnesses, "_settle_again", one_hangs)
    monkeypatch.setattr(
        keeping_witnesses.head_rows, "accounts_with_pending", lambda c: [stuck, one.known.account]
    )
    turn = asyncio.create_task(keep_witnesses(desk))
    try:
        async with asyncio.timeout(DEADLINE_S):
            while await tags(one) != ["first"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        turn.cancel()


@pytest.mark.parametrize("is_over", [True, False])
async def test_a_head_whose_witnesses_were_all_given_up_waits_until_every_node_could_name_a_successor(
    coordinator: Any,
    nodes: list[WitnessNode],
    device: OpenDevice,
    hanging: set[NodeId],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    is_over: bool,
) -> None:
    """Nobody's word is needed for it: the coordinator was started anew, and its term may be over."""
    desk, one = coordinator.desk, await device("one")
    await leave_waiting(desk, one, coordinator, nodes, hanging, monkeypatch)
    account = await give_up_its_witnesses(desk, one)
    if is_over:
        await follow_successor(desk, tmp_path / "coordinator", nodes)
    desk.reigning = reigning.Reigning()
    await keep_witnesses(desk)
    assert desk.catalogue.read_now(lambda c: account_row(c, account)).head_seq == 0
    await tell_nodes(desk, 60.0)
    await keep_witnesses(desk)
    settled = desk.catalogue.read_now(lambda c: account_row(c, account)).head_seq
    assert (desk.reigning.superseded, settled) == ((2, 0) if is_over else (0, 1))


async def test_a_head_that_nobody_keeps_waits_also_for_nodes_that_were_told_before_they_fell_silent(
    coordinator: Any,
    nodes: list[WitnessNode],
    device: OpenDevice,
    hanging: set[NodeId],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    desk, one = coordinator.desk, await device("one")
    await leave_waiting(desk, one, coordinator, nodes, hanging, monkeypatch)
    account = await give_up_its_witnesses(desk, one)
    await tell_nodes(desk, 60.0)
    await follow_successor(desk, tmp_path / "coordinator", nodes)
    desk.live.beats.clear()
    await keep_witnesses(desk)
    assert desk.catalogue.read_now(lambda c: account_row(c, account)).head_seq == 0


async def test_a_turn_that_fails_leaves_nothing_running(
    coordinator: Any, nodes: list[WitnessNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (AccountId(bytes([number]) * AccountId.SIZE) for number in (1, 2))
    ended = []

    async def again(desk: Any, account: AccountId) -> None:
        if account == one:
            raise KeyError("nobody foresaw this")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(account)

    monkeypatch.setattr(keeping_witnesses, "_settle_again", again)
    monkeypatch.setattr(keeping_witnesses.head_rows, "accounts_with_pending", lambda c: [other, one])
    with pytest.raises(ExceptionGroup):
        await keep_witnesses(coordinator.desk)
    assert ended == [other]


async def test_what_was_given_out_ends_with_the_coordinator(
    coordinator: Any,
    nodes: list[WitnessNode],
    device: OpenDevice,
    hanging: set[NodeId],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, one = coordinator.desk, await device("one")
    await leave_waiting(desk, one, coordinator, nodes, hanging, monkeypatch)
    await asyncio.gather(*desk.witnessing.tasks, return_exceptions=True)
    hanging.update(node.id for node in nodes)
    asked = asyncio.Event()
    ask = NodeCalls.ask_encoded

    async def noted(self: NodeCalls, node: Any, method: str, target: str, *rest: Any, **named: Any) -> Any:
        if target == "/v1/witness/keep":
            asked.set()
        return await ask(self, node, method, target, *rest, **named)

    monkeypatch.setattr(NodeCalls, "ask_encoded", noted)
    before = asyncio.all_tasks()
    await the_map_changed(desk)
    await keep_told(desk)
    turn = asyncio.create_task(keep_witnesses(desk))
    async with asyncio.timeout(DEADLINE_S):
        await asked.wait()
    turn.cancel()
    await asyncio.gather(turn, return_exceptions=True)
    assert desk.witnessing.tasks
    await desk.witnessing.end()
    await end_telling(desk)
    assert not asyncio.all_tasks() - before


async def test_a_coordinator_whose_database_fails_for_a_moment_goes_on(
    coordinator: Any, nodes: list[WitnessNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(c: Any, account: AccountId) -> None:
        raise OperationalError("disk I/O error")

    account = AccountId(bytes(AccountId.SIZE))
    monkeypatch.setattr(keeping_witnesses, "account_row", broken)
    monkeypatch.setattr(keeping_witnesses.head_rows, "accounts_with_pending", lambda c: [account])
    coordinator.desk.witnessing.dirty.add(account)
    await keep_witnesses(coordinator.desk)
    assert coordinator.desk.witnessing.dirty == {account}
