"""The course of a benchmark is fair: nobody pays for what another one left behind."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from holdfast.cluster.benchmark.corpora import CORPORA
from holdfast.cluster.benchmark.holdfast_subject import HoldfastSubject
from holdfast.cluster.benchmark.run import Course, _emptied


def course(folder: Path) -> Course:
    """One that runs nothing: only its trees are looked at."""
    return Course(cast(HoldfastSubject, None), [], folder, "4+2", lambda line: None)


def test_a_tree_that_is_done_with_gives_its_room_back_and_keeps_its_inodes(tmp_path: Path) -> None:
    """Inodes that were just freed make the next files dear, whoever makes them."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(bytes(100_000))
    outside = tmp_path / "outside"
    outside.write_bytes(b"somebody else's")
    (tmp_path / "folder" / "link").symlink_to(outside)
    inode = (tmp_path / "folder" / "file").stat().st_ino
    _emptied(tmp_path / "folder")
    left = (tmp_path / "folder" / "file").stat()
    assert (left.st_ino, left.st_size, left.st_blocks) == (inode, 0, 0)
    assert outside.read_bytes() == b"somebody else's"


def test_trees_of_one_round_do_not_meet(tmp_path: Path) -> None:
    """The floor's is made at the start and again at the end of a round."""
    one = course(tmp_path)
    with one._tree(CORPORA["small"], 1) as first:
        names = sorted(path.name for path in first.rglob("*"))
    with one._tree(CORPORA["small"], 1) as second:
        assert sorted(path.name for path in second.rglob("*")) == names
        assert second != first and len(names) > 1000
