"""Losing the coordinator loses nothing: crashes while heads are posted, backups, restores, rebuilds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.cluster import LocalCluster
from holdfast.cluster.processes import clean_environment, wait_until
from holdfast.protocol.failpoints import VARIABLE

Same = Callable[[Path, Path], None]
PersonAt = Callable[..., Any]


def holdfast(*arguments: object, code: int = 0) -> list[dict[str, Any]]:
    """A command of the operator's, with --json; its lines."""
    kept = clean_environment()
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.client.console", *map(str, arguments), "--json"],
        env=kept,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LocalCluster]:
    """A cluster that may be taken apart; its kit lies elsewhere, as it should."""
    with LocalCluster(nodes=6, folder=tmp_path / "cluster") as running:
        shutil.move(running.folder / "coordinator" / "cluster-kit.pem", tmp_path / "kit.pem")
        yield running


def url_of(cluster: LocalCluster, number: int) -> str:
    """As its folder says, which needs no coordinator."""
    told = json.loads((cluster.folder / f"node-{number}" / "ready.json").read_bytes())
    return str(told["url"])


def rebuild(cluster: LocalCluster, tmp_path: Path, *numbers: int) -> dict[str, Any]:
    """Rebuild the coordinator from these nodes, start it, and wait until the nodes report to it."""
    told = holdfast(
        *("coordinator", "rebuild", "--kit", tmp_path / "kit.pem"),
        *("--dir", cluster.folder / "coordinator"),
        *(word for number in numbers for word in ("--node", url_of(cluster, number))),
    )[-1]
    cluster.start("coordinator")
    cluster.wait_healthy()
    return told


def lose(cluster: LocalCluster) -> Path:
    """The coordinator is killed, and its folder is out of reach; gives where it went."""
    cluster.kill("coordinator")
    aside = cluster.folder.parent / "lost-coordinator"
    shutil.move(cluster.folder / "coordinator", aside)
    return aside


def test_a_coordinator_whose_folder_is_gone_is_rebuilt_and_every_snapshot_restores(
    own: LocalCluster, person_at: PersonAt, tree: Path, tmp_path: Path, same: Same
) -> None:
    ada = person_at(own, "ada")
    first = ada.last("backup", tree)["id"]
    shutil.copytree(tree, tmp_path / "before", symlinks=True)
    (tree / "papers" / "later.txt").write_text("written later\n" * 1000)
    second = ada.last("backup", tree)["id"]
    lose(own)  # right after the answer

    told = rebuild(own, tmp_path, 1)  # one node knows all the others
    assert (told["nodes"], told["silent"], told["accounts"], told["heads"]) == (6, [], 1, 2)
    assert told["term"] == 2 and told["chunks"] > 0 and told["nameless"] == 0

    moved = {"HOLDFAST_COORDINATOR": own.address}
    listed = [line["id"] for line in ada.ask("snapshots", **moved) if line["message_type"] == "status"]
    assert listed == [first, second]
    ada.run("check", first, "--read-data", **moved)
    ada.run("restore", f"{second}:{tree}", "--target", tmp_path / "back", "--verify", **moved)
    same(tree, tmp_path / "back")
    ada.run("restore", f"{first}:{tree}", "--target", tmp_path / "older", **moved)
    assert not (tmp_path / "older" / "papers" / "later.txt").exists()

    (tree / "papers" / "after.txt").write_text("written after the rebuild\n")
    ada.run("backup", tree, **moved)

    new = type(ada)(tmp_path / "new", {**moved})
    found = new.last("recover", "--recovery-file", ada.code_file, "--device-name", "new", **moved)
    assert found["head_seq"] == 3
    new.run("restore", f"latest:{tree}", "--target", tmp_path / "new-back", **moved)
    same(tree, tmp_path / "new-back")


def test_a_coordinator_is_rebuilt_while_two_nodes_are_away_and_they_are_taken_in_when_they_are_back(
    own: LocalCluster, person_at: PersonAt, tree: Path, tmp_path: Path, same: Same
) -> None:
    ada = person_at(own, "ada")
    ada.run("backup", tree)
    own.kill(2, 5)
    lose(own)
    told = holdfast(
        *("coordinator", "rebuild", "--kit", tmp_path / "kit.pem"),
        *("--dir", own.folder / "coordinator", "--node", url_of(own, 1)),
    )[-1]
    assert told["nodes"] == 4 and len(told["silent"]) == 2 and told["heads"] == 1
    own.start("coordinator")
    own.wait_until(lambda status: sum(node.state == "up" for node in status.nodes) == 4)
    moved = {"HOLDFAST_COORDINATOR": own.address}
    ada.run("restore", f"latest:{tree}", "--target", tmp_path / "back", **moved)
    same(tree, tmp_path / "back")
    own.start(2, 5)
    own.wait_healthy()
    assert own.wait_until(lambda status: status.stripes.by_spare.get("2", 0) == status.stripes.total > 0)


def test_an_old_coordinator_that_comes_back_after_a_rebuild_is_followed_by_nobody_and_says_so(
    own: LocalCluster, person_at: PersonAt, tree: Path, tmp_path: Path
) -> None:
    ada = person_at(own, "ada")
    ada.run("backup", tree)
    old_url, aside = own.url, lose(own)
    rebuild(own, tmp_path, 3)
    moved = {"HOLDFAST_COORDINATOR": own.address}
    ada.run("backup", tree, **moved)
    assert own.url != old_url

    log = tmp_path / "old.log"
    with log.open("wb") as target:
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "holdfast.client.console", "coordinator", "run"),
                *("--dir", str(aside), "--heartbeat-ms", "300", "--suspect-after-s", "1.2"),
                *("--down-after-s", "2.4"),
            ],
            stdout=target,
            stderr=subprocess.STDOUT,
        )
    try:
        assert wait_until(lambda: "another coordinator reigns" in log.read_text(), 30), log.read_text()
        status = own.status()
        assert all(node.state == "up" for node in status.nodes), "every node stays with the new one"
        # A device that has met the new one does not even ask the old one.
        old = f"{old_url}#{own.address.split('#')[1]}"
        refused = ada.last("backup", tree, code=25, HOLDFAST_COORDINATOR=old)
        assert refused["code"] == "rollback"
        told = holdfast(
            *("admin", "invite", "--operator-key", aside / "operator.key"),
            code=1,
        )[-1]
        assert told["code"] == "superseded" and told["term"] == 2
    finally:
        process.terminate()
        process.wait(timeout=30)
    ada.run("backup", tree, **moved)


STEPS = ("head.waiting", "head.agreed", "head.written", "snapshot.taken", "snapshot.committed")


@pytest.fixture
def steps(tmp_path: Path) -> Iterator[tuple[LocalCluster, Path]]:
    """A cluster whose coordinator dies at the step that a file names."""
    file = tmp_path / "steps"
    with LocalCluster(nodes=6, folder=tmp_path / "cluster", environment={VARIABLE: str(file)}) as running:
        yield running, file


def test_a_coordinator_killed_at_any_step_of_posting_loses_no_head_and_makes_none_twice(
    steps: tuple[LocalCluster, Path], person_at: PersonAt, tmp_path: Path
) -> None:
    cluster, file = steps
    ada = person_at(cluster, "ada")
    source = tmp_path / "letters"
    source.mkdir()
    made: list[str] = []
    for step in STEPS:
        (source / f"{step}.txt").write_text(f"written before {step}\n")
        file.write_text(f"coordinator.{step} 1 kill\n")
        running = subprocess.Popen(
            [sys.executable, "-m", "holdfast.client.console", "backup", str(source), "--json"],
            env=ada.env(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        hits = Path(f"{file}.hits")
        assert wait_until(lambda h=hits, s=step: h.exists() and s in h.read_text(), 60), step  # type: ignore[misc]
        assert wait_until(lambda: cluster.coordinator.state() == "stopped", 30)
        file.unlink()
        cluster.start("coordinator")
        out, err = running.communicate(timeout=90)
        # The client goes on asking while the coordinator is away, and its answer is the truth.
        assert running.returncode == 0, err
        made.append(json.loads(out.splitlines()[-1])["id"])
    listed = [line["id"] for line in ada.ask("snapshots") if line["message_type"] == "status"]
    assert listed == made
    ada.run("check", "latest", "--read-data")


def test_a_backup_of_the_running_coordinator_restores_under_a_new_term_and_takes_over_what_came_since(
    own: LocalCluster, person_at: PersonAt, tree: Path, tmp_path: Path, same: Same
) -> None:
    ada = person_at(own, "ada")
    first = ada.last("backup", tree)["id"]
    copy = tmp_path / "coordinator.backup"
    told = holdfast("coordinator", "backup", "--dir", own.folder / "coordinator", "--output", copy)[-1]
    assert told["term"] == 1 and copy.stat().st_mode & 0o777 == 0o600
    (tree / "papers" / "later.txt").write_text("written after the backup of the coordinator\n" * 1000)
    second = ada.last("backup", tree)["id"]
    lose(own)

    made = holdfast(
        *("coordinator", "restore", "--from", copy, "--dir", own.folder / "coordinator"),
        *("--kit", tmp_path / "kit.pem"),
    )[-1]
    assert made["term"] == 2 and made["nodes"] == 6
    own.start("coordinator")
    own.wait_healthy()

    def snapshots() -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "holdfast.client.console", "snapshots", "--json"],
            env=ada.env(HOLDFAST_COORDINATOR=own.address),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        # Until the heads are taken over it is the older history, and this device has seen the newer one.
        assert done.returncode in (0, 25), done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return [line["id"] for line in lines if line["message_type"] == "status"]

    assert wait_until(lambda: snapshots() == [first, second], 60)
    moved = {"HOLDFAST_COORDINATOR": own.address}
    ada.run("restore", f"{first}:{tree}", "--target", tmp_path / "one", **moved)
    assert not (tmp_path / "one" / "papers" / "later.txt").exists()


def test_a_damaged_backup_and_a_foreign_kit_are_refused_and_leave_no_coordinator(
    own: LocalCluster, tmp_path: Path
) -> None:
    copy = tmp_path / "coordinator.backup"
    folder, target = own.folder / "coordinator", tmp_path / "restored"
    holdfast("coordinator", "backup", "--dir", folder, "--output", copy)
    holdfast("coordinator", "backup", "--dir", folder, "--output", copy, code=1)
    raw = bytearray(copy.read_bytes())
    raw[len(raw) // 2] ^= 1
    damaged = tmp_path / "damaged"
    damaged.write_bytes(raw)
    kit = ("--kit", tmp_path / "kit.pem")
    holdfast("coordinator", "restore", "--from", damaged, "--dir", target, *kit, code=23)
    holdfast("coordinator", "restore", "--from", copy, "--dir", folder, *kit, code=11)  # it is in use
    assert not (target / "charter.bin").exists()
    holdfast("coordinator", "restore", "--from", copy, "--dir", target, *kit)
    assert (target / "charter.bin").exists()


def test_nodes_follow_the_coordinator_to_another_port(own: LocalCluster, tmp_path: Path) -> None:
    before = own.url
    own.stop("coordinator")
    kept = own.folder / "coordinator" / "coordinator.json"
    values = json.loads(kept.read_bytes())
    kept.write_text(json.dumps({**values, "listen": "127.0.0.1:0"}))
    own.start("coordinator")
    assert own.url != before
    own.wait_healthy()
