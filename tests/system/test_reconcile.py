"""Real processes: a catalogue that is put back from a copy loses nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from holdfast.cluster import LocalCluster
from holdfast.cluster.processes import wait_until

WITHIN_S = 60.0


def admin(person: Any, cluster: LocalCluster, *words: object) -> dict[str, Any]:
    told: dict[str, Any] = person.last("admin", *words, HOLDFAST_OPERATOR_KEY=str(cluster.operator_key))
    return told


def test_a_catalogue_put_back_from_a_copy_takes_up_what_was_stored_since(
    visitor: Any, tmp_path: Path
) -> None:
    tree, copy = tmp_path / "tree", tmp_path / "copy"
    tree.mkdir()
    with LocalCluster(6) as cluster:
        person = visitor("owner", **cluster.env())
        person.run("init")
        (tree / "first").write_bytes(os.urandom(3_000_000))
        person.run("backup", tree)
        cluster.stop("coordinator")
        shutil.copytree(cluster.coordinator.folder, copy)
        cluster.start("coordinator")
        cluster.wait_healthy()
        (tree / "second").write_bytes(os.urandom(9_000_000))
        person.run("backup", tree)
        before = admin(person, cluster, "status")
        cluster.kill("coordinator")
        shutil.rmtree(cluster.coordinator.folder)
        shutil.copytree(copy, cluster.coordinator.folder)
        cluster.start("coordinator")

        def is_reconciled() -> bool:
            told = admin(person, cluster, "status")
            return bool(told["inventory"]["adopted"]) and not told["inventory"]["unreconciled"]

        assert wait_until(is_reconciled, WITHIN_S)
        after = admin(person, cluster, "status")
        assert (after["chunks"], after["stored_bytes"]) == (before["chunks"], before["stored_bytes"])
        assert after["stripes"] == before["stripes"] and after["inventory"]["strays"] == 0
        assert after["inventory"]["erasing"] == 0
