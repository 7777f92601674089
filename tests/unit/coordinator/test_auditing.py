"""Audits: who lies is named and loses its slots; who is honest about its losses, busy or away does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import delete
from support.real_cluster import RealCluster, RealNode, contents, lie, real_cluster

from holdfast.coordinator.auditing import keep_auditing
from holdfast.coordinator.catalogue.schema import missing
from holdfast.node.store import Absent, Damaged, Found, ReadOutcome, ShardKey
from holdfast.protocol import erasure
from holdfast.protocol.errors import Conflict, StoreFailed
from holdfast.protocol.messages.admin import Moving, SetStanding
from holdfast.protocol.stripes import ShardRecord


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[RealCluster]:
    """Eight nodes, twenty stripes of one group of six."""
    async with real_cluster(tmp_path, 8) as made:
        await made.store(contents(20))
        yield made


def holder(cluster: RealCluster, slot: int) -> RealNode:
    """Who holds a slot of the group in which the stripes lie."""
    return cluster.node(cluster.desk.live.groups[cluster.rows()[0].group_id].members[slot])


async def ask(cluster: RealCluster, node: RealNode, standing: str) -> Moving:
    message = SetStanding(node=node.id.hex(), standing=standing, dry_run=False)  # type: ignore[arg-type]
    running = cluster.office
    return await running.call("POST", "/v1/admin/standing", message, Moving, running.operator)


async def test_honest_nodes_pass_and_nothing_changes(cluster: RealCluster) -> None:
    told = await cluster.audit()
    assert told.stripes > 5
    assert told.right == told.shards == 6 * told.stripes
    assert not (told.gone or told.silent or told.undecided or told.lying)
    assert not cluster.missing()


@pytest.mark.parametrize("slot", [0, 5])
async def test_a_node_that_lies_is_named_and_its_shards_are_rebuilt_elsewhere(
    cluster: RealCluster, slot: int
) -> None:
    liar = holder(cluster, slot)
    liar.store_view.bend = lie
    told = await cluster.audit()
    assert told.distrusted == [liar.id] and {false.node for false in told.lying} == {liar.id}
    assert cluster.standing(liar.id) == "distrusted"
    assert set(await cluster.spare()) == {"1"}, "what it says it has counts for nothing"
    await cluster.keep()
    assert await cluster.spare() == {"2": 20}
    assert all(liar.id not in group.members for group in cluster.desk.live.groups.values())


async def test_two_liars_who_agree_point_at_an_honest_node_and_are_named_themselves(
    cluster: RealCluster,
) -> None:
    """Their bytes and three honest slots' make a codeword in which slot 0 would be the wrong one."""
    shards = {content: erasure.encode(cluster.desk.live.usual_profile(), content) for content in contents(20)}
    by_first = {bytes(each[0]): each for each in shards.values()}
    liars = [holder(cluster, slot) for slot in (4, 5)]
    first = holder(cluster, 0).store_view

    def agree(key: ShardKey, outcome: ReadOutcome) -> ReadOutcome:
        if not isinstance(outcome, Found):
            return outcome
        (there,) = first.read([ShardKey(key.group, 0, key.account, key.chunk, key.generation)])
        assert isinstance(there, Found)
        right = by_first[there.shard]
        other = {0: bytes(byte ^ 1 for byte in right[0]), **{slot: right[slot] for slot in (1, 2, 3)}}
        made = erasure.rebuild(cluster.desk.live.usual_profile(), other, [key.slot])
        return Found(outcome.header, bytes(made[key.slot]))

    for liar in liars:
        liar.store_view.bend = agree
    told = await cluster.audit()
    assert set(told.distrusted) == {liar.id for liar in liars}
    assert cluster.standing(holder(cluster, 0).id) == "joined"


async def test_a_node_that_kept_the_records_and_not_the_shards_is_caught(cluster: RealCluster) -> None:
    liar = holder(cluster, 3)

    def zeros(_: ShardKey, outcome: ReadOutcome) -> ReadOutcome:
        return Found(outcome.header, bytes(len(outcome.shard))) if isinstance(outcome, Found) else outcome

    liar.store_view.bend = zeros
    assert (await cluster.audit()).distrusted == [liar.id]


@pytest.mark.parametrize("honest", [Absent(), Damaged("a bit flipped")], ids=["absent", "damaged"])
async def test_a_loss_that_is_told_of_is_brought_back_and_held_against_nobody(
    cluster: RealCluster, honest: ReadOutcome
) -> None:
    loser = holder(cluster, 1)
    loser.store_view.bend = lambda key, outcome: honest
    told = await cluster.audit()
    assert told.gone == told.stripes and not told.lying
    assert {why for *_, why in cluster.missing()} == {"audit"}
    loser.store_view.bend = None
    assert cluster.standing(loser.id) == "joined"
    await cluster.keep()
    assert not cluster.missing()


async def test_one_false_answer_is_an_accident(cluster: RealCluster) -> None:
    """A byte that tips over in memory, once: the next answer is right."""
    node = holder(cluster, 2)
    left = [2]  # the columns, and the first whole shard

    def tip(key: ShardKey, outcome: ReadOutcome) -> ReadOutcome:
        left[0] -= 1
        return lie(key, outcome) if left[0] >= 0 else outcome

    node.store_view.bend = tip
    told = await cluster.audit(1)
    assert left[0] < 0, "it was asked again"
    assert not told.lying and not told.gone and cluster.standing(node.id) == "joined"


async def test_a_node_that_is_away_or_busy_is_not_blamed(cluster: RealCluster) -> None:
    away = holder(cluster, 2)
    await away.stop()
    told = await cluster.audit()
    assert told.silent == {away.id} and not told.gone and not told.lying
    assert not cluster.missing() and cluster.standing(away.id) == "joined"


async def test_a_liar_that_falls_silent_when_asked_twice_is_caught_the_second_time(
    cluster: RealCluster,
) -> None:
    liar = holder(cluster, 2)
    asked = []

    def evade(key: ShardKey, outcome: ReadOutcome) -> ReadOutcome:
        asked.append(key)
        if len(asked) >= 3 and asked[-2:] == [key, key]:
            asked.clear()
            raise_refusal()
        return lie(key, outcome)

    liar.store_view.bend = evade
    first = await cluster.audit(1)
    assert not first.lying and cluster.desk.doubted == {liar.id}
    asked.clear()
    # What is noted as missing is not asked for: were the same chunk drawn again, nobody would be challenged.
    cluster.desk.catalogue.write_now(lambda c: c.execute(delete(missing)))
    second = await cluster.audit(1)
    assert second.distrusted == [liar.id]


def raise_refusal() -> None:
    raise StoreFailed("this node does not answer that one")


async def test_a_client_that_gives_a_node_another_record_makes_no_liar_of_it(cluster: RealCluster) -> None:
    """The shard is the one it signed for; that other digests in its record are wrong is not its lie."""
    node = holder(cluster, 4)

    def other_record(_: ShardKey, outcome: ReadOutcome) -> ReadOutcome:
        if not isinstance(outcome, Found):
            return outcome
        record = ShardRecord.unpack_header(outcome.header)
        digests = bytearray(record.stripe.digests)
        digests[0] ^= 1
        stripe = type(record.stripe)(record.stripe.profile, record.stripe.sealed_bytes, bytes(digests))
        changed = ShardRecord(
            record.account, record.chunk, record.generation, record.group, record.slot, stripe
        )
        return Found(changed.pack(), outcome.shard)

    node.store_view.bend = other_record
    told = await cluster.audit()
    assert not told.lying and not told.gone and cluster.standing(node.id) == "joined"


async def test_where_nobody_has_the_record_that_counts_nobody_is_blamed(cluster: RealCluster) -> None:
    for node in cluster.nodes:
        node.store_view.bend = lambda _, outcome: (
            Found(b"no record", outcome.shard) if isinstance(outcome, Found) else outcome
        )
    told = await cluster.audit()
    assert told.undecided == told.stripes and not told.lying and not told.gone


async def test_no_more_than_m_nodes_lose_their_trust_by_themselves(cluster: RealCluster) -> None:
    liars = [holder(cluster, slot) for slot in (0, 1, 2)]
    for liar in liars:
        liar.store_view.bend = lie
    told = await cluster.audit()
    assert len(told.distrusted) == 2 and len(told.held_back) == 1
    assert {*told.distrusted, *told.held_back} == {liar.id for liar in liars}


async def test_a_distrusted_node_takes_nothing_while_others_can(cluster: RealCluster) -> None:
    liar = holder(cluster, 0)
    liar.store_view.bend = lie
    await cluster.audit()
    await cluster.store(contents(5, seed=b"later"))
    assert len(liar.held()) == 20, "nothing new went there"


async def test_receipts_of_a_distrusted_node_are_void(tmp_path: Path) -> None:
    """Six nodes for six slots: the client, who does not know, has one shard of each stripe put there."""
    async with real_cluster(tmp_path, 6) as cluster:
        await cluster.store(contents(20))
        liar = holder(cluster, 3)
        liar.store_view.bend = lie
        await cluster.audit(4)
        before = len(liar.held())
        await cluster.store(contents(5, seed=b"later"))
        assert len(liar.held()) == before + 5
        group = cluster.desk.live.groups[cluster.rows()[0].group_id]
        unwritten = [slot for _, _, slot, why in cluster.missing() if why == "unwritten"]
        assert unwritten == [group.members.index(liar.id)] * 5
        await cluster.keep(2)
        assert (group.id, 3, "distrusted") in cluster.desk.repairs.waiting, "said, and waited for"
        await cluster.add_node()
        await cluster.keep()
        assert await cluster.spare() == {"2": 25}


async def test_a_distrusted_node_stays_so_over_absence_and_drain_until_the_operator_trusts_it(
    cluster: RealCluster,
) -> None:
    liar = holder(cluster, 0)
    liar.store_view.bend = lie
    await cluster.audit()
    with pytest.raises(Conflict):
        await ask(cluster, liar, "draining")
    with pytest.raises(Conflict):
        await ask(cluster, liar, "joined")
    bound = liar.bound
    await liar.stop()
    for _ in range(8):
        await cluster.pass_time(10)
        await cluster.keep(3)
    liar.bound = bound
    await liar.start(cluster.office)
    await cluster.keep(3)
    assert cluster.standing(liar.id) == "distrusted"
    await ask(cluster, liar, "trusted")
    assert cluster.standing(liar.id) == "joined"
    with pytest.raises(Conflict):
        await ask(cluster, liar, "trusted")


async def test_so_many_an_hour_are_challenged_and_none_when_that_is_wished(cluster: RealCluster) -> None:
    cluster.desk.audits_per_hour = 600
    assert await keep_auditing(cluster.desk) == 30.0
    reads = sum(node.store_view.reads for node in cluster.nodes)
    assert reads > 0
    cluster.desk.audits_per_hour = 0
    assert await keep_auditing(cluster.desk) is None
    assert sum(node.store_view.reads for node in cluster.nodes) == reads
