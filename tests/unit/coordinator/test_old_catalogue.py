"""A catalogue put back from an old copy: known as such, and nothing is lost by what it does not know."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import islice, permutations
from pathlib import Path

import msgspec
import pytest
from support.coordinator_service import HandClock, office, upload_id
from support.stored_cluster import StoredCluster, chunk_of, copy_catalogue, stored_cluster

from holdfast.coordinator.catalogue.moves import assign_slot
from holdfast.coordinator.catalogue.nodes import add_groups, set_standing
from holdfast.coordinator.limits import COMPARE_AGAIN_S, GROUP_IDS_SKIPPED
from holdfast.coordinator.reconciling import keep_pulse, keep_reconciled, uncompared
from holdfast.protocol.errors import SweepRefused
from holdfast.protocol.ids import NodeId, UploadId
from holdfast.protocol.limits import DELETION_HOLD_S_DEFAULT
from holdfast.protocol.messages.sweep import BeginSweep, SweepBegun
from holdfast.protocol.stripes import digest_of

OLD, NEW = range(20), range(20, 45)
Work = Callable[[StoredCluster], Awaitable[None]]


async def put_back(folder: Path, before: Work, since: Work, *, pulse: bool = True) -> HandClock:
    """A copy of the coordinator's folder is made between the two, and put back after them."""
    clock, copy = HandClock(), folder / "copy"
    async with stored_cluster(folder, 7, clock) as cluster:
        await before(cluster)
    copy_catalogue(folder / "coordinator", copy)
    clock.advance(60)
    async with stored_cluster(folder, 7, clock) as cluster:
        await since(cluster)
        if pulse:
            await keep_pulse(cluster.desk)
            for node in cluster.nodes:
                await node.hear()
    copy_catalogue(copy, folder / "coordinator")
    clock.advance(60)
    return clock


async def old_backup(cluster: StoredCluster) -> None:
    await cluster.backup(OLD)
    await cluster.reconcile()


async def new_backup(cluster: StoredCluster) -> None:
    await cluster.backup(NEW)


async def test_it_is_known_as_old_at_the_first_heartbeat_and_takes_up_what_was_stored_since(
    tmp_path: Path,
) -> None:
    clock = await put_back(tmp_path, old_backup, new_backup)
    async with stored_cluster(tmp_path, 7, clock) as cluster:
        assert cluster.is_unreconciled()
        assert chunk_of(NEW[0]) not in cluster.rows()
        await cluster.reconcile()
        assert not cluster.is_unreconciled()
        assert cluster.rows().keys() == {chunk_of(number) for number in (*OLD, *NEW)}
        assert all(cluster.readable(number) == 6 for number in (*OLD, *NEW))
        assert cluster.missing() == [] and cluster.to_erase() == 0
        status = await cluster.office.status(cluster.person)
        assert status.used_bytes == sum(row.sealed_bytes for row in cluster.rows().values())
        # It is settled: another comparison finds nothing to do.
        await cluster.compare_all()
        assert cluster.desk.reconciling.strays == 0 and not cluster.is_unreconciled()


async def test_nothing_is_swept_or_erased_before_every_node_was_compared(tmp_path: Path) -> None:
    async def before(cluster: StoredCluster) -> None:
        await old_backup(cluster)
        upload = upload_id()
        lease = await cluster.open(upload)
        await cluster.put(lease, upload, [77])
        await cluster.office.end(cluster.person, upload)
        await cluster.compare_all()
        assert cluster.to_erase() == 6, "noted, and not sent yet"

    clock = await put_back(tmp_path, before, new_backup)
    async with stored_cluster(tmp_path, 7, clock) as cluster:
        await cluster.send_orders()
        assert all(node.store.stats().marked == 0 for node in cluster.nodes)
        message = BeginSweep(head_seq=0, head=digest_of(b""))
        with pytest.raises(SweepRefused) as caught:
            await cluster.office.call("POST", "/v1/sweeps", message, SweepBegun, cluster.person.signer())
        assert caught.value.do
        # One node is away: the rest is compared, and that is not enough.
        away = cluster.nodes[0]
        await away.beat(state="stopping")
        await cluster.reconcile()
        assert cluster.is_unreconciled() and uncompared(cluster.desk) == [away.id]
        await cluster.send_orders()
        assert all(node.store.stats().marked == 0 for node in cluster.nodes)
        await away.beat()
        await cluster.reconcile()
        assert not cluster.is_unreconciled()
        await cluster.send_orders()
        assert sum(node.store.stats().marked for node in cluster.nodes) == 6


async def test_a_lost_node_does_not_hold_it_up_for_ever_and_what_it_has_is_taken_when_it_returns(
    tmp_path: Path,
) -> None:
    clock = await put_back(tmp_path, old_backup, new_backup)
    async with stored_cluster(tmp_path, 7, clock) as cluster:
        gone = cluster.nodes[3]
        await gone.beat(state="stopping")
        await cluster.desk.catalogue.write(lambda c: set_standing(c, gone.id, "lost"))
        await cluster.desk.live.refresh(cluster.desk.catalogue)
        await cluster.reconcile()
        assert not cluster.is_unreconciled()
        assert all(cluster.readable(number) >= 5 for number in NEW)


async def test_a_node_that_is_to_be_emptied_and_never_returns_does_not_hold_it_up_for_ever(
    tmp_path: Path,
) -> None:
    clock = await put_back(tmp_path, old_backup, new_backup)
    async with stored_cluster(tmp_path, 7, clock) as cluster:
        gone, others = cluster.nodes[3], [node for number, node in enumerate(cluster.nodes) if number != 3]
        await cluster.desk.catalogue.write(lambda c: set_standing(c, gone.id, "draining"))
        await cluster.desk.live.refresh(cluster.desk.catalogue)
        await gone.stop()
        clock.advance(60)
        for node in others:
            await node.beat()
        await cluster.reconcile()
        assert uncompared(cluster.desk) == [gone.id] and cluster.is_unreconciled()
        clock.advance(cluster.desk.live.health.lost_after_s)
        for node in others:
            await node.beat()
        await cluster.reconcile()
        assert not cluster.is_unreconciled()
        await gone.start()


async def test_claims_count_only_on_nodes_that_were_compared(tmp_path: Path) -> None:
    """Since the copy was made the chunk was swept, and its shards are erased: nobody may count on its row."""

    async def since(cluster: StoredCluster) -> None:
        for node in cluster.nodes:
            await node.erase([key for key in node.held() if key.chunk == chunk_of(OLD[0])])

    clock = await put_back(tmp_path, old_backup, since)
    async with stored_cluster(tmp_path, 7, clock) as cluster:
        upload = upload_id()
        await cluster.open(upload)
        told = await cluster.office.claim(cluster.person, upload, [chunk_of(OLD[0]), chunk_of(OLD[1])])
        assert told.stored == [None, None], "nobody was compared yet"
        assert await keep_reconciled(cluster.desk) is not None
        told = await cluster.office.claim(cluster.person, upload, [chunk_of(OLD[1])])
        assert told.stored == [None], "one node is fewer than k"
        await cluster.reconcile()
        told = await cluster.office.claim(cluster.person, upload, [chunk_of(OLD[0]), chunk_of(OLD[1])])
        assert told.stored[0] is None and told.stored[1] is not None


async def test_rows_of_an_upload_that_was_under_way_are_taken_up_too(tmp_path: Path) -> None:
    """It is known to the old catalogue, as open; some of its rows came after the copy."""
    upload = upload_id()

    async def before(cluster: StoredCluster) -> None:
        lease = await cluster.open(upload)
        await cluster.put(lease, upload, OLD)
        await cluster.commit(lease, upload, OLD)

    async def since(cluster: StoredCluster) -> None:
        lease = await cluster.open(upload)
        await cluster.put(lease, upload, NEW)
        await cluster.commit(lease, upload, NEW)
        await cluster.office.end(cluster.person, upload)

    clock = await put_back(tmp_path, before, since)
    async with stored_cluster(tmp_path, 7, clock) as cluster:
        await cluster.reconcile()
        assert cluster.rows().keys() == {chunk_of(number) for number in (*OLD, *NEW)}
        await cluster.office.end(cluster.person, upload)
        await cluster.compare_all()
        assert cluster.to_erase() == 0


async def test_a_slot_that_has_moved_since_is_found_where_its_shards_are(tmp_path: Path) -> None:
    """The holder that the old catalogue names has erased them: three slots moved, more than m."""
    moved: dict[int, bytes] = {}

    async def since(cluster: StoredCluster) -> None:
        await cluster.backup(NEW)
        for slot in (0, 1, 2):
            (group_id,) = {row.group_id for row in cluster.rows().values()}
            group = cluster.desk.live.groups[group_id]
            (new,) = [node for node in cluster.nodes if node.id not in group.members]
            old = cluster.node(group.members[slot])
            await cluster.desk.catalogue.write(
                lambda c, g=group, s=slot, n=new: assign_slot(c, g, s, n.id, "drain", 0)  # type: ignore[misc]
            )
            await cluster.desk.live.refresh(cluster.desk.catalogue)
            await cluster.repair()
            await old.erase([key for key in old.held() if (key.group, key.slot) == (group_id, slot)])
            moved[slot] = bytes(new.id)

    clock = await put_back(tmp_path, old_backup, since)
    async with stored_cluster(tmp_path, 7, clock) as cluster:
        await cluster.reconcile()
        await cluster.repair()
        assert all(cluster.readable(number) == 6 for number in (*OLD, *NEW))
        await cluster.compare_all()
        assert not cluster.is_unreconciled() and cluster.missing() == []


async def test_a_group_made_since_is_made_again_under_its_id(tmp_path: Path) -> None:
    async def since(cluster: StoredCluster) -> None:
        members = other_members(cluster, 0)
        (profile,) = {group.profile for group in cluster.desk.live.groups.values()}
        await cluster.desk.catalogue.write(lambda c: add_groups(c, profile, "usual", [members]))
        await cluster.desk.live.refresh(cluster.desk.catalogue)
        newest = max(cluster.desk.live.groups)
        upload = upload_id()
        opened = await cluster.office.open(cluster.person, upload)
        (lease,) = [lease for lease in opened.leases if lease.group == newest]
        await cluster.put(lease, upload, NEW)
        await cluster.commit(lease, upload, NEW)
        await cluster.office.end(cluster.person, upload)

    clock = await put_back(tmp_path, old_backup, since)
    async with stored_cluster(tmp_path, 7, clock) as cluster:
        known = set(cluster.desk.live.groups)
        await cluster.desk.catalogue.write(lambda c: _another_group(c, cluster))
        await cluster.desk.live.refresh(cluster.desk.catalogue)
        (made,) = set(cluster.desk.live.groups) - known
        assert made >= GROUP_IDS_SKIPPED, "its id is none that may have been given since"
        await cluster.reconcile()
        assert all(cluster.readable(number) == 6 for number in (*OLD, *NEW))
        assert cluster.missing() == []


async def test_a_stripe_that_was_encoded_anew_since_is_found_in_its_new_group(tmp_path: Path) -> None:
    """Same chunk, same generation, another group; in the one that the old catalogue names nothing is left."""
    group_of: list[int] = []

    async def since(cluster: StoredCluster) -> None:
        rows = cluster.rows()
        (generation,) = {bytes(row.generation) for row in rows.values()}
        (before,) = {row.group_id for row in rows.values()}
        after = next(group for group in cluster.desk.live.groups.values() if group.id != before)
        lease = (await cluster.office.open(cluster.person, upload_id())).leases[0]
        anew = msgspec.structs.replace(lease, group=after.id, members=list(after.members))
        await cluster.put(anew, UploadId(generation), OLD)
        for node in cluster.nodes:
            await node.erase([key for key in node.held() if key.group == before])
        await cluster.desk.catalogue.write(
            lambda c: c.exec_driver_sql("UPDATE chunks SET group_id = ?", (after.id,))
        )
        group_of.append(after.id)

    clock = await put_back(tmp_path, old_backup, since)
    async with stored_cluster(tmp_path, 7, clock) as cluster:
        await cluster.reconcile()
        assert {row.group_id for row in cluster.rows().values()} == set(group_of)
        assert all(cluster.readable(number) == 6 for number in OLD) and cluster.missing() == []


def other_members(cluster: StoredCluster, number: int) -> tuple[NodeId, ...]:
    """Members of a group that there is not."""
    known = {group.members for group in cluster.desk.live.groups.values()}
    every = (tuple(node.id for node in order) for order in permutations(cluster.nodes, 6))
    return next(islice((members for members in every if members not in known), number, None))


def _another_group(connection: object, cluster: StoredCluster) -> None:
    (profile,) = {group.profile for group in cluster.desk.live.groups.values()}
    members = other_members(cluster, 1)
    add_groups(connection, profile, "usual", [members])  # type: ignore[arg-type]


async def test_without_any_word_of_it_whole_stripes_that_nobody_knows_tell(tmp_path: Path) -> None:
    """Put back so soon that no node had heard a newer pulse."""
    clock = await put_back(tmp_path, old_backup, new_backup, pulse=False)
    async with stored_cluster(tmp_path, 7, clock) as cluster:
        assert not cluster.is_unreconciled()
        seen = False
        for _ in range(60):
            done = await keep_reconciled(cluster.desk) is None
            seen |= cluster.is_unreconciled()
            if done:
                break
        assert seen and not cluster.is_unreconciled()
        assert all(cluster.readable(number) == 6 for number in (*OLD, *NEW))
        assert cluster.to_erase() == 0


async def test_what_lay_in_the_trash_comes_back(tmp_path: Path) -> None:
    """A backup that the old catalogue knows nothing of may have claimed it since."""

    async def before(cluster: StoredCluster) -> None:
        await old_backup(cluster)
        await cluster.desk.catalogue.write(
            lambda c: c.exec_driver_sql("UPDATE chunks SET state = 'trash', trashed_ms = 0")
        )

    clock = await put_back(tmp_path, before, new_backup)
    async with stored_cluster(tmp_path, 7, clock) as cluster:
        assert {row.state for row in cluster.rows().values()} == {"live"}
        await cluster.reconcile()
        await cluster.advance(DELETION_HOLD_S_DEFAULT + COMPARE_AGAIN_S)
        assert all(cluster.readable(number) == 6 for number in OLD)


async def test_it_dies_halfway_through_and_goes_on(tmp_path: Path) -> None:
    clock = await put_back(tmp_path, old_backup, new_backup)
    async with stored_cluster(tmp_path, 7, clock) as cluster:
        for _ in range(4):
            assert await keep_reconciled(cluster.desk) is not None
        assert cluster.is_unreconciled()
    async with stored_cluster(tmp_path, 7, clock) as cluster:
        assert cluster.is_unreconciled()
        await cluster.reconcile()
        assert not cluster.is_unreconciled()
        assert all(cluster.readable(number) == 6 for number in (*OLD, *NEW))


async def test_an_old_copy_does_not_catch_up_with_its_nodes_while_they_are_away(tmp_path: Path) -> None:
    """The whole site starts again, the coordinator first: it must not count on until they come."""
    clock = await put_back(tmp_path, old_backup, new_backup)
    async with office(tmp_path / "coordinator", clock) as alone:
        for _ in range(10):
            await keep_pulse(alone.desk)
    async with stored_cluster(tmp_path, 7, clock) as cluster:
        assert cluster.is_unreconciled()
        await cluster.reconcile()
        assert all(cluster.readable(number) == 6 for number in (*OLD, *NEW))
