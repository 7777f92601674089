"""Fallback stripes become usual ones: by the nodes, row by row, and safe wherever anybody dies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import delete
from support.coordinator_service import upload_id
from support.real_cluster import RealCluster, contents, lie, real_cluster

from holdfast.coordinator import reencoding
from holdfast.coordinator.catalogue.missing import Gone, note_gone
from holdfast.coordinator.catalogue.schema import chunks
from holdfast.coordinator.erasing import send_orders
from holdfast.coordinator.limits import COMPARE_AGAIN_S, REENCODE_RETRY_S
from holdfast.coordinator.reconciling import keep_reconciled
from holdfast.coordinator.reencoding import reencode
from holdfast.coordinator.repair_pacing import RepairSettings, Throttle
from holdfast.node.store import Absent
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.ids import ChunkId, UploadId
from holdfast.protocol.profiles import Profile


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[RealCluster]:
    """Six nodes; twelve stripes were stored as 2+2 while two of them were away, which are back now."""
    async with real_cluster(tmp_path, 6) as made:
        away = made.nodes[4:]
        for node in away:
            await node.stop()
        await made.pass_time(11)
        await made.store(contents(12))
        assert {group.kind for group in made.desk.live.groups.values() if group.id in groups(made)} == {
            "fallback"
        }
        for node in away:
            await node.start(made.office)
        await made.beat()
        yield made


def groups(cluster: RealCluster) -> set[int]:
    return {row.group_id for row in cluster.rows()}


def profiles(cluster: RealCluster) -> set[Profile]:
    return {cluster.desk.live.groups[group].profile for group in groups(cluster)}


async def readable(cluster: RealCluster) -> None:
    """Every stripe passes an audit by all its holders."""
    told = await cluster.audit(60)
    assert told.right == told.shards > 0 and not told.gone and not told.undecided


async def test_they_are_encoded_anew_once_enough_nodes_are_up(cluster: RealCluster) -> None:
    before = {row.id: row.generation for row in cluster.rows()}
    assert profiles(cluster) == {Profile(2, 2)}
    await reencode(cluster.desk)
    assert profiles(cluster) == {Profile(4, 2)}
    assert {row.id: row.generation for row in cluster.rows()} == before
    assert await cluster.spare() == {"2": 12}
    await readable(cluster)
    assert await reencode(cluster.desk) is None, "and there is nothing more to do"


async def test_while_too_few_are_up_nothing_is_tried(cluster: RealCluster) -> None:
    await cluster.nodes[5].stop()
    await cluster.pass_time(11)
    reads = sum(node.store_view.reads for node in cluster.nodes)
    await reencode(cluster.desk)
    assert profiles(cluster) == {Profile(2, 2)}
    assert sum(node.store_view.reads for node in cluster.nodes) == reads


async def test_a_coordinator_that_dies_before_the_switch_finishes_after_it(
    cluster: RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> int:
        raise HoldfastError("the coordinator died here")

    with monkeypatch.context() as patched:
        patched.setattr(reencoding, "switch_group", dies)
        with pytest.raises(HoldfastError):
            await reencode(cluster.desk)
    assert profiles(cluster) == {Profile(2, 2)}, "the rows name what is whole"
    await readable(cluster)
    await reencode(cluster.desk)
    assert profiles(cluster) == {Profile(4, 2)}
    await readable(cluster)


async def test_a_stripe_that_cannot_be_had_now_keeps_no_other_from_its_turn(
    cluster: RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stripe to a batch, and one batch to a turn; the first stripe has too few shards for now."""
    monkeypatch.setattr(reencoding, "REENCODE_BATCH_SEALED_BYTES", 1)
    monkeypatch.setattr(reencoding, "REPAIR_TURN_S", 0.0)
    cluster.desk.throttle = Throttle(RepairSettings(0, 0))
    first = cluster.rows()[0].id
    for node in cluster.nodes:
        node.store_view.bend = lambda key, outcome: Absent() if key.chunk == first else outcome
    for _ in range(13):
        await reencode(cluster.desk)
    left = [row.id for row in cluster.rows() if cluster.desk.live.groups[row.group_id].kind == "fallback"]
    assert left == [first]
    reads = sum(node.store_view.reads for node in cluster.nodes)
    await reencode(cluster.desk)
    assert sum(node.store_view.reads for node in cluster.nodes) == reads, "it is left alone for a while"
    for node in cluster.nodes:
        node.store_view.bend = None
    await cluster.pass_time(REENCODE_RETRY_S + 1)
    await reencode(cluster.desk)
    assert profiles(cluster) == {Profile(4, 2)}
    await readable(cluster)


async def test_a_node_that_dies_on_the_way_costs_a_missing_row_that_is_caught_up(
    cluster: RealCluster,
) -> None:
    """Five of six is a write quorum: the stripe is safer than it was, and says what it lacks."""
    dying = cluster.nodes[5]
    await dying.stop()  # and nobody has noticed yet
    await reencode(cluster.desk)
    assert profiles(cluster) == {Profile(4, 2)}
    assert {why for *_, why in cluster.missing()} == {"re-encoded"} and len(cluster.missing()) == 12
    assert await cluster.spare() == {"1": 12}
    await dying.start(cluster.office)
    await cluster.keep()
    assert await cluster.spare() == {"2": 12}
    await readable(cluster)


async def test_a_source_that_lies_spoils_nothing(cluster: RealCluster) -> None:
    cluster.nodes[0].store_view.bend = lie
    await reencode(cluster.desk)
    cluster.nodes[0].store_view.bend = None
    assert profiles(cluster) == {Profile(4, 2)}
    await readable(cluster)


async def test_a_chunk_that_is_swept_or_stored_again_meanwhile_is_left_alone(
    cluster: RealCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nodes have encoded all of them; of two the rows are not what they were."""
    swept, again = [row.id for row in cluster.rows()][:2]
    generation = upload_id()

    def overtaken(connection, source, target, made):  # type: ignore[no-untyped-def]
        connection.execute(delete(chunks).where(chunks.c.id == swept))
        connection.execute(chunks.update().where(chunks.c.id == again).values(generation=bytes(generation)))
        return real(connection, source, target, made)

    real = reencoding.switch_group
    monkeypatch.setattr(reencoding, "switch_group", overtaken)
    await reencode(cluster.desk)
    rows = {row.id: row for row in cluster.rows()}
    assert swept not in rows
    left = cluster.desk.live.groups[rows[again].group_id]
    assert left.kind == "fallback" and rows[again].generation == bytes(generation)
    others = {cluster.desk.live.groups[row.group_id].kind for id_, row in rows.items() if id_ != again}
    assert others == {"usual"}


async def test_what_lies_in_the_new_group_before_the_switch_is_kept_and_the_old_shards_after_it(
    cluster: RealCluster,
) -> None:
    """By the rule that decides about orphans, with the rows as they are at each moment."""
    from holdfast.coordinator.catalogue.erasures import standings
    from holdfast.protocol.messages.nodes import DeletionEntry

    def judged(number: int) -> set[str]:
        node = cluster.nodes[number]
        held = [DeletionEntry(k.group, k.slot, k.account, k.chunk, k.generation) for k in node.held()]
        told = cluster.desk.catalogue.read_now(
            lambda c: standings(c, node.id, held, away=frozenset(), is_settled=True)
        )
        return set(told)

    assert judged(0) == {"held"}
    cluster.nodes[5].store_view.bend = None
    await cluster.nodes[5].stop()
    await reencode(cluster.desk)
    assert judged(0) == {"held", "kept"}, "slot 5 is missing: the old stripe stays"
    await cluster.nodes[5].start(cluster.office)
    await cluster.keep()
    assert judged(0) == {"held", "free"}


async def test_ids_say_what_chunks_are(cluster: RealCluster) -> None:
    await reencode(cluster.desk)
    wanted = {ChunkId(row.id) for row in cluster.rows()}
    for node in cluster.nodes:
        fresh = {key.chunk for key in node.held() if key.group in groups(cluster)}
        assert fresh == wanted


async def test_nodes_are_compared_soon_after_even_if_they_are_being_compared_now(
    cluster: RealCluster,
) -> None:
    """What a comparison that began before found says nothing about what was left since."""
    state, desk = cluster.desk.reconciling, cluster.desk
    for _ in range(20):
        await keep_reconciled(desk)
    began = {node: known.began_s for node, known in state.compared.items()}
    assert len(began) == 6
    (fallback,) = groups(cluster)
    cluster.office.clock.advance(1)
    await reencode(desk)
    for known in state.compared.values():
        known.due_s = desk.source.monotonic() + 86_400  # as one that ends just now writes
    for _ in range(20):
        await keep_reconciled(desk)
    again = {node for node, known in state.compared.items() if known.began_s > began[node]}
    assert again == set(desk.live.groups[fallback].members)


async def test_the_old_shards_are_erased_once_the_new_group_is_whole(cluster: RealCluster) -> None:
    desk = cluster.desk
    desk.sweeping.hold_s = 0.0

    async def tidy_up() -> int:
        """Compare, order, erase; gives how many shards there are."""
        for _ in range(20):
            await keep_reconciled(desk)
        await send_orders(desk)
        for node in cluster.nodes:
            await node.writer.run(lambda store: store.erase_due(1, 1000))
        return sum(len(node.held()) for node in cluster.nodes)

    assert await tidy_up() == 12 * 4
    await reencode(desk)
    assert sum(len(node.held()) for node in cluster.nodes) == 12 * (4 + 6)
    lacking = cluster.rows()[0]
    target = desk.live.groups[lacking.group_id]
    gone = [Gone(lacking.account, ChunkId(lacking.id), UploadId(lacking.generation), target.id, 0)]
    desk.catalogue.write_now(lambda c: note_gone(c, gone, "test"))
    assert await tidy_up() == 12 * (4 + 6), "one shard of the new group is missing: all is kept"
    await cluster.keep()
    await cluster.pass_time(COMPARE_AGAIN_S + 1)
    assert await tidy_up() == 12 * 6
    await readable(cluster)
