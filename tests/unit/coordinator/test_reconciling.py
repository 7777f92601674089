"""Nodes and catalogue are compared: what is gone is noted; what nobody needs goes, what is needed never."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.coordinator_service import upload_id
from support.stored_cluster import Stored, StoredCluster, chunk_of, stored_cluster

from holdfast.coordinator.catalogue.moves import assign_slot
from holdfast.coordinator.catalogue.uploads import expire_uploads
from holdfast.coordinator.limits import COMPARE_AGAIN_S
from holdfast.node.store import ShardKey
from holdfast.protocol.ids import Digest
from holdfast.protocol.limits import DELETION_HOLD_S_DEFAULT, TICKET_LIFETIME_MS, UPLOAD_SILENCE_MS
from holdfast.protocol.messages.inventory import SlotSum, SumsRead

MANY = range(40)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[StoredCluster]:
    async with stored_cluster(tmp_path, 7) as made:
        yield made


async def test_a_whole_cluster_differs_in_nothing(cluster: StoredCluster) -> None:
    await cluster.backup(MANY)
    await cluster.reconcile()
    assert cluster.missing() == [] and cluster.to_erase() == 0
    assert set(cluster.desk.reconciling.compared) == {node.id for node in cluster.nodes}


async def test_shards_that_are_silently_gone_are_noted_and_brought_back(cluster: StoredCluster) -> None:
    lease, _ = await cluster.backup(MANY)
    loser = cluster.node(lease.members[3])
    lost = loser.held()[5:12]
    await loser.erase(lost)
    await cluster.reconcile()
    assert sorted(cluster.missing()) == sorted((key.chunk, 3, "inventory") for key in lost)
    await cluster.repair()
    assert {key.pack() for key in loser.held()} >= {key.pack() for key in lost}
    await cluster.compare_all()
    assert cluster.missing() == []


async def test_shards_of_an_upload_under_way_stay_and_those_it_gave_up_go(
    cluster: StoredCluster,
) -> None:
    upload = upload_id()
    lease = await cluster.open(upload)
    await cluster.put(lease, upload, MANY)
    await cluster.reconcile()
    assert cluster.to_erase() == 0
    await cluster.commit(lease, upload, MANY[:10])
    await cluster.compare_all()
    assert cluster.to_erase() == 0 and cluster.missing() == []
    await cluster.office.end(cluster.person, upload)
    await cluster.compare_all()
    assert cluster.to_erase() == 30 * 6
    await cluster.send_orders()
    assert all(cluster.readable(number) == 6 for number in MANY[:10])
    assert await cluster.nodes[0].erase_due() == 0, "first the hold"
    await cluster.advance(DELETION_HOLD_S_DEFAULT + 1)
    assert sum([await node.erase_due() for node in cluster.nodes]) == 30 * 6
    assert all(cluster.readable(number) == 6 for number in MANY[:10])


async def test_what_is_marked_is_not_ordered_again(cluster: StoredCluster) -> None:
    upload = upload_id()
    lease = await cluster.open(upload)
    await cluster.put(lease, upload, MANY)
    await cluster.office.end(cluster.person, upload)
    await cluster.reconcile()
    await cluster.compare_all()
    assert cluster.to_erase() == 40 * 6, "noted once"
    await cluster.send_orders()
    await cluster.compare_all()
    assert cluster.to_erase() == 0


async def test_an_order_in_flight_does_not_take_what_is_stored_again(cluster: StoredCluster) -> None:
    """An upload ends without its rows; while its shards' erasure is on its way the chunks come again."""
    first = upload_id()
    lease = await cluster.open(first)
    await cluster.put(lease, first, MANY)
    await cluster.office.end(cluster.person, first)
    await cluster.reconcile()
    lease, second = await cluster.backup(MANY)
    await cluster.send_orders()
    assert all(cluster.readable(number) == 6 for number in MANY)
    await cluster.compare_all()
    await cluster.advance(DELETION_HOLD_S_DEFAULT + 1)
    for node in cluster.nodes:
        await node.erase_due()
    assert all(cluster.readable(number) == 6 for number in MANY)
    assert all(key.generation == second for node in cluster.nodes for key in node.held())
    assert cluster.missing() == []


async def test_a_marked_shard_that_the_catalogue_needs_is_kept_when_it_is_found_missing(
    cluster: StoredCluster,
) -> None:
    """However a mark got there: what a row names comes back before its hold is over."""
    lease, _ = await cluster.backup(MANY)
    holder = cluster.node(lease.members[0])
    keys = holder.held()
    await holder.writer.run(lambda store: store.mark(1, keys, holder.running_ms() + 1000))
    await cluster.reconcile()
    assert len(cluster.missing()) == 40
    await cluster.repair()
    await cluster.advance(100)
    assert await holder.erase_due() == 0
    assert holder.held() == keys


async def move(cluster: StoredCluster, slot: int, group_id: int, new: Stored) -> None:
    group = cluster.desk.live.groups[group_id]
    await cluster.desk.catalogue.write(lambda c: assign_slot(c, group, slot, new.id, "drain", 0))
    await cluster.desk.live.refresh(cluster.desk.catalogue)


async def test_a_former_holder_keeps_everything_until_the_group_is_whole(cluster: StoredCluster) -> None:
    """A paused holder that wakes after its slot moved: its leftovers go, but not while they may be needed."""
    lease, _ = await cluster.backup(MANY)
    old = cluster.node(lease.members[2])
    (new,) = [node for node in cluster.nodes if node.id not in lease.members]
    await cluster.reconcile()
    await move(cluster, 2, lease.group, new)
    await cluster.compare_all()
    assert cluster.to_erase() == 0, "while it is filled the former holder is a source"
    await cluster.repair()
    # Another member has lost something by now: the leftovers may be what brings it back.
    loser = cluster.node(lease.members[5])
    await loser.erase(loser.held()[:3])
    await cluster.compare_all()
    assert cluster.to_erase() == 0 and len(cluster.missing()) == 3
    assert len(old.held()) == 40
    await cluster.repair()
    await cluster.advance(COMPARE_AGAIN_S)
    await cluster.compare_all()
    assert cluster.to_erase() == 40
    await cluster.send_orders()
    assert len(old.held()) == 0 and len(old.held(with_marked=True)) == 40
    assert all(cluster.readable(number) == 6 for number in MANY)
    await cluster.advance(DELETION_HOLD_S_DEFAULT + 1)
    assert await old.erase_due() == 40
    assert all(cluster.readable(number) == 6 for number in MANY)


async def test_leftovers_stay_while_a_member_of_the_group_is_away(cluster: StoredCluster) -> None:
    lease, _ = await cluster.backup(MANY)
    (new,) = [node for node in cluster.nodes if node.id not in lease.members]
    await cluster.reconcile()
    await move(cluster, 2, lease.group, new)
    await cluster.repair()
    away = cluster.node(lease.members[0])
    await away.beat(state="stopping")
    await cluster.compare_all()
    assert cluster.to_erase() == 0
    await away.beat()
    await cluster.compare_all()
    assert cluster.to_erase() == 40


async def test_a_slot_that_moves_while_it_is_compared_is_noted_nowhere(
    cluster: StoredCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the catalogue and the node's answer the slot gets another holder."""
    lease, _ = await cluster.backup(MANY)
    await cluster.reconcile()
    holder = cluster.node(lease.members[4])
    (new,) = [node for node in cluster.nodes if node.id not in lease.members]
    await holder.erase(holder.held()[:5])
    calls, real = cluster.desk.calls, cluster.desk.calls.ask
    moved = False

    async def ask(node: object, method: str, target: str, *rest: object, **more: object) -> object:
        nonlocal moved
        answer = await real(node, method, target, *rest, **more)
        if target == "/v1/inventory/keys" and not moved:
            moved = True
            await move(cluster, 4, lease.group, new)
        return answer

    monkeypatch.setattr(calls, "ask", ask)
    await cluster.compare_all()
    assert moved and cluster.missing() == []
    await cluster.repair()
    assert all(cluster.readable(number) == 6 for number in MANY)


async def test_a_chunk_committed_between_the_two_looks_is_not_taken_for_lost(
    cluster: StoredCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node's ranges are older than the catalogue's rows: only what a later listing lacks is gone."""
    lease, _ = await cluster.backup(MANY)
    await cluster.reconcile()
    loser = cluster.node(lease.members[1])
    await loser.erase(loser.held()[:1])
    real = cluster.desk.calls.ask
    stored = False

    async def ask(node: object, method: str, target: str, *rest: object, **more: object) -> object:
        nonlocal stored
        answer = await real(node, method, target, *rest, **more)
        if target == "/v1/inventory/ranges" and not stored:
            stored = True
            await cluster.backup(range(100, 130))
        return answer

    monkeypatch.setattr(cluster.desk.calls, "ask", ask)
    await cluster.compare_all()
    assert stored and len(cluster.missing()) == 1 and cluster.to_erase() == 0


async def test_a_stray_of_which_there_are_too_few_goes_when_nobody_can_add_to_it(
    cluster: StoredCluster,
) -> None:
    """One shard of an upload that no catalogue knows: with fewer than k nothing can be made of it."""
    await cluster.backup(MANY)
    await cluster.reconcile()
    lease, unknown = await cluster.backup([200])
    stray = cluster.puts(lease, upload_id(), 300, 0)
    await cluster.nodes[0].writer.put([stray])
    await cluster.compare_all()
    assert cluster.to_erase() == 0, "whoever stores it might be at work still"
    assert cluster.desk.reconciling.strays == 1
    await cluster.advance(TICKET_LIFETIME_MS / 1000 + COMPARE_AGAIN_S)
    await cluster.reconcile()
    assert cluster.to_erase() == 1 and not cluster.is_unreconciled()
    await cluster.send_orders()
    assert ShardKey.of(stray.record) not in cluster.nodes[0].held()
    assert cluster.readable(200) == 6 and unknown


async def test_a_node_that_tells_nonsense_is_left_for_later_and_takes_nobody_with_it(
    cluster: StoredCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, _ = await cluster.backup(MANY)
    await cluster.reconcile()
    liar, loser = cluster.node(lease.members[0]), cluster.node(lease.members[1])
    await loser.erase(loser.held()[:2])
    real = liar.store.unmarked

    monkeypatch.setattr(liar.store, "unmarked", lambda a, u, m: (real(b"", u, m)[0], a or b"x"))
    await cluster.compare_all()
    assert {slot for _, slot, _ in cluster.missing()} == {1}
    assert cluster.desk.reconciling.compared[liar.id].is_failed
    monkeypatch.setattr(liar.store, "unmarked", real)
    await cluster.advance(COMPARE_AGAIN_S)
    await cluster.reconcile()
    assert not cluster.desk.reconciling.compared[liar.id].is_failed


@pytest.mark.parametrize(
    "told",
    [
        SlotSum(1 << 63, 0, 1, Digest(bytes(32))),
        SlotSum(1, -1, 1, Digest(bytes(32))),
        SlotSum(1, 255, 1, Digest(bytes(32))),
        SlotSum(1, 0, -1, Digest(bytes(32))),
        SlotSum(1, 0, (1 << 64) - 1, Digest(bytes(32))),
    ],
)
async def test_hostile_numbers_are_refused_and_nothing_else_happens(
    cluster: StoredCluster, monkeypatch: pytest.MonkeyPatch, told: SlotSum
) -> None:
    await cluster.backup(MANY)
    liar = cluster.nodes[0]
    real = cluster.desk.calls.ask

    async def ask(node: Any, method: str, target: str, *rest: Any, **more: Any) -> Any:
        answer = await real(node, method, target, *rest, **more)
        if node.id == liar.id and target == "/v1/inventory/sums":
            return SumsRead(store=answer.store, slots=[told], next=b"")
        return answer

    monkeypatch.setattr(cluster.desk.calls, "ask", ask)
    await cluster.reconcile()
    assert cluster.desk.reconciling.compared[liar.id].is_failed
    assert cluster.missing() == [] and cluster.to_erase() == 0


async def test_an_abandoned_upload_leaves_nothing_behind(cluster: StoredCluster) -> None:
    upload = upload_id()
    lease = await cluster.open(upload)
    await cluster.put(lease, upload, MANY, slots=[0, 1, 2])
    await cluster.reconcile()
    await cluster.advance(UPLOAD_SILENCE_MS / 1000 + 1)
    assert cluster.desk.catalogue.write_now(lambda c: expire_uploads(c, cluster.desk.live.steady_ms())) == 1
    await cluster.compare_all()
    assert cluster.to_erase() == 40 * 3
    assert chunk_of(0) not in cluster.rows()
