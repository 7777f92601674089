"""A power cut takes what was not synced, all of it or in parts, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import lmdb
import pytest

from holdfast.cluster.chaos.unsynced import lose_unsynced

BEGIN = """
import os, sqlite3, sys
from pathlib import Path
import lmdb
from holdfast.cluster.chaos.unsynced import Unsynced
root, journals = Path(sys.argv[1]), Path(sys.argv[2])
kept = Unsynced(root, journals)
"""
KILLED = "os.kill(os.getpid(), 9)\n"
SEEDS = range(12)


def after(work: str, folder: Path, seed: int) -> tuple[Path, int]:
    """The folder after a process has done this and the power went; and how many bytes were lost."""
    root, journals = folder / f"root-{seed}", folder / f"journals-{seed}"
    root.mkdir()
    journals.mkdir()
    command = [sys.executable, "-P", "-c", BEGIN + work + KILLED, str(root), str(journals)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -9, done.stderr
    lost = lose_unsynced(root, journals, Random(seed))
    assert not list(journals.iterdir())
    return root, lost


def test_what_was_synced_stays_and_what_was_not_may_go(tmp_path: Path) -> None:
    work = """
with open(root / "file", "wb", buffering=0) as file:
    file.write(b"s" * 2000)
    os.fsync(file.fileno())
    file.write(b"u" * 2000)
"""
    seen = set()
    for seed in SEEDS:
        root, _ = after(work, tmp_path, seed)
        content = (root / "file").read_bytes()
        assert content[:2000] == b"s" * 2000
        assert set(content[2000:]) <= {0, ord("u")}
        seen.add("none" if len(content) == 2000 else "parts" if 0 in content else "all")
    assert {"none", "parts"} <= seen


def test_overwriting_without_a_sync_gives_the_old_bytes_again(tmp_path: Path) -> None:
    work = """
fd = os.open(root / "file", os.O_RDWR | os.O_CREAT)
os.pwrite(fd, b"old " * 1000, 0)
os.fdatasync(fd)
os.pwrite(fd, b"new1" * 100, 800)
os.pwrite(fd, b"new2" * 100, 1000)
"""
    contents = set()
    for seed in SEEDS:
        root, _ = after(work, tmp_path, seed)
        content = (root / "file").read_bytes()
        assert len(content) == 4000 and content[:800] == b"old " * 200 and content[1400:] == b"old " * 650
        contents.add(content)
    assert b"old " * 1000 in contents and len(contents) > 1


def test_a_file_that_was_cut_and_not_synced_is_whole_again(tmp_path: Path) -> None:
    work = """
fd = os.open(root / "file", os.O_RDWR | os.O_CREAT)
os.pwrite(fd, b"x" * 4000, 0)
os.fsync(fd)
os.ftruncate(fd, 1000)
"""
    lengths = {len((after(work, tmp_path, seed)[0] / "file").read_bytes()) for seed in SEEDS}
    assert lengths == {1000, 4000}


@pytest.mark.parametrize("is_synced", [True, False])
def test_lmdb_keeps_what_it_synced_and_loses_what_it_did_not(tmp_path: Path, is_synced: bool) -> None:
    work = f"""
env = lmdb.open(str(root / "store"), sync={is_synced})
for number in range(20):
    with env.begin(write=True) as txn:
        txn.put(b"%d" % number, b"v" * 3000)
"""
    losses = 0
    for seed in range(4):
        root, _ = after(work, tmp_path, seed)
        try:
            with lmdb.open(str(root / "store"), readonly=True, lock=False) as env, env.begin() as txn:
                losses += any(txn.get(b"%d" % number) != b"v" * 3000 for number in range(20))
        except lmdb.Error:
            losses += 1
    assert (losses == 0) is is_synced


def test_sqlite_keeps_what_it_committed(tmp_path: Path) -> None:
    work = """
base = sqlite3.connect(root / "base", isolation_level=None)
base.execute("PRAGMA journal_mode=WAL")
base.execute("PRAGMA synchronous=FULL")
base.execute("CREATE TABLE t (n INTEGER)")
for number in range(50):
    base.execute("INSERT INTO t VALUES (?)", (number,))
"""
    import sqlite3

    for seed in range(4):
        root, _ = after(work, tmp_path, seed)
        base = sqlite3.connect(root / "base")
        assert base.execute("SELECT count(*) FROM t").fetchone() == (50,)
        base.close()


def test_another_file_under_a_number_that_was_used_before_is_left_alone(tmp_path: Path) -> None:
    work = """
for number in range(20):
    with open(root / "passing", "wb", buffering=0) as file:
        file.write(b"never synced" * 100)
    os.unlink(root / "passing")
    with open(root / f"kept-{number}", "wb", buffering=0) as file:
        file.write(b"k" * 1200)
        os.fsync(file.fileno())
"""
    root, lost = after(work, tmp_path, 1)
    assert lost == 0
    assert (
        all(path.read_bytes() == b"k" * 1200 for path in root.iterdir()) and len(list(root.iterdir())) == 20
    )
