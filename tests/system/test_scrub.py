"""Disks that rot under a running cluster: found, kept aside, reported, and never restored from."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast.cluster import LocalCluster
from holdfast.cluster.processes import start_time, wait_until
from holdfast.node.store import Damaged, Found, ReadOutcome, ShardKey, StoreDamaged
from holdfast.node.store_lmdb import LmdbStore
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.messages.admin import NodeStatus

COMMAND = [sys.executable, "-m", "holdfast.client.console"]
ROTTEN = 3


@dataclass
class Shelf:
    """A cluster with a backup, and its node number 3, whose disk is going to rot."""

    cluster: LocalCluster
    person: Any
    tree: Path
    home: Path

    @property
    def store(self) -> Path:
        return self.cluster.folder / f"node-{ROTTEN}" / "store"

    def admin(self, *arguments: object, may_fail: bool = False) -> list[dict[str, Any]]:
        key = ("--operator-key", str(self.cluster.operator_key), "--json")
        done = subprocess.run(
            [*COMMAND, "admin", *map(str, arguments), *key],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0 or may_fail, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def scrub(self) -> dict[str, Any] | None:
        """Have the rotten node reread everything; None when its store failed as a whole instead."""
        told: list[dict[str, Any]] = []

        def settled() -> bool:
            # It may be killed by what it reads, be started again, and be asked again.
            told[:] = self.admin("scrub", self.rotten().id.hex()[:8], "--wait", may_fail=True)
            failed = wait_until(lambda: self.rotten().store_state == "failed", 1)
            return failed or told[-1]["message_type"] == "summary"

        assert wait_until(settled, 60)
        return told[-1] if self.rotten().store_state == "ok" else None

    def rotten(self) -> NodeStatus:
        numbers = self.cluster.numbers()
        (found,) = [n for n in self.cluster.status().nodes if numbers[n.id.hex()] == ROTTEN]
        return found

    def kept(self) -> dict[ShardKey, ReadOutcome]:
        """Every shard in the stopped node's store, read from outside."""
        store = LmdbStore(self.store, source=SYSTEM)
        try:
            keys = store.scan(b"", b"\xff" * 90, 100_000)
            return dict(zip(keys, store.read(keys), strict=True))
        finally:
            store.close()

    def flip(self, count: int, seed: int) -> None:
        """Flip bits anywhere in the stopped node's data file."""
        chance = random.Random(seed)
        with (self.store / "data.mdb").open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            for _ in range(count):
                at = chance.randrange(size)
                file.seek(at)
                (byte,) = file.read(1)
                file.seek(at)
                file.write(bytes([byte ^ 1 << chance.randrange(8)]))

    def restore(self, name: str) -> None:
        """Restore everything; it must be the same to the byte."""
        target = self.home / name
        self.person.run("restore", f"latest:{self.tree}", "--target", target, "--verify")
        for path in self.tree.rglob("*"):
            assert (target / path.relative_to(self.tree)).read_bytes() == path.read_bytes()


@pytest.fixture
def shelf(visitor: Any, tmp_path: Path) -> Iterator[Shelf]:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(12):
        (tree / f"{number}.raw").write_bytes(os.urandom(4_000_000))
    with LocalCluster(6, folder=tmp_path / "cluster") as cluster:
        person = visitor("home", **cluster.env())
        person.run("init")
        person.run("backup", tree)
        yield Shelf(cluster, person, tree, tmp_path)


def test_a_thousand_flipped_bits_are_found_told_of_and_never_restored(shelf: Shelf) -> None:
    cluster = shelf.cluster
    cluster.stop(ROTTEN)
    before = shelf.kept()
    assert len(before) > 20 and all(isinstance(outcome, Found) for outcome in before.values())
    shelf.flip(1000, seed=11)
    cluster.start(ROTTEN)
    shelf.restore("at once")
    scrubbed = shelf.scrub()
    shelf.restore("after the scrub")
    if scrubbed is None:
        # Pages of the store's own tree were hit: it is refused as a whole, in words, and kept.
        assert shelf.rotten().trouble
        assert cluster.status().verdict != "unavailable"
        return
    listed = shelf.admin("quarantine", "list")
    aside = {line["chunk"] for line in listed[:-1]}
    assert listed[-1]["total"] == len(listed) - 1 == shelf.rotten().quarantined
    assert scrubbed["unreported"] == 0, "the coordinator has taken note of every one"
    repair = cluster.status().repair
    assert repair.queued + repair.done >= len(aside) > 0
    # Every shard of before is whole, or in quarantine and told of: there is no third kind.
    cluster.stop(ROTTEN)
    try:
        now = shelf.kept()
    except StoreDamaged:
        # Most likely its list of free pages was hit, which only writing reads: what was written since went
        # over live pages. That is seen now, and the store is refused as a whole.
        cluster.start(ROTTEN)
        assert wait_until(lambda: shelf.rotten().store_state == "failed", 20)
        shelf.restore("without it")
        return
    assert not any(isinstance(outcome, Damaged) for outcome in now.values())
    for key, outcome in before.items():
        assert now.get(key) == outcome or key.chunk.hex() in aside


def test_a_read_that_meets_a_rotten_shard_reports_it_too(shelf: Shelf) -> None:
    cluster = shelf.cluster
    cluster.stop(ROTTEN)
    store = LmdbStore(shelf.store, source=SYSTEM)
    keys = store.scan(b"", b"\xff" * 90, 100_000)
    with store._env.begin(write=True) as txn:
        for key in keys:
            raw = bytearray(txn.get(key.pack(), db=store._shards))
            raw[-1] ^= 1
            txn.put(key.pack(), bytes(raw), db=store._shards)
    store.close()
    cluster.start(ROTTEN)
    cluster.wait_healthy()
    shelf.restore("met")
    # Which slots a restore reads is its own affair; what it met of this node's is aside and told of.
    assert wait_until(lambda: shelf.rotten().quarantined > 0, 10)
    shelf.admin("scrub", shelf.rotten().id.hex(), "--wait")
    assert shelf.admin("quarantine", "list", "--node", shelf.rotten().id.hex()[:8])[-1]["total"] >= len(keys)
    shelf.restore("again")


def test_a_file_cut_off_under_a_running_node_ends_in_words_not_in_silence(shelf: Shelf) -> None:
    """SIGBUS for real: the node is started again by its supervisor, refuses the store, and is filled anew."""
    cluster = shelf.cluster
    member = cluster.node(ROTTEN)
    (serving,) = member.pids()[1:]
    assert wait_until(lambda: shelf.rotten().shards > 0, 20)
    held = shelf.rotten().shards
    os.truncate(shelf.store / "data.mdb", 50_000)
    shelf.restore("while it dies")
    if start_time(serving) is not None:
        # Nothing it was asked for lay behind the end: have it read everything.
        subprocess.run(
            [*COMMAND, "admin", "scrub", shelf.rotten().id.hex(), "--operator-key", cluster.operator_key],
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert wait_until(lambda: start_time(serving) is None, 20), "the kernel ended it"
    assert wait_until(lambda: member.ready() is not None and shelf.rotten().store_state == "failed", 20)
    assert "SIGBUS" in cluster.logs(ROTTEN)
    assert "cut off" in shelf.rotten().trouble
    shelf.restore("without it")
    cluster.stop(ROTTEN)
    process = subprocess.Popen(
        [*COMMAND, *member.arguments, "--replace-damaged-store"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert wait_until(lambda: shelf.rotten().store_state == "ok" and shelf.rotten().state == "up", 20)
        assert (cluster.folder / f"node-{ROTTEN}" / "store.quarantined-1" / "data.mdb").exists()
        assert wait_until(lambda: shelf.rotten().shards >= held, 40), "its peers fill it"
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    shelf.restore("at the end")
