"""Repair with real stores: what is most at stake first, no faster than allowed, and nothing made worse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete
from support.real_cluster import RealCluster, RealNode, contents, lie, real_cluster

from holdfast.coordinator import repairing
from holdfast.coordinator.catalogue.missing import Gone, note_gone
from holdfast.coordinator.catalogue.schema import chunks, missing
from holdfast.coordinator.keeping_membership import keep_membership
from holdfast.coordinator.repair_pacing import RepairSettings, Throttle
from holdfast.coordinator.repairing import keep_whole
from holdfast.node.store import Absent
from holdfast.protocol.ids import ChunkId, UploadId


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[RealCluster]:
    """Six nodes with twelve stripes in one group."""
    async with real_cluster(tmp_path, 6) as made:
        await made.store(contents(12))
        yield made


def holder(cluster: RealCluster, slot: int, group: int | None = None) -> RealNode:
    number = cluster.rows()[0].group_id if group is None else group
    return cluster.node(cluster.desk.live.groups[number].members[slot])


def lose(
    cluster: RealCluster, slots: list[int], *, only: int | None = None, group: int | None = None
) -> None:
    """Note shards of these slots as gone, of all stripes of a group or of so many."""
    rows = [row for row in cluster.rows() if group in (None, row.group_id)][:only]
    gone = [
        Gone(row.account, ChunkId(row.id), UploadId(row.generation), row.group_id, slot)
        for row in rows
        for slot in slots
    ]
    cluster.desk.catalogue.write_now(lambda c: note_gone(c, gone, "test"))


async def lost_and_replaced(cluster: RealCluster, slot: int) -> RealNode:
    """A holder is lost for good, and a new node takes its slots; nothing is brought back yet."""
    dead = holder(cluster, slot)
    await dead.stop()
    await cluster.pass_time(61)
    await cluster.add_node("zone-0")
    for _ in range(12):
        await keep_membership(cluster.desk)
    assert cluster.standing(dead.id) == "lost" and cluster.desk.live.moves
    return dead


async def test_a_short_absence_costs_only_what_was_missed(cluster: RealCluster) -> None:
    away = holder(cluster, 2)
    bound = away.bound
    await away.stop()
    await cluster.pass_time(6)
    await cluster.store(contents(3, seed=b"meanwhile"), place=0)
    assert len(cluster.missing()) == 3
    before = {node.id: len(node.held()) for node in cluster.nodes if node.is_up}
    away.bound = bound
    await away.start(cluster.office)
    await cluster.keep()
    assert len(away.held()) == 15 and await cluster.spare() == {"2": 15}
    assert {node: len(cluster.node(node).held()) for node in before} == before, "nobody else moved a shard"
    assert not cluster.desk.live.moves


async def test_a_node_that_comes_and_goes_causes_no_storm(cluster: RealCluster) -> None:
    flapping = holder(cluster, 1)
    bound = flapping.bound
    versions = {group.id: group.version for group in cluster.desk.live.groups.values()}
    for _ in range(4):
        await flapping.stop()
        await cluster.pass_time(12)
        await keep_membership(cluster.desk)
        flapping.bound = bound
        await flapping.start(cluster.office)
        await cluster.keep(2)
    assert {group.id: group.version for group in cluster.desk.live.groups.values()} == versions
    assert sum(node.writer.store.stats().shards for node in cluster.nodes) == 6 * 12


async def test_what_has_fewest_spare_shards_comes_first_though_its_slot_is_one_of_many(
    cluster: RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two groups: of one every stripe lacks a shard, of the other one stripe lacks two."""
    await cluster.store(contents(6, seed=b"other"), place=3)
    first, second = sorted({row.group_id for row in cluster.rows()})
    lose(cluster, [0], group=first)
    lose(cluster, [4, 5], only=1, group=second)
    worked: list[tuple[int, int]] = []
    real = repairing.rebuild

    async def noted(desk, group, slot, rows, source=None):  # type: ignore[no-untyped-def]
        worked.append((group.id, slot))
        return await real(desk, group, slot, rows, source)

    monkeypatch.setattr(repairing, "rebuild", noted)
    monkeypatch.setattr(repairing, "REPAIRS_AT_ONCE_MAX", 1)
    await cluster.keep()
    assert {group for group, _ in worked[:2]} == {second} and worked[-1] == (first, 0)


async def test_among_equals_those_that_losing_a_zone_would_hurt_most_come_first(tmp_path: Path) -> None:
    """Three slots in each of two zones; both stripes have no spare shard, one has three in one zone."""
    async with real_cluster(tmp_path, 6, zones=2) as cluster:
        await cluster.store(contents(2))
        group = cluster.desk.live.groups[cluster.rows()[0].group_id]
        zones = [cluster.desk.live.nodes[node].zone for node in group.members]
        near = [slot for slot in range(6) if zones[slot] == zones[0]]
        far = [slot for slot in range(6) if zones[slot] != zones[0]]
        assert len(near) == len(far) == 3
        even, uneven = cluster.rows()

        def note(row: Any, slots: list[int]) -> None:
            gone = [Gone(row.account, ChunkId(row.id), UploadId(row.generation), group.id, s) for s in slots]
            cluster.desk.catalogue.write_now(lambda c: note_gone(c, gone, "test"))

        note(even, [near[0], far[0]])
        note(uneven, [far[1], far[2]])
        ready = [(group.id, slot) for slot in (near[0], far[0], far[1], far[2])]
        order = await repairing._by_urgency(cluster.desk, ready)
        assert {slot for _, slot in order[:2]} == {far[1], far[2]}
        spare = cluster.desk.repairs.spare
        assert {standing.now for standing in spare.values()} == {0}
        assert spare[order[0]].after_zone == -3 and spare[order[3]].after_zone == -2


async def test_it_goes_no_faster_than_allowed_and_at_any_speed_where_nothing_is_spare(
    cluster: RealCluster,
) -> None:
    cluster.desk.throttle = Throttle(RepairSettings(bytes_per_s=0, node_bytes_per_s=1))
    lose(cluster, [3])
    await keep_whole(cluster.desk)
    assert not cluster.missing(), "the first batch is free"
    lose(cluster, [3])
    for _ in range(3):
        await keep_whole(cluster.desk)
    assert len(cluster.missing()) == 12, "the second would have to wait for hours"
    lose(cluster, [4, 5])
    await keep_whole(cluster.desk)
    left = {(chunk, slot) for chunk, _, slot, _ in cluster.missing()}
    assert len(left) < 24, "with no shard to spare there is no waiting"


async def test_a_source_that_lies_is_found_out_and_others_are_asked(cluster: RealCluster) -> None:
    liar = holder(cluster, 1)
    liar.store_view.bend = lie
    empty = holder(cluster, 0)
    empty.store_view.bend = lambda key, outcome: Absent()
    lose(cluster, [0])
    await keep_whole(cluster.desk)
    empty.store_view.bend = None
    assert not [row for row in cluster.missing() if row[2] == 0], "slot 0 is whole"
    assert {slot for _, _, slot, _ in cluster.missing()} == {1}, "and what lied is noted"
    liar.store_view.bend = None
    await cluster.keep()
    told = await cluster.audit(40)
    assert told.right == told.shards


async def test_a_source_that_dies_halfway_is_done_without(cluster: RealCluster) -> None:
    await lost_and_replaced(cluster, 0)
    dying = holder(cluster, 4)

    def die(_: object, outcome: object) -> object:
        raise ConnectionAbortedError("it dies while it reads")

    dying.store_view.bend = die  # type: ignore[assignment]
    await cluster.keep(12)
    assert not [slot for (group, slot) in cluster.desk.live.moves if group == cluster.rows()[0].group_id]
    dying.store_view.bend = None
    await cluster.keep()
    assert await cluster.spare() == {"2": 12}


async def test_a_chunk_that_is_deleted_while_it_is_brought_back_does_not_return(
    cluster: RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted = cluster.rows()[0].id
    real = repairing.rebuild

    async def overtaken(desk, group, slot, rows, source=None):  # type: ignore[no-untyped-def]
        answer = await real(desk, group, slot, rows, source)

        def gone(connection) -> None:  # type: ignore[no-untyped-def]
            connection.execute(delete(missing).where(missing.c.chunk == deleted))
            connection.execute(delete(chunks).where(chunks.c.id == deleted))

        desk.catalogue.write_now(gone)
        return answer

    monkeypatch.setattr(repairing, "rebuild", overtaken)
    lose(cluster, [2])
    for node in cluster.nodes:  # and what it still finds absent is no news either
        node.store_view.bend = lambda key, outcome: Absent() if key.chunk == deleted else outcome
    await keep_whole(cluster.desk)
    assert deleted not in {row.id for row in cluster.rows()}
    assert not cluster.missing() and len(cluster.rows()) == 11


async def test_with_no_node_to_go_to_that_is_said_and_waited_for(cluster: RealCluster) -> None:
    dead = holder(cluster, 5)
    await dead.stop()
    await cluster.pass_time(61)
    await cluster.keep(3)
    group = cluster.rows()[0].group_id
    assert (group, 5, "lost") in cluster.desk.repairs.waiting
    assert await cluster.spare() == {"1": 12}
    await cluster.add_node("zone-0")
    await cluster.keep()
    assert await cluster.spare() == {"2": 12} and not cluster.desk.repairs.waiting


async def test_more_than_m_losses_wait_for_their_nodes_and_all_of_it_counts_again(
    cluster: RealCluster,
) -> None:
    away = [holder(cluster, slot) for slot in (0, 1, 2)]
    bounds = [node.bound for node in away]
    for node in away:
        await node.stop()
    await cluster.pass_time(70)
    await cluster.keep(2)
    assert await cluster.spare() == {"-1": 12}
    assert all(cluster.standing(node.id) == "joined" for node in away), "three at once are not given up"
    assert len(cluster.rows()) == 12, "nothing is discarded"
    for node, bound in zip(away, bounds, strict=True):
        node.bound = bound
        await node.start(cluster.office)
    await cluster.keep(3)
    assert await cluster.spare() == {"2": 12}


async def test_the_time_left_is_that_of_all_slots_together(cluster: RealCluster) -> None:
    repairs = cluster.desk.repairs
    lose(cluster, [0, 1])
    await keep_whole(cluster.desk)
    assert repairs.done_shards == 24 and repairs.eta_s == 0
