"""A program breaks a cluster of its own, and is told whether anything was lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.client import AsyncClient
from holdfast.cluster import LocalCluster
from holdfast.protocol.errors import BadRequest

MIB = 1024 * 1024


def letters(folder: Path, seed: int, count: int = 12) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.txt").write_bytes(os.urandom(seed % 7 * 1000 + 50_000))
    return folder


def same(one: Path, other: Path) -> bool:
    return {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


async def test_a_program_breaks_heals_and_verifies(tmp_path: Path) -> None:
    async with LocalCluster(nodes=6, profile="4+2", seed=7) as c:
        async with AsyncClient(tmp_path / "home", coordinator=c.address) as client:
            await client.init(c.invite())
            armed = await c.chaos.kill(4, at="node.put.committed")
            first = letters(tmp_path / "first", 7)
            await client.backup(first)
            assert await armed.happened()
            async with c.chaos.partition({1}, oneway=True):
                second = letters(tmp_path / "second", 8)
                await client.backup(second)
                report = await client.restore("latest", tmp_path / "back", path=second)
                assert report.complete and same(second, tmp_path / "back")
            await c.heal()
            report = await client.restore("latest", tmp_path / "again", path=second)
            assert report.complete and same(second, tmp_path / "again")
        found = await c.verify()
        assert found.ok, str(found)
        assert "Survived 1 kill, 1 partition" in found.sentence
        assert {judged.letter for judged in found.invariants if judged.verdict == "held"} >= set("defhjlm")
        page = found.write(tmp_path / "report")
        assert "kill" in page.read_text() and (tmp_path / "report" / "history.jsonl").exists()
        assert found.replay_command
        folder = c.cluster.folder
    assert not folder.exists()


async def test_what_was_lost_is_told_with_a_line_to_see_it_again(tmp_path: Path) -> None:
    """One disk more than the parity can make up for."""
    async with LocalCluster(nodes=3, profile="2+1", seed=1) as c:
        async with AsyncClient(tmp_path / "home", coordinator=c.address) as client:
            await client.init(c.invite())
            await client.backup(letters(tmp_path / "first", 1))
        await c.chaos.disk_swap(1, 2)
        found = await c.verify(within_s=5)
    assert not found.ok
    assert found.exit_code == 30
    assert "Violated" in found.sentence
    assert found.replay_command in str(found)


async def test_a_fault_without_any_effect_makes_it_inconclusive() -> None:
    async with LocalCluster(nodes=2, profile="1+1", seed=1) as c:
        await c.chaos.kill(1, at="node.rebuild.pulled")
        found = await c.verify()
    assert found.exit_code == 31
    assert "kill of node-1 at node.rebuild.pulled had no effect" in found.sentence


async def test_what_cannot_be_broken_is_said() -> None:
    async with LocalCluster(nodes=2, profile="1+1", seed=1) as c:
        for wrong in (
            lambda: c.chaos.kill(3),
            lambda: c.chaos.kill("nobody"),
            lambda: c.chaos.kill(1, at="coordinator.head.written"),
            lambda: c.chaos.kill(1, 2, at="node.put.committed"),
        ):
            with pytest.raises(BadRequest):
                wrong()


USER_TESTS = """
import os
from pathlib import Path
import pytest
from holdfast.client import Client


def store(cluster, folder):
    (folder / "source").mkdir()
    for number in range(8):
        (folder / "source" / str(number)).write_bytes(os.urandom(200_000))
    with Client(folder / "home", coordinator=cluster.address) as client:
        client.init(cluster.invite())
        for _ in range(6):
            (folder / "source" / "more").write_bytes(os.urandom(300_000))
            client.backup(folder / "source")


@pytest.mark.chaos(scenario="faults.toml", seeds=[3])
def test_mine_survives(holdfast_cluster, tmp_path):
    store(holdfast_cluster, tmp_path)


@pytest.mark.chaos(scenario="calm.toml")
def test_mine_loses(holdfast_cluster, tmp_path):
    store(holdfast_cluster, tmp_path)
    cluster = holdfast_cluster.cluster
    cluster.stop(1, 2)
    for number in (1, 2):
        (cluster.folder / f"node-{number}" / "store" / "data.mdb").unlink()
"""

FAULTS = """
version = 1
name = "two-kills"
about = "Nodes are killed and come back."
chaos_s = 60.0

[cluster]
nodes = 6
profile = "4+2"

[[faults]]
kind = "kill"
at_s = 0.2
every_s = 3.0
targets = ["any"]
for_s = 1.0
"""

CALM = """
version = 1
name = "calm"
about = "Nothing is broken."
chaos_s = 60.0
faults = []

[cluster]
nodes = 3
profile = "2+1"

[expect]
back_within_s = 5.0
"""


def test_users_test_their_own_software_with_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(USER_TESTS)
    (tmp_path / "faults.toml").write_text(FAULTS)
    (tmp_path / "calm.toml").write_text(CALM)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--holdfast-report", "pages", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "2 passed, 1 error" in said, said
    assert "ERROR test_mine.py::test_mine_loses" in said
    assert "To see it again: pytest test_mine.py::test_mine_loses --holdfast-seed 1" in said
    pages = sorted(path.name for path in (tmp_path / "pages").iterdir())
    assert pages == ["test_mine_loses-seed1", "test_mine_survives-seed3"]
    assert "kill" in (tmp_path / "pages" / "test_mine_survives-seed3" / "index.html").read_text()
