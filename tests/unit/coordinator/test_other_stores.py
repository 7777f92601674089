"""A node comes back with another store than it had: noticed, named, and filled again or refused."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.coordinator_service import HandClock
from support.stored_cluster import Stored, StoredCluster, chunk_of, stored_cluster

from holdfast.protocol.errors import Conflict
from holdfast.protocol.limits import DELETION_HOLD_S_DEFAULT
from holdfast.protocol.messages.admin import ClusterStatus, NodeStatus

MANY, MORE = range(30), range(30, 50)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[StoredCluster]:
    async with stored_cluster(tmp_path, 6) as made:
        yield made


async def shown(cluster: StoredCluster, node: Stored) -> NodeStatus:
    told = await cluster.office.call("GET", "/v1/admin/status", None, ClusterStatus, cluster.office.operator)
    (found,) = [one for one in told.nodes if one.id == node.id]
    return found


async def require_whole(cluster: StoredCluster, numbers: range) -> None:
    assert all(cluster.readable(number) == 6 for number in numbers)
    await cluster.compare_all()
    assert cluster.missing() == [] and not cluster.desk.live.moves


async def test_a_wiped_node_that_returns_under_its_id_is_filled_again(cluster: StoredCluster) -> None:
    await cluster.backup(MANY)
    node = cluster.nodes[2]
    before, had = node.store.id, len(node.held())
    await node.stop()
    shutil.rmtree(node.folder)
    await node.start()
    await node.beat()
    assert node.store.id != before and node.held() == []
    moves = cluster.desk.live.moves
    assert {move.why for move in moves.values()} == {"refill"} and all(m.old is None for m in moves.values())
    # While it is filled nobody counts on it: not for sweeping, not for what is over elsewhere.
    await cluster.repair()
    assert len(node.held()) == had
    await require_whole(cluster, MANY)


async def test_disks_swapped_between_two_nodes_are_refused_by_name_and_fine_when_put_right(
    cluster: StoredCluster,
) -> None:
    await cluster.backup(MANY)
    one, other = cluster.nodes[0], cluster.nodes[1]
    for node in (one, other):
        await node.stop()
    swap(one, other)
    for node in (one, other):
        await node.start()
        with pytest.raises(Conflict) as caught:
            await node.beat()
        assert "another store" in caught.value.what and caught.value.do
        assert "another store" in (await shown(cluster, node)).trouble
        await node.stop()
    assert not cluster.desk.live.moves, "nothing is given up for a mistake of somebody's hands"
    swap(one, other)
    for node in (one, other):
        await node.start()
        await node.beat()
    await cluster.reconcile()
    await require_whole(cluster, MANY)
    cluster.office.clock.advance(60)
    for node in cluster.nodes:
        await node.beat()
    assert (await shown(cluster, one)).trouble == ""


def swap(one: Stored, other: Stored) -> None:
    aside = one.folder.with_name("aside")
    one.folder.rename(aside)
    other.folder.rename(one.folder)
    aside.rename(other.folder)


async def test_a_node_restored_from_an_older_disk_image_is_proven_and_filled(cluster: StoredCluster) -> None:
    """Its counter went back: what was stored since is missing, what was erased since is there again."""
    await cluster.backup(MANY)
    node = cluster.nodes[4]
    await node.stop()
    image = node.folder.with_name("image")
    shutil.copytree(node.folder, image)
    await node.start()
    await node.beat()
    await cluster.backup(MORE)
    # Something that the image has was swept meanwhile, and erased on every node.
    gone = [chunk_of(number) for number in MANY[:3]]
    await cluster.desk.catalogue.write(
        lambda c: [c.exec_driver_sql("DELETE FROM chunks WHERE id = ?", (bytes(chunk),)) for chunk in gone]
    )
    for each in cluster.nodes:
        await each.erase([key for key in each.held() if key.chunk in gone])
    await cluster.compare_all()
    await cluster.beat()
    await node.stop()
    shutil.rmtree(node.folder)
    shutil.copytree(image, node.folder)
    await node.start()
    await node.beat()
    assert {move.why for move in cluster.desk.live.moves.values()} == {"refill"}
    assert {key.chunk for key in node.held()} & set(gone)
    await cluster.repair()
    await cluster.compare_all()
    await cluster.send_orders()
    assert not {key.chunk for key in node.held()} & set(gone), "to be erased, by order and after the hold"
    await cluster.advance(DELETION_HOLD_S_DEFAULT + 1)
    await node.erase_due()
    held = {key.pack() for key in node.held(with_marked=True)}
    assert held == {key.pack() for key in node.held()}
    left = list(cluster.rows().values())
    assert len(left) == len(MANY) + len(MORE) - 3 and cluster.missing() == []
    assert len(held) == len(left), "as many as there are chunks: it holds one slot of each"


async def test_an_older_image_that_the_counter_does_not_give_away_is_found_by_its_inventory(
    tmp_path: Path,
) -> None:
    """The coordinator had not noted how far the store had come, and is started anew."""
    clock = HandClock()
    async with stored_cluster(tmp_path, 6, clock) as cluster:
        await cluster.backup(MANY)
        node = cluster.nodes[4]
        await node.stop()
        shutil.copytree(node.folder, tmp_path / "image")
        await node.start()
        await node.beat()
        await cluster.backup(MORE)
        folder = node.folder
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "image", folder)
    clock.advance(60)
    async with stored_cluster(tmp_path, 6, clock) as cluster:
        assert not cluster.desk.live.moves
        await cluster.reconcile()
        assert len(cluster.missing()) == len(MORE)
        await cluster.repair()
        await require_whole(cluster, range(50))


async def test_a_copied_node_is_named(cluster: StoredCluster) -> None:
    node = cluster.nodes[3]
    first = b"f" * 16
    await node.beat(start=first)
    await node.beat(start=b"s" * 16)
    with pytest.raises(Conflict):
        await node.beat(start=first)
    assert "another process" in (await shown(cluster, node)).trouble
