"""Small filesystems of a run's own: filled to the last byte, given back, and never anybody else's."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.cluster.chaos.small_disks import Ballast, make_disk, unmount_below, why_unavailable
from holdfast.protocol.errors import HoldfastError

MIB = 1024 * 1024
WHY_NOT = why_unavailable()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    folder = tmp_path / "with \\ blank" / "disk"
    folder.mkdir(parents=True)
    make_disk(folder, 32 * MIB)
    try:
        yield folder
    finally:
        unmount_below(tmp_path)


def free_bytes(folder: Path) -> int:
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize


def test_a_disk_runs_full_and_has_room_again(disk: Path) -> None:
    before = free_bytes(disk)
    assert 24 * MIB < before <= 32 * MIB
    (disk / "kept").write_bytes(b"k" * MIB)
    ballast = Ballast(disk, 0)
    with pytest.raises(OSError) as full, (disk / "more").open("wb", buffering=0) as more:
        for _ in range(64):
            more.write(b"m" * MIB)
            os.fsync(more.fileno())
    assert full.value.errno == errno.ENOSPC
    (disk / "more").unlink()
    assert (disk / "kept").read_bytes() == b"k" * MIB
    ballast.end()
    ballast.end()
    assert free_bytes(disk) > before - 2 * MIB


def test_so_much_stays_free_as_was_asked_for(disk: Path) -> None:
    ballast = Ballast(disk, 8 * MIB)
    assert 8 * MIB <= free_bytes(disk) < 9 * MIB
    assert not [entry for entry in disk.iterdir() if entry.name != "lost+found"], "it has no name"
    ballast.end()


def test_nothing_is_left_but_an_empty_folder(disk: Path, tmp_path: Path) -> None:
    (disk / "file").touch()
    assert unmount_below(tmp_path) == [disk]
    assert not os.path.ismount(disk) and not list(disk.iterdir())
    assert not list(disk.parent.glob(".*.image")), "its image had no name any more"
    assert unmount_below(tmp_path) == []


def test_a_filesystem_that_was_not_made_for_it_is_never_filled(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError):
        Ballast(tmp_path, 0)
