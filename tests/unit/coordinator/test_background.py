"""When background tasks have their next turn, and what is told of them meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support.stored_cluster import stored_cluster

from holdfast.coordinator.asking import cluster_status
from holdfast.coordinator.background import TASKS
from holdfast.coordinator.catalogue.moves import all_moves, fill_batch, filled
from holdfast.coordinator.keeping_membership import assign_all
from holdfast.coordinator.repair_plan import Assignment
from holdfast.coordinator.repairing import keep_whole

(REPAIR,) = (task for task in TASKS if task.turn is keep_whole)
FOREVER_S = 3600.0


async def test_repair_begins_as_soon_as_there_is_something_to_do(tmp_path: Path) -> None:
    async with stored_cluster(tmp_path, 7) as cluster:
        await cluster.backup(range(4))
        desk = cluster.desk
        pause = asyncio.create_task(REPAIR.pause(desk, FOREVER_S))
        await asyncio.sleep(0)
        assert not pause.done()
        (group,) = [group for group in desk.live.groups.values() if group.kind == "usual"][:1]
        (spare,) = [node for node in desk.live.nodes if node not in group.members]
        assert await assign_all(desk, [Assignment(group, 0, spare, "drain")]) == 1
        async with asyncio.timeout(20):
            await pause
        await REPAIR.pause(desk, 0.0)  # and the one after waits for its time again
        assert not desk.repairs.is_due.is_set()


async def test_a_status_tells_how_far_a_slot_is_filled_by_now(tmp_path: Path) -> None:
    async with stored_cluster(tmp_path, 7) as cluster:
        await cluster.backup(range(4))
        desk = cluster.desk
        (used,) = {row.group_id for row in cluster.rows().values()}
        group = desk.live.groups[used]
        (spare,) = [node for node in desk.live.nodes if node not in group.members]
        await assign_all(desk, [Assignment(group, 0, spare, "drain")])
        (move,) = desk.live.moves.values()

        def one_more(c: object) -> bool:
            rows = fill_batch(c, move, move.cursor, 1, 1)  # type: ignore[arg-type]
            return filled(c, move, move.cursor, rows, [], rows[-1].cursor, 7)  # type: ignore[arg-type]

        assert await desk.catalogue.write(one_more)
        assert (await desk.catalogue.read(all_moves)).keys() == desk.live.moves.keys()
        (told,) = (await cluster_status(tmp_path / "coordinator" / "operator.key")).repair.moves
        assert (told.filled_shards, told.left_shards) == (1, 3)
