"""The verdict never says that all is safe while something that it counts on is not there, or not proven."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from support.stored_cluster import StoredCluster, stored_cluster

from holdfast.coordinator.catalogue.erasures import set_unreconciled
from holdfast.coordinator.catalogue.moves import assign_slot
from holdfast.coordinator.service import stripes
from holdfast.coordinator.service.stripes import account_verdict
from holdfast.coordinator.verdict import Verdict

OLD, NEW = range(4), range(10, 13)


async def verdict_of(cluster: StoredCluster) -> Verdict:
    return await account_verdict(cluster.desk, None)


async def move_first_slot(cluster: StoredCluster) -> tuple[bytes, bytes]:
    """The only group's slot 0 goes to the seventh node; gives (old, new)."""
    ((group_id,),) = [{row.group_id for row in cluster.rows().values()}]
    group = cluster.desk.live.groups[group_id]
    (new,) = [node for node in cluster.nodes if node.id not in group.members]
    await cluster.desk.catalogue.write(lambda c: assign_slot(c, group, 0, new.id, "drain", 0))
    await cluster.desk.live.refresh(cluster.desk.catalogue)
    return group.members[0], new.id


async def test_what_was_written_to_a_slot_s_new_holder_is_not_on_the_former_one(tmp_path: Path) -> None:
    async with stored_cluster(tmp_path, 7) as cluster:
        lease, _ = await cluster.backup(OLD)
        _, new = await move_first_slot(cluster)
        again, _ = await cluster.backup(NEW)
        assert again.group == lease.group and new in again.members
        assert (await verdict_of(cluster)).stripes.by_spare["2"] == len(OLD) + len(NEW)
        await cluster.node(new).beat(state="stopping")  # type: ignore[arg-type]
        told = await verdict_of(cluster)
        assert told.word == "degraded"
        assert (told.stripes.by_spare["2"], told.stripes.by_spare["1"]) == (len(OLD), len(NEW))
        await cluster.node(new).beat()  # type: ignore[arg-type]
        await cluster.repair()
        assert (await verdict_of(cluster)).word == "safe"


@pytest.mark.parametrize("stored", [(), OLD])
async def test_a_catalogue_that_may_be_old_proves_nothing(tmp_path: Path, stored: range) -> None:
    async with stored_cluster(tmp_path, 6) as cluster:
        if stored:
            await cluster.backup(stored)
        await cluster.desk.catalogue.write(lambda c: set_unreconciled(c, True))
        told = await verdict_of(cluster)
        assert told.word == "degraded" and told.sentence.startswith("Not proven yet")
        assert (await cluster.office.status(cluster.person)).verdict == "degraded"
        await cluster.reconcile()
        assert (await verdict_of(cluster)).word == "safe"


async def test_counting_while_slots_are_filled_leaves_the_catalogue_to_others_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an account it goes through every chunk, and many ask: nobody else must wait for them."""
    async with stored_cluster(tmp_path, 7) as cluster:
        await cluster.backup(OLD)
        old, _ = await move_first_slot(cluster)
        desk = cluster.desk
        del desk.live.beats[old]  # type: ignore[arg-type]
        desk.live.started_s -= 10 * desk.live.health.down_after_s
        count, go_on, counted = stripes.group_counts, threading.Event(), 0

        def takes_long(c: Any, number: int | None, *moves: Any) -> Any:
            nonlocal counted
            if number is not None:
                counted += 1
                go_on.wait(60)
            return count(c, number, *moves)

        monkeypatch.setattr(stripes, "group_counts", takes_long)
        asking = [asyncio.create_task(account_verdict(desk, 1)) for _ in range(10)]
        try:
            async with asyncio.timeout(20):
                while not counted:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                asking.pop(0).cancel()  # the thread goes on for all that
                asking.extend(asyncio.create_task(account_verdict(desk, 1)) for _ in range(10))
                for _ in range(5):
                    assert await desk.catalogue.read(lambda c: 7) == 7
                assert (await verdict_of(cluster)).word == "degraded", "of all it is told by sums"
        finally:
            go_on.set()
        assert {verdict.word for verdict in await asyncio.gather(*asking)} == {"degraded"}
        assert counted == 2, "once for who came before it began, once for all who came later"
