"""Nodes that are full: writing stops with words, reading goes on, and room helps at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from holdfast.cluster import LocalCluster


def test_full_nodes_are_22_and_what_is_stored_can_be_restored(visitor: Any, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with LocalCluster(3, capacity_bytes=12_000_000) as cluster:
        person = visitor("full", **cluster.env())
        person.run("init")
        (tree / "first").write_bytes(os.urandom(8_000_000))
        person.run("backup", tree)
        (tree / "second").write_bytes(os.urandom(60_000_000))
        told = person.last("backup", tree, code=22)
        assert "room" in told["do"], "starting nodes that run would not help"
        assert person.last("snapshots")["snapshots"] == 1, "nothing half-done passes for whole"
        person.run("restore", f"latest:{tree}", "--target", tmp_path / "back", "--verify")
        assert (tmp_path / "back" / "first").read_bytes() == (tree / "first").read_bytes()
        (tree / "second").unlink()
        (tree / "small").write_text("there is room for this")
        for number in range(3):
            cluster.add_node()
            assert cluster.node_count == 4 + number
        cluster.wait_healthy()
        person.run("backup", tree)
        person.run("restore", f"latest:{tree}", "--target", tmp_path / "again")
        assert (tmp_path / "again" / "small").read_text() == "there is room for this"
