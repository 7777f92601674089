"""What goes wrong around a person's backups, and what they are told: each with its exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from holdfast.client import AsyncClient
from holdfast.client.progress import Progress
from holdfast.client.recovery_code import encode_recovery_code
from holdfast.cluster import LocalCluster
from holdfast.cluster.chaos.disks import flip_values
from holdfast.cluster.processes import wait_until
from holdfast.coordinator.asking import invite_token
from holdfast.node.store_lmdb_looking import look_at_store

Same = Callable[[Path, Path], None]
ALL = range(1, 7)


def grown(tree: Path, megabytes: int = 24) -> Path:
    """The tree with more in it, that nothing has stored yet."""
    (tree / "more").mkdir(exist_ok=True)
    for number in range(megabytes // 4):
        (tree / "more" / f"{number}.raw").write_bytes(os.urandom(4_000_000))
    return tree


# Nodes that are gone


def test_any_two_nodes_may_die_for_reading_and_for_writing(
    person: Any, tree: Path, healed: LocalCluster, same: Same, tmp_path: Path
) -> None:
    person.run("backup", tree)
    healed.kill(2, 5)
    person.run("restore", f"latest:{tree}", "--target", tmp_path / "one", "--verify")
    same(tree, tmp_path / "one")
    grown(tree)
    assert person.last("backup", tree)["new_bytes"] > 20_000_000
    person.run("restore", f"latest:{tree}", "--target", tmp_path / "two")
    same(tree, tmp_path / "two")
    person.run("check", "latest", "--read-data")


def test_nodes_that_hang_are_passed_over(
    person: Any, tree: Path, healed: LocalCluster, same: Same, tmp_path: Path
) -> None:
    person.run("backup", tree)
    healed.pause(1, 4)
    person.run("restore", f"latest:{tree}", "--target", tmp_path / "one")
    same(tree, tmp_path / "one")
    grown(tree, 8)
    person.run("backup", tree)
    healed.resume(1, 4)
    person.run("restore", f"latest:{tree}", "--target", tmp_path / "two")
    same(tree, tmp_path / "two")


def test_one_node_too_few_is_20_with_names_and_nothing_wrong_written(
    person: Any, tree: Path, healed: LocalCluster, same: Same, tmp_path: Path
) -> None:
    person.run("backup", tree)
    healed.kill(1, 2, 3)
    target = tmp_path / "back"
    lines = person.ask("restore", f"latest:{tree}", "--target", target, code=20)
    assert lines[-1]["exit_code"] == 20 and lines[-1]["do"]
    named = {line["path"] for line in lines if line.get("event") == "failed"}
    assert str(tree / "photos/2024/big.jpg").lstrip("/") in named
    written = [path for path in target.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in written:
        assert path.read_bytes() == (tree / path.relative_to(target)).read_bytes()
    healed.start(1, 2, 3)
    healed.wait_healthy()
    assert person.last("restore", f"latest:{tree}", "--target", target)["skipped_existing"] >= len(written)
    person.run("restore", f"latest:{tree}", "--target", tmp_path / "fresh")
    same(tree, tmp_path / "fresh")


def test_fewer_nodes_than_a_group_still_take_backups(
    person: Any, tree: Path, healed: LocalCluster, same: Same, tmp_path: Path
) -> None:
    """Three of six: stripes of 2+1 over those that are up; and they are read when all are back."""
    healed.kill(4, 5, 6)
    healed.wait_down(4, 5, 6)
    person.run("backup", tree)
    person.run("restore", f"latest:{tree}", "--target", tmp_path / "one")
    same(tree, tmp_path / "one")
    healed.start(4, 5, 6)
    healed.wait_healthy()
    person.run("restore", f"latest:{tree}", "--target", tmp_path / "two")
    same(tree, tmp_path / "two")


def test_one_node_alone_is_no_backup_22_and_nothing_is_visible(
    person: Any, tree: Path, healed: LocalCluster
) -> None:
    healed.kill(2, 3, 4, 5, 6)
    healed.wait_down(2, 3, 4, 5, 6)
    told = person.last("backup", tree, code=22)
    assert told["do"]
    healed.start(2, 3, 4, 5, 6)
    healed.wait_healthy()
    assert person.last("snapshots")["snapshots"] == 0
    person.run("backup", tree)


def test_the_status_says_in_words_what_is_left_and_strict_is_21(
    person: Any, tree: Path, healed: LocalCluster
) -> None:
    person.run("backup", tree)
    assert "All data safe" in person.run("status", "--strict").stdout
    healed.kill(3)
    healed.wait_down(3)
    person.run("status")
    done = person.run("status", "--strict", code=21)
    assert "1 more node" in done.stdout


def test_flipped_bits_on_one_node_s_disk_are_never_restored(
    person: Any, tree: Path, healed: LocalCluster, same: Same, tmp_path: Path
) -> None:
    person.run("backup", grown(tree, 8))
    healed.stop(3)
    store = healed.folder / "node-3" / "store"
    # In shards, not in the trees that find them: a store with damaged trees stops, which is another test.
    held = look_at_store(store).shards
    assert flip_values(store, held, len(held), Random(1)) == len(held) > 0
    healed.start(3)
    person.run("restore", f"latest:{tree}", "--target", tmp_path / "back", "--verify")
    same(tree, tmp_path / "back")
    person.run("check", "--read-data")


# The coordinator


@pytest.mark.parametrize("verb", ["snapshots", "status", "backup", "restore", "check"])
def test_without_a_coordinator_it_is_24_and_a_next_step(
    person: Any, tree: Path, healed: LocalCluster, tmp_path: Path, verb: str
) -> None:
    person.run("backup", tree)
    healed.kill("coordinator")
    rest = {"backup": [tree], "restore": ["latest", "--target", tmp_path / "back"]}.get(verb, [])
    told = person.last(verb, *rest, code=24, HOLDFAST_PATIENCE_S="1")
    assert told["do"]


async def test_a_coordinator_that_restarts_in_the_middle_is_waited_for(
    person: Any, tree: Path, healed: LocalCluster, same: Same, tmp_path: Path
) -> None:
    grown(tree, 40)
    restarted = []

    def restart(progress: Progress) -> None:
        if progress.new_bytes > 8_000_000 and not restarted:
            restarted.append(True)
            healed.kill("coordinator")
            healed.start("coordinator")

    async with AsyncClient(person.home) as client:
        snapshot = await client.backup(tree, on_progress=restart)
        assert restarted
        report = await client.restore(snapshot, tmp_path / "back", path=os.fsencode(tree).lstrip(b"/"))
    assert report.complete
    same(tree, tmp_path / "back")


async def test_a_node_that_dies_while_it_is_read_from_is_replaced_by_others(
    person: Any, tree: Path, healed: LocalCluster, same: Same, tmp_path: Path
) -> None:
    grown(tree, 120)
    killed = []

    def kill(progress: Progress) -> None:
        if progress.bytes and not killed:
            killed.append(True)
            healed.kill(1, 6)

    async with AsyncClient(person.home) as client:
        snapshot = await client.backup(tree)
        prefix = os.fsencode(tree).lstrip(b"/")
        report = await client.restore(snapshot, tmp_path / "back", path=prefix, on_progress=kill)
    assert killed and report.complete
    same(tree, tmp_path / "back")


def test_a_coordinator_put_back_to_yesterday_shows_yesterday_to_nobody(
    person: Any, tree: Path, healed: LocalCluster, tmp_path: Path
) -> None:
    person.run("backup", tree)
    healed.stop("coordinator")
    folder = healed.folder / "coordinator"
    catalogue = [path for path in folder.iterdir() if path.name.startswith("catalogue.sqlite")]
    for path in catalogue:
        shutil.copy2(path, tmp_path / path.name)
    healed.start("coordinator")
    person.run("backup", grown(tree, 4))
    healed.stop("coordinator")
    today = tmp_path / "today"
    today.mkdir()
    for path in folder.glob("catalogue.sqlite*"):
        shutil.move(path, today / path.name)
    for path in catalogue:
        shutil.copy2(tmp_path / path.name, path)
    healed.start("coordinator")

    def has_caught_up() -> bool:
        """Until the witnesses have told it the newest head it is refused; then it shows that one."""
        done = subprocess.run(
            [sys.executable, "-m", "holdfast.client.console", "snapshots", "--json"],
            env=person.env(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        told = json.loads(done.stdout.splitlines()[-1])
        refused = done.returncode == 25 and told["code"] == "rollback" and told["do"]
        assert refused or told.get("snapshots") == 2, (done.stdout, done.stderr)
        return not refused

    try:
        assert wait_until(has_caught_up, 60)
    finally:
        healed.stop("coordinator")
        for path in folder.glob("catalogue.sqlite*"):
            path.unlink()
        for path in today.iterdir():
            shutil.move(path, folder / path.name)
        healed.start("coordinator")
    person.run("snapshots")


# This side


def test_a_code_of_another_account_or_one_beyond_repair_is_refused(visitor: Any, tmp_path: Path) -> None:
    nonsense = " ".join(["0123ABCD"] * 9)
    assert "wrong characters" in visitor("mistyped").run("recover", typed=nonsense, code=12).stderr
    unused = encode_recovery_code(bytes(32))
    assert "Next:" in visitor("stranger").run("recover", typed=unused, code=10).stderr


def test_without_an_account_it_is_10(visitor: Any, tree: Path) -> None:
    for arguments in (("backup", tree), ("snapshots",), ("status",), ("check",)):
        assert visitor("nobody").last(*arguments, code=10)["do"]


def test_a_target_in_use_is_11(person: Any, tree: Path, tmp_path: Path) -> None:
    import fcntl

    person.run("backup", tree)
    target = tmp_path / "back"
    target.mkdir()
    held = os.open(target, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        assert person.last("restore", "latest", "--target", target, code=11)["do"]
    finally:
        os.close(held)


async def test_a_quota_is_22_and_what_was_stored_stays(
    visitor: Any, tree: Path, cluster: LocalCluster, tmp_path: Path
) -> None:
    token = await invite_token(cluster.operator_key, quota_bytes=12_000_000)
    small = visitor("small", HOLDFAST_INVITE=token.text)
    small.run("init")
    small.run("backup", tree)
    told = small.last("backup", grown(tree), code=22)
    assert told["code"] == "quota_exceeded" and told["do"]
    assert small.last("snapshots")["snapshots"] == 1
    small.run("restore", "latest", "--target", tmp_path / "back")


def test_a_full_disk_at_restore_is_22_and_leaves_no_half_files(
    person: Any, tree: Path, tmp_path: Path
) -> None:
    """The target is a filesystem of 2 MiB, mounted in a namespace of the process's own."""
    person.run("backup", tree)
    target = tmp_path / "small"
    target.mkdir()
    script = (
        f"mount -t tmpfs -o size=2m small {target} && "
        f"{sys.executable} -m holdfast.client.console restore latest:{tree} --target {target}; "
        f"code=$?; find {target} -type f -printf '%s %P\\n'; exit $code"
    )
    unshare = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    if subprocess.run(
        [*unshare, "mount", "-t", "tmpfs", "x", target], check=False, capture_output=True
    ).returncode:
        pytest.skip("this machine does not allow mounts in a namespace")
    done = subprocess.run(
        [*unshare, "sh", "-c", script],
        env=person.env(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 22, (done.stdout, done.stderr)
    assert "Next:" in done.stderr
    for line in done.stdout.splitlines():
        size, _, name = line.partition(" ")
        assert (tree / name).stat().st_size == int(size), f"{name} is there and not whole"


def test_sigterm_ends_a_backup_in_order(person: Any, tree: Path) -> None:
    process = person.stopped_at("client.put.acknowledged", "backup", tree)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 143, (out, err)
    assert "Traceback" not in err
    assert person.last("snapshots")["snapshots"] == 0
    assert person.last("status")["verdict"] == "safe"
