"""Whatever a manifest says, nothing is written outside the target."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.folders import removed_afterwards
from support.pipeline import KEYS, Pipeline

from holdfast.client import placing
from holdfast.client.entries import Entry, Extent
from holdfast.client.placing import Target
from holdfast.client.sealing import seal
from holdfast.client.snapshot_record import ChunkRef
from holdfast.protocol.errors import Conflict, HoldfastError, IntegrityFailure

CHUNK = seal(KEYS.sealing, b"evil content")
REF = ChunkRef(CHUNK.pid, CHUNK.chunk_id, 12, 1)


def evil(path: bytes, **other: object) -> Entry:
    return Entry("file", path, mode=0o644, size=12, extents=(Extent(REF, 0, 12),), **other)  # type: ignore[arg-type]


def pipeline() -> Pipeline:
    made = Pipeline()
    made.chunks.stored[CHUNK.chunk_id] = CHUNK.sealed
    return made


async def test_a_link_in_the_manifest_is_never_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    entries = [Entry("symlink", b"a", target=os.fsencode(outside)), evil(b"a/file")]
    made = pipeline()
    report = await made.restore(made.forge(entries), tmp_path / "back")
    assert list(outside.iterdir()) == []
    assert [path for path, _ in report.failed] == [b"a/file"]
    assert isinstance(report.failed[0][1], Conflict)


async def test_a_link_that_is_in_the_target_already_is_never_written_through(tmp_path: Path) -> None:
    outside, back = tmp_path / "outside", tmp_path / "back"
    outside.mkdir()
    back.mkdir()
    (back / "a").symlink_to(outside)
    made = pipeline()
    for overwrite in ("never", "always"):
        report = await made.restore(
            made.forge([Entry("dir", b"a"), evil(b"a/file")]), back, overwrite=overwrite
        )
        assert list(outside.iterdir()) == []
        assert not report.complete


async def test_a_file_in_place_of_a_link_replaces_the_link_not_its_target(tmp_path: Path) -> None:
    precious, back = tmp_path / "precious", tmp_path / "back"
    precious.write_text("precious")
    back.mkdir()
    (back / "a").symlink_to(precious)
    made = pipeline()
    await made.restore(made.forge([evil(b"a")]), back, overwrite="always")
    assert precious.read_text() == "precious"
    assert not (back / "a").is_symlink()
    assert (back / "a").read_bytes() == b"evil content"


async def test_paths_that_climb_out_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    made = pipeline()
    report = await made.restore(made.forge([evil(b"../escaped")]), tmp_path / "back")
    assert not (tmp_path / "escaped").exists()
    assert isinstance(report.unreadable[0][2], IntegrityFailure)


async def test_a_file_in_the_way_of_a_folder_is_named_and_kept(tmp_path: Path) -> None:
    back = tmp_path / "back"
    back.mkdir()
    (back / "a").write_text("mine")
    made = pipeline()
    report = await made.restore(made.forge([Entry("dir", b"a"), evil(b"a/file"), evil(b"b")]), back)
    assert (back / "a").read_text() == "mine"
    assert {path for path, _ in report.failed} == {b"a", b"a/file"}
    assert (back / "b").exists()


async def test_a_folder_in_the_way_of_a_file_is_named_and_kept(tmp_path: Path) -> None:
    back = tmp_path / "back"
    (back / "a" / "inside").mkdir(parents=True)
    made = pipeline()
    report = await made.restore(made.forge([evil(b"a")]), back, overwrite="always")
    assert (back / "a" / "inside").is_dir()
    assert isinstance(report.failed[0][1], Conflict)


async def test_extents_that_do_not_add_up_to_the_size_restore_nothing(tmp_path: Path) -> None:
    entry = Entry("file", b"a", size=13, extents=(Extent(REF, 0, 12),))
    made = pipeline()
    report = await made.restore(made.forge([entry, evil(b"b")]), tmp_path / "back")
    assert isinstance(report.failed[0][1], IntegrityFailure)
    assert not (tmp_path / "back" / "a").exists()
    assert (tmp_path / "back" / "b").exists()


async def test_a_deep_hostile_path_does_not_exhaust_the_process(tmp_path: Path) -> None:
    made = pipeline()
    deep = b"/".join([b"d"] * 3000)
    with removed_afterwards(tmp_path / "back") as back:
        report = await made.restore(made.forge([evil(b"a"), evil(deep)]), back)
        assert (back / "a").exists()
        assert len(report.failed) + report.files == 2


async def test_hard_links_join_names_of_one_restore_only(tmp_path: Path) -> None:
    back = tmp_path / "back"
    back.mkdir()
    entries = [
        evil(b"a", linked=True, inode=7, device=1),
        evil(b"b", linked=True, inode=7, device=1),
        evil(b"c", linked=True, inode=8, device=1),
    ]
    made = pipeline()
    await made.restore(made.forge(entries), back)
    assert (back / "a").stat().st_ino == (back / "b").stat().st_ino != (back / "c").stat().st_ino


async def test_a_hard_link_to_a_file_that_was_left_alone_gets_the_backup_s_content(tmp_path: Path) -> None:
    back = tmp_path / "back"
    back.mkdir()
    (back / "a").write_text("mine, and different")
    entries = [evil(b"a", linked=True, inode=7, device=1), evil(b"b", linked=True, inode=7, device=1)]
    made = pipeline()
    report = await made.restore(made.forge(entries), back)
    assert report.complete, report.failed
    assert (back / "a").read_text() == "mine, and different"
    assert (back / "b").read_bytes() == b"evil content"


@pytest.fixture(params=["the kernel refuses", "the filesystem cannot"])
def never_replacing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which a file is kept from taking another one's place."""
    if request.param == "the filesystem cannot":
        monkeypatch.setattr(placing, "_rename_to_free", lambda *_: errno.EINVAL)


async def test_what_somebody_puts_there_while_the_restore_runs_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, never_replacing: None
) -> None:
    """The last moment before the names: everything is written and durable."""
    back = tmp_path / "back"
    real = Target.sync_all

    def synced(target: Target) -> None:
        real(target)
        (back / "a").write_text("mine")

    monkeypatch.setattr(Target, "sync_all", synced)
    made = pipeline()
    entries = [
        evil(b"a", linked=True, inode=7, device=1),
        evil(b"b"),
        evil(b"c", linked=True, inode=7, device=1),
    ]
    report = await made.restore(made.forge(entries), back)
    assert (back / "a").read_text() == "mine"
    assert (back / "b").read_bytes() == b"evil content"
    assert report.files == 1 and report.skipped_existing == 1
    # The other name must not lead to somebody else's bytes, and this content has no file to be a name of.
    assert [path for path, _ in report.failed] == [b"c"] and isinstance(report.failed[0][1], Conflict)
    assert sorted(path.name for path in back.iterdir()) == ["a", "b"], "and nothing half-done is left"


async def test_what_was_in_the_way_and_went_again_is_no_reason_to_leave_a_file_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, told = placing._rename_to_free, [errno.EEXIST, errno.EEXIST]
    monkeypatch.setattr(placing, "_rename_to_free", lambda *to: told.pop() if told else real(*to))
    made = pipeline()
    report = await made.restore(made.forge([evil(b"a")]), tmp_path / "back")
    assert report.complete and report.files == 1 and not told
    assert (tmp_path / "back" / "a").read_bytes() == b"evil content"


async def test_a_rename_that_fails_otherwise_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "_rename_to_free", lambda *_: errno.EACCES)
    made = pipeline()
    report = await made.restore(made.forge([evil(b"a")]), tmp_path / "back")
    assert [path for path, _ in report.failed] == [b"a"] and not report.files
    assert list((tmp_path / "back").iterdir()) == []


def test_a_target_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(HoldfastError, match="cannot restore into"):
        Target(tmp_path / "file" / "below", "never")


async def test_what_is_mounted_below_the_target_is_made_durable_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = tmp_path / "back"
    (back / "mounted").mkdir(parents=True)
    mounted = (back / "mounted").stat()
    fstat = os.fstat

    class SameButElsewhere:
        """The folder's own stat, with the device number that a mount would have."""

        st_dev = mounted.st_dev + 1

    def seen(fd: int) -> object:
        found = fstat(fd)
        return SameButElsewhere if found.st_ino == mounted.st_ino else found

    synced: list[int] = []

    class Recording:
        """syncfs(2), noting which folder it was called on."""

        def syncfs(self, fd: int) -> int:
            synced.append(fstat(fd).st_ino)
            return 0

    target = Target(back, "never")
    try:
        monkeypatch.setattr("holdfast.client.placing.os.fstat", seen)
        target.folder((b"mounted",))
        target.folder((b"beside",))
        monkeypatch.undo()
        monkeypatch.setattr("holdfast.client.placing._libc", Recording())
        target.sync_all()
    finally:
        target.close()
    assert sorted(synced) == sorted([back.stat().st_ino, mounted.st_ino])


def test_a_folder_that_somebody_makes_in_the_same_moment_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, real = Target(tmp_path / "back", "never"), os.mkdir

    def overtaken(name: bytes, mode: int, *, dir_fd: int) -> None:
        monkeypatch.setattr(os, "mkdir", real)
        os.mkdir(tmp_path / "back" / "docs", 0o750)
        (tmp_path / "back" / "docs" / "theirs").write_text("kept")
        real(name, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", overtaken)
    target.folder((b"docs", b"sub"))
    assert not target.made_folder((b"docs",)) and target.made_folder((b"docs", b"sub"))
    assert (tmp_path / "back" / "docs" / "theirs").read_text() == "kept"
    target.close()


def test_a_link_that_somebody_makes_in_the_same_moment_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, real = Target(tmp_path / "back", "never"), os.mkdir

    def overtaken(name: bytes, mode: int, *, dir_fd: int) -> None:
        (tmp_path / "back" / "docs").symlink_to(tmp_path / "elsewhere")
        real(name, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", overtaken)
    with pytest.raises(Conflict, match="in the way"):
        target.folder((b"docs",))
    target.close()


@pytest.mark.parametrize("broken", ["scandir", "fstat"])
def test_a_folder_that_cannot_be_looked_at_leaves_nothing_open_and_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    (tmp_path / "back" / "docs").mkdir(parents=True)
    target, real = Target(tmp_path / "back", "never"), getattr(os, broken)
    left = tmp_path / "back" / "docs" / f"{placing.temporary_prefix.decode()}0123456789abcdef-1"
    left.touch()
    before = os.listdir("/proc/self/fd")

    def fails(_: object) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, broken, fails)
    with pytest.raises(OSError, match="I/O"):
        target.folder((b"docs",))
    monkeypatch.setattr(os, broken, real)
    assert os.listdir("/proc/self/fd") == before
    left.touch()
    target.folder((b"docs",))
    assert not left.exists(), "it was cleaned, though the first try had failed"
    target.close()
