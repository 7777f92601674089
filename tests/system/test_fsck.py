"""The catalogue joined with all stores, offline: whole, then broken in each of the ways that matter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from holdfast.client import Client
from holdfast.cluster import LocalCluster
from holdfast.cluster.chaos.disks import cut_off, flip_values, swap_values
from holdfast.node.store_lmdb_looking import look_at_store


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster at rest with some chunks in it: its folder, to be copied and broken."""
    folder = tmp_path_factory.mktemp("fsck")
    source = folder / "source"
    source.mkdir()
    for number in range(6):
        (source / f"{number}").write_bytes(os.urandom(900_000))
    with LocalCluster(nodes=4, profile="2+1", folder=folder / "cluster") as cluster:
        address, invite = cluster.env().values()
        with Client(folder / "home", coordinator=address) as client:
            client.init(invite)
            client.backup(source)
        cluster.stop(1, 2, 3, 4)
        cluster.stop("coordinator")
        yield cluster.folder


@pytest.fixture
def folder(stopped: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(stopped, tmp_path / "cluster"))


def fsck(folder: Path, nodes: tuple[int, ...] = (1, 2, 3, 4), *more: str) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.client.console", "admin", "fsck", "--json"]
        + ["--coordinator-dir", str(folder / "coordinator")]
        + [argument for number in nodes for argument in ("--node-dir", str(folder / f"node-{number}"))]
        + list(more),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, lines


def kinds(lines: list[dict[str, Any]]) -> set[str]:
    return {line["kind"] for line in lines if line["message_type"] == "status"}


def digest(folder: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of all stored files, to see that nothing was written."""
    files = [*folder.glob("node-*/store/data.mdb"), folder / "coordinator" / "catalogue.sqlite"]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def store(folder: Path, number: int) -> Path:
    return folder / f"node-{number}" / "store"


def test_a_whole_cluster_is_said_to_be_whole_and_nothing_is_written(folder: Path) -> None:
    before = digest(folder)
    code, lines = fsck(folder)
    assert (code, kinds(lines)) == (0, set())
    assert lines[-1]["stripes"] > 3 and lines[-1]["short"] == 0
    assert fsck(folder, (1, 2, 3, 4), "--keys-only")[0] == 0
    assert digest(folder) == before


def test_a_flipped_bit_is_found_and_not_by_keys_alone(folder: Path) -> None:
    # Groups of three: one of the four nodes may have nothing.
    shards = {number: look_at_store(store(folder, number)).shards for number in (1, 2, 3, 4)}
    number = max(shards, key=lambda one: len(shards[one]))
    assert flip_values(store(folder, number), shards[number], 3, Random(1)) == 3
    code, lines = fsck(folder)
    assert code == 23
    assert kinds(lines) == {"damaged", "not_noted", "short"}
    assert fsck(folder, (1, 2, 3, 4), "--keys-only")[0] == 0


def test_shards_that_changed_places_are_found(folder: Path) -> None:
    # Shards of unequal length do not change places; these are too few to be sure of a pair on one node.
    swapped = sum(
        swap_values(store(folder, number), look_at_store(store(folder, number)).shards, 4, Random(2))
        for number in (1, 2, 3, 4)
    )
    code, lines = fsck(folder)
    assert (code == 23) == (swapped > 0)
    assert ("damaged" in kinds(lines)) == (swapped > 0)


def test_a_file_that_ends_early_does_not_kill_the_looker(folder: Path) -> None:
    assert cut_off(store(folder, 1), 40.0) > 0
    code, lines = fsck(folder)
    assert code == 23 and "store_unread" in kinds(lines)


def test_too_many_stores_gone_is_20_and_a_node_left_out_is_said(folder: Path) -> None:
    # Stripes of three over four nodes: without the two that hold the most, some stripe has one shard left.
    fullest = sorted((1, 2, 3, 4), key=lambda one: len(look_at_store(store(folder, one)).shards))
    code, lines = fsck(folder, (fullest[0], fullest[1]))
    assert code == 20
    assert {"node_not_named", "unreadable"} <= kinds(lines)


def test_a_catalogue_of_yesterday_sees_orphans(folder: Path, stopped: Path) -> None:
    """Rows deleted behind the nodes' backs: their shards are orphans, and no harm is done."""
    import sqlite3

    with sqlite3.connect(folder / "coordinator" / "catalogue.sqlite") as connection:
        connection.execute("DELETE FROM chunks WHERE id IN (SELECT id FROM chunks LIMIT 2)")
    connection.close()
    code, lines = fsck(folder)
    assert code == 0 and kinds(lines) == {"orphan"}
    assert lines[-1]["orphans"] == 6


def test_a_folder_that_is_no_member_s_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "node-9").mkdir()
    command = ["admin", "fsck", "--coordinator-dir", str(folder / "coordinator")]
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.client.console", *command, "--node-dir", str(tmp_path / "node-9")],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 1 and "no node's folder" in done.stderr
