"""Space that many small files took comes back, although a few of them are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from holdfast.cluster import LocalCluster


def test_after_most_small_files_are_gone_backup_and_prune_bring_the_space_back(
    visitor: Any, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(300):
        (tree / f"{number:03}").write_bytes(os.urandom(40_000))
    with LocalCluster(3, folder=tmp_path / "cluster", trash_hold_s=0) as cluster:
        person = visitor("home", **cluster.env())
        person.run("init")
        person.run("backup", tree)
        before = cluster.status().stored_bytes
        assert before > 300 * 40_000
        kept = {}
        for number, path in enumerate(sorted(tree.iterdir())):
            if number % 10:
                path.unlink()
            else:
                kept[path.name] = path.read_bytes()
        person.run("backup", tree)
        person.run("forget", "--keep-last", 1, "--prune")
        # A tenth of the files, in chunks of their own, and the lists of files.
        assert cluster.wait_until(lambda told: told.stored_bytes < before // 5, 30)
        person.run("restore", f"latest:{tree}", "--target", tmp_path / "back", "--verify")
        assert {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()} == kept
