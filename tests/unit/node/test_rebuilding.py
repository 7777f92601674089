"""What a node vouches for after a rebuild stays there; and who is a source for as long as he is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.real_cluster import RealCluster, RealNode, contents, real_cluster

from holdfast.coordinator.catalogue.moves import assign_slot
from holdfast.coordinator.keeping_membership import keep_membership


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[RealCluster]:
    """Six nodes with eight stripes in one group."""
    async with real_cluster(tmp_path, 6) as made:
        await made.store(contents(8))
        yield made


def holder(cluster: RealCluster, slot: int) -> RealNode:
    number = cluster.rows()[0].group_id
    return cluster.node(cluster.desk.live.groups[number].members[slot])


async def test_shards_that_were_to_be_erased_are_kept_when_the_slot_comes_back(cluster: RealCluster) -> None:
    """Left over from when the node held the slot before, and marked by an order it has taken since."""
    node = holder(cluster, 2)
    held = node.held()
    group = cluster.desk.live.groups[cluster.rows()[0].group_id]
    marked = await node.writer.run(lambda store: store.mark(1, held, due_ms=0))
    assert marked == (8, 0)
    cluster.desk.catalogue.write_now(lambda c: assign_slot(c, group, 2, node.id, "refill", 1))
    await cluster.desk.live.refresh(cluster.desk.catalogue)
    await cluster.keep()
    assert not cluster.desk.live.moves and await cluster.spare() == {"2": 8}
    assert await node.writer.run(lambda store: store.erase_due(10**15, 1000)) == 0
    assert node.held() == held


async def test_a_slot_given_away_while_stripes_are_counted_makes_nothing_look_whole(
    cluster: RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = cluster.desk.live.groups[cluster.rows()[0].group_id]
    await holder(cluster, 5).stop()
    await cluster.pass_time(6)
    fresh = await cluster.add_node("zone-0")
    catalogue = cluster.desk.catalogue
    read, is_given = catalogue.read, []

    async def read_late(command: Any) -> Any:
        found = await read(command)
        if not is_given:
            is_given.append(True)
            catalogue.write_now(lambda c: assign_slot(c, group, 5, fresh.id, "lost", 1))
            await cluster.desk.live.refresh(catalogue)
        return found

    monkeypatch.setattr(catalogue, "read", read_late)
    assert await cluster.spare() == {"1": 8}
    assert is_given


async def test_with_too_few_sources_a_slot_waits_for_its_former_holder_and_takes_all_from_him(
    cluster: RealCluster,
) -> None:
    """Three of six are away, one of them for so long that its slots were given to another node."""
    former = holder(cluster, 5)
    bound = former.bound
    await former.stop()
    await cluster.pass_time(61)
    await cluster.add_node("zone-0")
    for _ in range(8):
        await keep_membership(cluster.desk)
    fresh = holder(cluster, 5)
    assert fresh is not former and cluster.desk.live.moves
    for slot in (0, 1):
        await holder(cluster, slot).stop()
    await cluster.pass_time(6)
    await cluster.keep(10)
    assert not fresh.held() and not cluster.missing(), "nothing is given up, nothing is noted as if it were"
    assert await cluster.spare() == {"-1": 8}
    former.bound = bound
    await former.start(cluster.office)
    await cluster.keep(10)
    assert len(fresh.held()) == 8 and await cluster.spare() == {"0": 8}
