"""Local clusters: for people at a terminal and for developers' tests; they never touch what is not theirs."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.client import Client
from holdfast.cluster import LocalCluster
from holdfast.cluster.processes import clean_environment, wait_until
from holdfast.protocol.errors import BadRequest, HoldfastError, NotFound, Unreachable, WrongDirectory

COMMAND = [sys.executable, "-m", "holdfast.client.console"]


def holdfast(*arguments: object, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = clean_environment()
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A place for a cluster; whatever still runs in it is ended."""
    made = tmp_path / "cluster"
    yield made
    if (made / "cluster.json").exists():
        LocalCluster(folder=made, keep=True).down(delete=True)


def test_a_cluster_s_whole_life_at_the_terminal(folder: Path, tmp_path: Path) -> None:
    made = holdfast("cluster", "up", "--nodes", 3, "--dir", folder).stdout
    assert "A cluster of 3 nodes was made and is running" in made
    assert max(len(line) for line in made.splitlines() if "/" not in line) <= 80
    first = json.loads(holdfast("cluster", "status", "--dir", folder, "--json").stdout.splitlines()[-1])
    assert first["verdict"] == "safe" and len(first["nodes"]) == 3

    again = holdfast("cluster", "up", "--dir", folder).stdout
    assert "A cluster of 3 nodes is running" in again
    assert [line.split() for line in again.splitlines() if " pid " in line] == [
        line.split() for line in made.splitlines() if " pid " in line
    ], "called twice, nothing was started twice"

    exported = holdfast("cluster", "env", "--dir", folder).stdout
    environment = dict(shlex.split(line)[1].split("=", 1) for line in exported.splitlines())
    assert set(environment) == {"HOLDFAST_COORDINATOR", "HOLDFAST_INVITE"}
    environment["HOLDFAST_HOME"] = str(tmp_path / "home")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one").write_text("Dear Ada")
    holdfast("init", **environment)
    holdfast("backup", tmp_path / "letters", **environment)

    holdfast("cluster", "kill", 2, "--dir", folder)
    told = holdfast("cluster", "status", "--dir", folder).stdout
    assert f"node-2 is stopped: holdfast cluster start 2 --dir {folder}" in told
    holdfast("restore", "latest", "--target", tmp_path / "back", **environment)
    holdfast("cluster", "pause", "coordinator", "--dir", folder)
    assert "resume coordinator" in holdfast("cluster", "status", "--dir", folder, code=24).stderr
    holdfast("cluster", "resume", "coordinator", "--dir", folder)
    holdfast("cluster", "stop", 1, "coordinator", "--dir", folder)
    holdfast("cluster", "start", "coordinator", 1, 2, "--dir", folder)
    assert "serving" in holdfast("cluster", "logs", 1, "--dir", folder).stdout
    assert "serving" in holdfast("cluster", "logs", "--dir", folder).stdout

    ports = {line.split()[1] for line in made.splitlines() if " pid " in line}
    holdfast("cluster", "down", "--dir", folder)
    after = holdfast("cluster", "up", "--dir", folder).stdout
    assert {line.split()[1] for line in after.splitlines() if " pid " in line} == ports, "ports are kept"
    holdfast("restore", "latest", "--target", tmp_path / "again", **environment)
    holdfast("cluster", "down", "--delete", "--dir", folder)
    assert not folder.exists()
    assert "There is no cluster" in holdfast("cluster", "down", "--dir", folder).stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["status"], 1),
        (["env"], 1),
        (["kill", "1"], 1),
        (["logs"], 1),
        (["up", "--nodes", "0"], 2),
        (["up", "--nodes", "65"], 2),
        (["up", "--nodes", "4", "--profile", "4+2"], 1),
        (["up", "--nodes", "4", "--profile", "4x2"], 1),
        (["up", "--nodes", "4", "--zones", "5"], 1),
        (["kill"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said_with_a_next_step(folder: Path, arguments: list[str], code: int) -> None:
    done = holdfast("cluster", *arguments, "--dir", folder, code=code)
    assert "Next:" in done.stderr or "Usage:" in done.stderr
    assert not (folder / "coordinator").exists(), "nothing was begun"


def test_a_foreign_folder_is_neither_used_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"the only copy")
    with pytest.raises(WrongDirectory):
        LocalCluster(2, folder=tmp_path).up()
    with pytest.raises(WrongDirectory):
        LocalCluster(folder=tmp_path).down(delete=True)
    assert (tmp_path / "photo.jpg").read_bytes() == b"the only copy"


def test_deleting_leaves_what_is_not_the_cluster_s(folder: Path) -> None:
    with LocalCluster(2, folder=folder, keep=True) as cluster:
        (folder / "notes.txt").write_text("mine")
        assert cluster.down(delete=True) is False
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_clusters_side_by_side_do_not_meet(tmp_path: Path) -> None:
    with LocalCluster(2) as one, LocalCluster(2) as two:
        assert one.address != two.address
        assert not {m.url for m in one.members()} & {m.url for m in two.members()}
        one.kill(1)
        assert all(member.state == "running" for member in two.members())
        homes = []
        for number, cluster in enumerate((one, two)):
            with Client(tmp_path / str(number), coordinator=cluster.address) as client:
                homes.append(client.init(cluster.invite()).account)
        assert homes[0] != homes[1]
    assert not one.folder.exists() and not two.folder.exists(), "temporary clusters are deleted"


def test_a_stale_pid_never_leads_to_somebody_else_s_process(folder: Path) -> None:
    """The pid in the note belongs to another program by now: the machine was restarted, or pids wrapped."""
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        with LocalCluster(2, folder=folder, keep=True) as cluster:
            cluster.kill(1)
            note = folder / "node-1.process.json"
            told = json.loads(note.read_text())
            note.write_text(json.dumps({**told, "pid": bystander.pid}))
            assert cluster.members()[1].state == "stopped"
            cluster.kill(1)
            cluster.stop(1)
            cluster.pause(1)
            assert alive(bystander.pid)
            cluster.start(1)
            cluster.wait_healthy()
            for broken in ("", "{}", '{"pid": -1, "started": 0, "boot": ""}', "[]"):
                cluster.stop(1)
                note.write_text(broken)
                assert cluster.members()[1].state == "stopped"
            cluster.start(1)
            cluster.down()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_nodes_are_added_and_zones_spread(folder: Path) -> None:
    with LocalCluster(3, zones=3, folder=folder, keep=True) as cluster:
        assert {node.zone for node in cluster.status().nodes} == {"zone-1", "zone-2", "zone-3"}
        assert cluster.add_node() == 4
        cluster.wait_healthy()
        assert len(cluster.status().nodes) == 4
    with LocalCluster(5, folder=folder, keep=True) as cluster:
        assert cluster.node_count == 5
    with pytest.raises(BadRequest, match="has 5 nodes"):
        LocalCluster(4, folder=folder).up()
    with pytest.raises(BadRequest, match="profile"):
        LocalCluster(profile="1+1", folder=folder).up()


async def test_it_is_an_async_context_manager_too_and_works_inside_a_loop(tmp_path: Path) -> None:
    async with LocalCluster(2) as cluster:
        await cluster.run(cluster.kill, 1)
        told = await cluster.run(cluster.status)
        assert len(told.nodes) == 2
    with LocalCluster(2) as cluster:
        assert cluster.status().nodes
        cluster.pause("coordinator")
        with pytest.raises(Unreachable):
            cluster.status()
        cluster.heal()
        assert all(member.state == "running" for member in cluster.members())


@pytest.mark.parametrize("target", ["0", "3", "x", "node-9", ""])
def test_a_member_that_there_is_not_is_named(folder: Path, target: str) -> None:
    (folder).mkdir()
    (folder / "cluster.json").write_text(
        json.dumps({"version": 1, "nodes": 2, "profile": None, "zones": None, "capacity_bytes": None})
    )
    with pytest.raises((NotFound, BadRequest)):
        LocalCluster(folder=folder, keep=True).member(target)
    (folder / "cluster.json").unlink()


def test_a_folder_of_another_version_is_refused(folder: Path) -> None:
    folder.mkdir()
    (folder / "cluster.json").write_text('{"version": 99}')
    with pytest.raises(WrongDirectory, match="version"):
        LocalCluster(folder=folder, keep=True).up()
    (folder / "cluster.json").unlink()


def test_a_member_that_cannot_start_shows_its_log(folder: Path) -> None:
    with LocalCluster(2, folder=folder, keep=True) as cluster:
        cluster.stop(1)
        (folder / "node-1" / "node.json").write_text("{")
        with pytest.raises(HoldfastError) as caught:
            cluster.start(1)
        assert "node.json" in str(caught.value)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_demo_that_is_interrupted_leaves_no_process_and_no_folder(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "source").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [*COMMAND, "demo", "--source", str(tmp_path / "source")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert wait_until(lambda: any(tmp_path.glob("*/cluster/node-2.process.json")), 60)
    notes = list(tmp_path.glob("*/cluster/*.process.json"))
    pids = [json.loads(note.read_text())["pid"] for note in notes]
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode in (130, 143), (out, err)
    assert "Traceback" not in err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("holdfast-")]
    assert wait_until(lambda: not any(alive(pid) for pid in pids), 20)


def test_the_demo_holds_and_says_so_to_programs(tmp_path: Path) -> None:
    """Small on purpose; 'make demo' runs it on the standard library."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "note").write_text("small")
    done = holdfast(
        "demo", "--source", source, "--nodes", 6, "--profile", "4+2", "--json", TMPDIR=str(tmp_path)
    )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert set(told) == {
        "message_type", "identical", "nodes", "killed", "files", "bytes", "backup_mb_per_s",
        "restore_mb_per_s", "degraded_restore_mb_per_s", "new_bytes_second_backup",
    }  # fmt: skip
    assert (told["message_type"], told["identical"], told["nodes"], told["killed"]) == ("summary", True, 6, 2)
    assert told["files"] > 300 and told["new_bytes_second_backup"] > 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("holdfast-")]
    assert "needs 6 nodes" in holdfast("demo", "--nodes", 5, "--profile", "4+2", code=1).stderr


def test_a_coordinator_whose_folder_is_gone_is_not_replaced_by_another_cluster(folder: Path) -> None:
    with LocalCluster(2, folder=folder, keep=True) as cluster:
        cluster.kill("coordinator")
        cluster.coordinator.folder.rename(folder.parent / "lost")
    refused = holdfast("cluster", "up", "--dir", folder, code=1).stderr
    assert "is gone" in refused and "holdfast coordinator rebuild" in refused
    assert not (folder / "coordinator").exists()
    (folder.parent / "lost").rename(folder / "coordinator")
    holdfast("cluster", "up", "--dir", folder)
