"""What was stored while too few nodes were up becomes as safe as everything else, by itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from holdfast.cluster import LocalCluster


def test_a_backup_made_with_two_of_six_nodes_away_can_lose_two_others_later(
    visitor: Any, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(6):
        (tree / f"{number}.raw").write_bytes(os.urandom(3_000_000))
    with LocalCluster(6, folder=tmp_path / "cluster", trash_hold_s=0) as cluster:
        person = visitor("home", **cluster.env())
        person.run("init")
        cluster.kill(5, 6)
        cluster.wait_down(5, 6)
        person.run("backup", tree)

        def profiles(told: Any) -> dict[tuple[int, int], int]:
            found: dict[tuple[int, int], int] = {}
            for group in told.groups:
                if group.chunks:
                    found[group.k, group.m] = found.get((group.k, group.m), 0) + group.chunks
            return found

        stored = profiles(cluster.status())
        assert set(stored) == {(2, 2)}
        cluster.start(5, 6)
        cluster.wait_healthy()
        assert cluster.wait_until(lambda told: set(profiles(told)) == {(4, 2)}, 40)
        told = cluster.status()
        assert sum(profiles(told).values()) == sum(stored.values())
        assert told.verdict == "safe" and told.stripes.by_spare["2"] == told.stripes.total
        # The old shards are erased once the new group is whole: six nodes keep a fourth of each chunk.
        sealed = told.stored_bytes
        assert cluster.wait_until(lambda told: sum(n.used_bytes for n in told.nodes) < sealed * 17 // 10, 60)

        cluster.kill(1, 2)
        person.run("restore", f"latest:{tree}", "--target", tmp_path / "back", "--verify")
        for path in tree.rglob("*"):
            assert (tmp_path / "back" / path.relative_to(tree)).read_bytes() == path.read_bytes()
