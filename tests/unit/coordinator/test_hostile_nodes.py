"""What one node that lies, or is broken, may do to the rest of the cluster: nothing that lasts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from support.coordinator_service import Office
from support.stored_cluster import stored_cluster

from holdfast.coordinator.catalogue.erasures import is_unreconciled
from holdfast.coordinator.catalogue.nodes import set_standing
from holdfast.coordinator.catalogue.schema import nodes
from holdfast.coordinator.limits import COUNTED_BYTES_MAX, PULSE_AHEAD_MAX
from holdfast.coordinator.reconciling import keep_pulse, keep_reconciled
from holdfast.protocol.errors import BadRequest, Conflict
from holdfast.protocol.inventories import POSITION_BYTES
from holdfast.protocol.messages.inventory import KeysRead, SlotSum, SumsRead
from holdfast.protocol.stripes import digest_of


@pytest.mark.parametrize("pulse", [COUNTED_BYTES_MAX, PULSE_AHEAD_MAX + 1])
async def test_a_pulse_that_cannot_be_is_refused_and_nobody_else_hears_of_it(
    desk_office: Office, pulse: int
) -> None:
    """Taken over, it would grow beyond what heartbeats may tell: then no node could report any more."""
    liar, honest = await desk_office.nodes(2)
    with pytest.raises(Conflict, match="cannot be"):
        await desk_office.beat(liar, pulse=pulse)
    assert "cannot be" in desk_office.desk.live.trouble(liar.id)
    await keep_pulse(desk_office.desk)
    told = desk_office.desk.reconciling.pulse
    assert told == 1
    await desk_office.beat(honest, pulse=told)
    assert not await desk_office.desk.catalogue.read(is_unreconciled)


async def test_the_word_of_a_node_that_lies_stops_no_sweeping(desk_office: Office) -> None:
    liar, honest = await desk_office.nodes(2)
    desk = desk_office.desk
    await desk.catalogue.write(lambda c: set_standing(c, liar.id, "distrusted"))
    await desk.live.refresh(desk.catalogue)
    await desk_office.beat(liar, pulse=77, order=5)
    assert not await desk.catalogue.read(is_unreconciled)
    await desk_office.beat(honest, pulse=77)
    assert await desk.catalogue.read(is_unreconciled), "an honest node's word counts"


async def test_numbers_that_no_catalogue_can_keep_end_no_background_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of everything else a turn may raise, the process ends: one node could end the coordinator at will."""
    async with stored_cluster(tmp_path, 6) as cluster:
        await cluster.backup(range(3))
        liar, calls = cluster.nodes[0], cluster.desk.calls
        honest = calls.ask

        async def ask(row: Any, method: str, target: str, message: Any, answer: Any, **rest: Any) -> Any:
            if row.id != liar.id or answer is not SumsRead:
                return await honest(row, method, target, message, answer, **rest)
            too_large = SlotSum(2**64 - 1, 0, 1, digest_of(b""))
            return SumsRead(store=liar.store.id, slots=[too_large], next=b"")

        monkeypatch.setattr(calls, "ask", ask)
        for _ in range(20):
            if await keep_reconciled(cluster.desk) is None:
                break
        compared = cluster.desk.reconciling.compared
        assert compared[liar.id].is_failed
        assert all(not compared[node.id].is_failed for node in cluster.nodes[1:])


async def test_a_number_too_large_for_the_catalogue_is_a_refusal_wherever_it_comes_from(
    desk_office: Office,
) -> None:
    query = select(nodes.c.id).where(nodes.c.capacity_bytes == 2**64 - 1)
    for ask in (desk_office.desk.catalogue.read_now, desk_office.desk.catalogue.write_now):
        with pytest.raises(BadRequest):
            ask(lambda c: c.execute(query).all())


async def test_what_a_node_lists_without_end_is_worked_off_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Collected first, it would fill the coordinator's memory."""
    async with stored_cluster(tmp_path, 6) as cluster:
        await cluster.backup(range(40))
        await cluster.reconcile()
        liar, calls = cluster.nodes[0], cluster.desk.calls
        gone = sorted(liar.held(), key=lambda key: key.pack())[7]
        await liar.erase([gone])
        honest, listed = calls.ask, [0]

        async def ask(row: Any, method: str, target: str, message: Any, answer: Any, **rest: Any) -> Any:
            told = await honest(row, method, target, message, answer, **rest)
            if row.id == liar.id and answer is KeysRead and told.positions:
                listed[0] += 1
                if listed[0] == 20:
                    # What came before was taken over, though the list has not ended.
                    assert (gone.chunk, gone.slot, "inventory") in cluster.missing()
                return KeysRead(positions=told.positions[:POSITION_BYTES], is_end=False)
            return told

        monkeypatch.setattr(calls, "ask", ask)
        await cluster.compare_all()
        assert listed[0] > 30
        assert cluster.missing() == [(gone.chunk, gone.slot, "inventory")], "and nothing else was noted"
