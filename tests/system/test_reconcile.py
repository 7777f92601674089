"""Real processes: room really comes back to the disks, and a catalogue put back from a copy loses nothing."""

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


def data_files(cluster: LocalCluster) -> list[int]:
    return [(node.folder / "store" / "data.mdb").stat().st_size for node in cluster.nodes()]


def test_what_is_forgotten_and_pruned_gives_its_room_back_to_the_disks(visitor: Any, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with LocalCluster(6, trash_hold_s=0) as cluster:
        person = visitor("pruner", **cluster.env())
        person.run("init")
        (tree / "large").write_bytes(os.urandom(60_000_000))
        person.run("backup", tree)
        (tree / "large").unlink()
        (tree / "small").write_bytes(os.urandom(2_000_000))
        person.run("backup", tree)
        full = data_files(cluster)
        person.run("forget", "--keep-last", "1")
        person.run("prune")

        def is_erased() -> bool:
            nodes = admin(person, cluster, "nodes")["nodes"]
            return all(node["used_bytes"] < 2_000_000 for node in nodes)

        assert wait_until(is_erased, WITHIN_S)
        erased = zip(full, data_files(cluster), strict=True)
        assert all(after >= before for before, after in erased), "erasing alone gives nothing back"
        for node in admin(person, cluster, "nodes")["nodes"]:
            told = admin(person, cluster, "compact", node["id"][:12], "--wait")
            assert told["given_back_bytes"] > 8_000_000 and told["trouble"] == ""
        assert all(after < before / 3 for before, after in zip(full, data_files(cluster), strict=True))
        cluster.kill(1, 2)
        cluster.start(1, 2)
        cluster.wait_healthy()
        back = tmp_path / "back"
        person.run("restore", f"latest:{tree}", "--target", back, "--verify")
        assert (back / "small").read_bytes() == (tree / "small").read_bytes()


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
