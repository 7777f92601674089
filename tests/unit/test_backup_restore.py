"""What goes in comes out: byte for byte, whatever the files are, however often, and after interruptions."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from support.pipeline import KEYS, SEALING, Pipeline

from holdfast.client import check, reading
from holdfast.client.backup import BackupPlan, run_backup
from holdfast.client.exclude import Excluder
from holdfast.client.limits import (
    CUT_BYTES_MAX,
    FILE_HOLES_MAX,
    RESTORE_WINDOW_BYTES,
    SMALL_FILE_BYTES_MAX,
)
from holdfast.client.placing import temporary_prefix
from holdfast.client.progress import Progress
from holdfast.client.restore import RestorePlan, open_refs, run_restore
from holdfast.client.walk import normal_roots
from holdfast.cluster.demo.compare import compare_trees
from holdfast.protocol.clock import FixedSource, SystemSource
from holdfast.protocol.errors import (
    BadRequest,
    IntegrityFailure,
    Locked,
    NoQuorum,
    NoRoom,
    NotFound,
    TooFewShards,
)

LATER = SystemSource(offset_ms=10_000)
"""Ten seconds later: what was just written counts as settled."""


def tree(folder: Path) -> Path:
    """A tree with everything a backup must keep."""
    folder.mkdir()
    (folder / "small").write_bytes(b"small" * 100)
    (folder / "empty").touch(mode=0o600)
    (folder / "large").write_bytes(os.urandom(5_000_000))
    (folder / "text").write_text("line of text\n" * 100_000)
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "file").write_text("deep")
    (folder / "deep" / "er").chmod(0o711)
    (folder / "same as small").write_bytes(b"small" * 100)
    (folder / "script").write_text("#!/bin/sh\n")
    (folder / "script").chmod(0o755)
    os.symlink("nowhere/\udcff", folder / "dangling")
    os.link(folder / "large", folder / "zz second name")
    os.mkfifo(folder / "pipe", 0o640)
    (Path(os.fsdecode(os.fsencode(folder) + b"/b\xe4d\n name"))).write_text("bytes")
    with (folder / "sparse").open("wb") as sparse:
        sparse.seek(3_000_000)
        sparse.write(os.urandom(300_000))
        sparse.seek(9_000_000)
        sparse.write(b"end")
        sparse.truncate(12_000_000)
    with (folder / "all hole").open("wb") as hole:
        hole.truncate(1_000_000)
    with contextlib.suppress(OSError):  # a filesystem without attributes: then there is nothing to keep
        os.setxattr(folder / "small", "user.note", b"\0\xff")
    os.utime(folder / "small", ns=(1_234_567_890_123_456_789, 1_234_567_890_987_654_321))
    os.utime(folder / "deep", ns=(0, 999_999_999))
    return folder


def assert_same(source: Path, restored: Path) -> None:
    compared = compare_trees(os.fsencode(source), os.fsencode(restored))
    assert compared.identical, compared.differences


def leftovers(target: Path) -> list[bytes]:
    return [
        name
        for _, _, names in os.walk(os.fsencode(target))
        for name in names
        if name.startswith(temporary_prefix)
    ]


async def test_everything_a_tree_can_hold_comes_back(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    assert made.skipped == []
    report = await pipeline.restore(made, tmp_path / "back", of=source, verify=True)
    assert report.complete
    assert_same(source, tmp_path / "back")
    assert report.verified_bytes > 0
    assert leftovers(tmp_path / "back") == []


async def test_without_a_path_the_whole_absolute_path_is_rebuilt(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    await pipeline.restore(made, tmp_path / "back")
    assert_same(source, Path(f"{tmp_path}/back{source}"))
    above = Path(f"{tmp_path}/back{tmp_path}")
    assert stat.S_IMODE(above.stat().st_mode) == stat.S_IMODE(tmp_path.stat().st_mode)


async def test_a_path_that_is_a_file_restores_that_file(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    await pipeline.restore(made, tmp_path / "back", of=source / "text")
    assert (tmp_path / "back" / "text").read_bytes() == (source / "text").read_bytes()
    assert len(list((tmp_path / "back").iterdir())) == 1


async def test_a_path_that_is_not_there_is_said(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    with pytest.raises(NotFound):
        await pipeline.restore(made, tmp_path / "back", of=source / "nowhere")


async def test_include_restores_what_matches_and_the_folders_to_it(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    await pipeline.restore(made, tmp_path / "back", of=source, include=["file", "text"])
    assert sorted(p.relative_to(tmp_path / "back").as_posix() for p in (tmp_path / "back").rglob("*")) == [
        "deep",
        "deep/er",
        "deep/er/file",
        "text",
    ]
    assert stat.S_IMODE((tmp_path / "back/deep/er").stat().st_mode) == 0o711


async def test_include_of_a_folder_restores_all_in_it(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    await pipeline.restore(made, tmp_path / "back", of=source, include=["deep/"])
    assert (tmp_path / "back/deep/er/file").read_text() == "deep"
    assert not (tmp_path / "back/text").exists()


async def test_unchanged_files_are_not_read_again(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline(source=LATER)
    for _ in range(100):
        above = [folder.stat().st_mtime_ns for folder in source.parents]
        first = await pipeline.backup(source)
        stored = len(pipeline.chunks.stored)
        second = await pipeline.backup(source, parent=first)
        if above == [folder.stat().st_mtime_ns for folder in source.parents]:
            break  # folders above are in the manifest, too, and anybody may make a file in the topmost
    assert second.read_files == 0
    assert second.files == first.files
    assert second.total_bytes == first.total_bytes
    assert len(pipeline.chunks.stored) == stored, "not even the manifest is new"
    await pipeline.restore(second, tmp_path / "back", of=source)
    assert_same(source, tmp_path / "back")


async def test_a_file_touched_within_two_seconds_of_reading_is_read_again(tmp_path: Path) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    (source / "busy").write_text("as it was")
    just_now = FixedSource(wall_ns=(source / "busy").stat().st_mtime_ns + 1_900_000_000)
    pipeline = Pipeline(source=just_now)
    first = await pipeline.backup(source)
    again = await pipeline.backup(source, parent=first)
    assert again.read_files == 1


@pytest.mark.parametrize("change", ["size", "content", "touch", "replace"])
async def test_a_changed_file_is_read_again(tmp_path: Path, change: str) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline(source=LATER)
    first = await pipeline.backup(source)
    victim = source / "text"
    told = victim.stat()
    if change == "size":
        victim.write_text("shorter")
    elif change == "content":
        with victim.open("r+b") as opened:
            opened.write(b"LINE")
        os.utime(victim, ns=(told.st_atime_ns, told.st_mtime_ns))  # the ctime tells
    elif change == "touch":
        os.utime(victim)
    else:
        copy = victim.with_name("copy")
        shutil.copy2(victim, copy)
        copy.replace(victim)  # another inode
    second = await pipeline.backup(source, parent=first)
    assert second.read_files == 1
    await pipeline.restore(second, tmp_path / "back", of=source)
    assert_same(source, tmp_path / "back")


async def test_equal_content_is_stored_once(tmp_path: Path) -> None:
    source, pipeline = tmp_path / "tree", Pipeline(source=LATER)
    source.mkdir()
    content = os.urandom(200_000)
    for number in range(30):
        (source / f"copy {number}").write_bytes(content)
    large = os.urandom(3_000_000)
    (source / "large one").write_bytes(large)
    (source / "large two").write_bytes(large)
    made = await pipeline.backup(source)
    assert sum(map(len, pipeline.chunks.stored.values())) < 3_600_000
    await pipeline.restore(made, tmp_path / "back", of=source)
    assert_same(source, tmp_path / "back")


async def test_a_renamed_small_file_is_known_by_its_content(tmp_path: Path) -> None:
    source, pipeline = tmp_path / "tree", Pipeline(source=LATER)
    source.mkdir()
    for number in range(20):
        (source / f"old {number}").write_bytes(os.urandom(100_000))
    first = await pipeline.backup(source)
    size = sum(map(len, pipeline.chunks.stored.values()))
    for number in range(20):
        (source / f"old {number}").rename(source / f"a new {number}")
    second = await pipeline.backup(source, parent=first)
    assert sum(map(len, pipeline.chunks.stored.values())) - size < 20_000
    await pipeline.restore(second, tmp_path / "back", of=source)
    assert_same(source, tmp_path / "back")


async def test_chunks_reused_from_the_parent_are_all_named(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline(source=LATER)
    first = await pipeline.backup(source)
    entries = await pipeline.entries(first)
    used = {extent.ref.chunk for entry in entries.values() for extent in entry.extents}
    second = await pipeline.backup(source, parent=first)
    assert set(second.reused_chunks()) == used


async def test_a_lost_page_of_the_parent_costs_reading_not_correctness(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline(source=LATER)
    first = await pipeline.backup(source)
    pipeline.chunks.errors[first.pages[0].chunk] = TooFewShards("gone for now")
    second = await pipeline.backup(source, parent=first)
    assert second.read_files > 0
    pipeline.chunks.errors.clear()
    await pipeline.restore(second, tmp_path / "back", of=source)
    assert_same(source, tmp_path / "back")


async def test_what_cannot_be_read_is_named_and_the_rest_is_there(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "socket"))
        made = await pipeline.backup(source)
    assert [(skipped.path.rsplit(b"/", 1)[1], skipped.why) for skipped in made.skipped] == [
        (b"socket", "it is a socket")
    ]
    (source / "socket").unlink()


async def test_a_file_that_vanishes_while_walking_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    real = reading.FileReader.__init__

    def vanish(self: reading.FileReader, path: bytes) -> None:
        if path.endswith(b"/text"):
            os.unlink(path)
        real(self, path)

    monkeypatch.setattr(reading.FileReader, "__init__", vanish)
    made = await pipeline.backup(source)
    assert [skipped.why for skipped in made.skipped] == ["it vanished"]
    await pipeline.restore(made, tmp_path / "back", of=source)
    assert not (tmp_path / "back" / "text").exists()
    assert (tmp_path / "back" / "script").exists()


@pytest.mark.parametrize("name", ["text", "small"])
async def test_a_file_that_changes_while_it_is_read_is_reported_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline(source=LATER)
    real = reading.FileReader.changed_since

    def grow(self: reading.FileReader, entry: object) -> bool:
        if entry.path.endswith(b"/" + name.encode()):
            with (source / name).open("ab") as opened:
                opened.write(b"more")
        return real(self, entry)  # type: ignore[arg-type]

    monkeypatch.setattr(reading.FileReader, "changed_since", grow)
    made = await pipeline.backup(source)
    assert [path.rsplit(b"/", 1)[1] for path in made.changed] == [name.encode()]
    monkeypatch.undo()
    report = await pipeline.restore(made, tmp_path / "as read", of=source)
    assert report.complete, report.failed
    assert (source / name).read_bytes().startswith((tmp_path / "as read" / name).read_bytes())
    second = await pipeline.backup(source, parent=made)
    assert second.read_files >= 1
    await pipeline.restore(second, tmp_path / "back", of=source)
    assert_same(source, tmp_path / "back")


async def test_a_file_cut_off_while_it_is_read_is_restored_as_it_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline(source=LATER)
    real = reading.FileReader.runs

    def cut(self: reading.FileReader) -> list[tuple[int, int]]:
        runs = real(self)
        if self.stat.st_ino == (source / "large").stat().st_ino:
            os.truncate(source / "large", 1_000_000)
        return runs

    monkeypatch.setattr(reading.FileReader, "runs", cut)
    made = await pipeline.backup(source)
    report = await pipeline.restore(made, tmp_path / "back", of=source)
    assert report.complete, report.failed
    assert (tmp_path / "back" / "large").read_bytes() == (source / "large").read_bytes()


async def test_a_failing_sink_ends_the_backup_with_its_error(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    pipeline.chunks.fail_puts = NoQuorum("nobody is there")
    with pytest.raises(NoQuorum):
        await pipeline.backup(source)


async def test_a_dry_run_counts_and_stores_nothing(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source, dry_run=True)
    assert made.files > 5
    assert made.read_bytes > 5_000_000
    assert pipeline.chunks.stored == {}


# Restoring


async def test_a_lost_chunk_costs_the_files_in_it_and_they_are_named(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    large = (await pipeline.entries(made))[os.fsencode(source / "large").lstrip(b"/")]
    pipeline.chunks.errors[large.extents[1].ref.chunk] = TooFewShards("gone for now")
    report = await pipeline.restore(made, tmp_path / "back", of=source)
    assert sorted(path.rsplit(b"/", 1)[1] for path, _ in report.failed) == [b"large", b"zz second name"]
    assert all(isinstance(error, TooFewShards) for _, error in report.failed)
    assert not (tmp_path / "back" / "large").exists()
    assert leftovers(tmp_path / "back") == []
    only = compare_trees(os.fsencode(source), os.fsencode(tmp_path / "back"), only_restored=True)
    assert only.identical
    assert only.files >= 7


async def test_a_chunk_with_wrong_bytes_is_never_written(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    large = (await pipeline.entries(made))[os.fsencode(source / "large").lstrip(b"/")]
    chunk = large.extents[0].ref.chunk
    pipeline.chunks.stored[chunk] = bytes(len(pipeline.chunks.stored[chunk]))
    report = await pipeline.restore(made, tmp_path / "back", of=source)
    assert any(isinstance(error, IntegrityFailure) for _, error in report.failed)
    assert not (tmp_path / "back" / "large").exists()


async def test_what_is_there_is_left_alone_by_default(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "text").write_text("mine")
    report = await pipeline.restore(made, tmp_path / "back", of=source)
    assert (tmp_path / "back" / "text").read_text() == "mine"
    assert report.skipped_existing == 1
    again = await pipeline.restore(made, tmp_path / "back", of=source)
    assert again.files == 0
    assert again.complete


@pytest.mark.parametrize(
    ("overwrite", "older", "newer", "same"),
    [
        ("always", True, True, True),
        ("if-changed", True, True, False),
        ("if-newer", True, False, False),
        ("never", False, False, False),
    ],
)
async def test_overwrite_does_what_it_says(
    tmp_path: Path, overwrite: str, older: bool, newer: bool, same: bool
) -> None:
    source, pipeline = tmp_path / "tree", Pipeline()
    source.mkdir()
    for name in ("older", "newer", "same"):
        (source / name).write_text("from the backup")
        os.utime(source / name, ns=(10**18, 10**18))
    made = await pipeline.backup(source)
    back = tmp_path / "back"
    back.mkdir()
    for name, mtime in (("older", 10**18 - 1), ("newer", 10**18 + 1), ("same", 10**18)):
        (back / name).write_text("was here before")
        os.utime(back / name, ns=(mtime, mtime))
    await pipeline.restore(made, back, of=source, overwrite=overwrite)
    replaced = {name: (back / name).read_text() == "from the backup" for name in ("older", "newer", "same")}
    assert replaced == {"older": older, "newer": newer, "same": same}


async def test_leftovers_of_an_interrupted_restore_are_removed(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    (tmp_path / "back" / "deep").mkdir(parents=True)
    name = os.fsdecode(temporary_prefix + b"0123456789abcdef-1")
    for folder in ("", "deep"):
        (tmp_path / "back" / folder / name).write_text("half")
        (tmp_path / "back" / folder / f"{name}.mine").write_text("somebody's own file")
    await pipeline.restore(made, tmp_path / "back", of=source)
    for folder in ("", "deep"):
        assert not (tmp_path / "back" / folder / name).exists()
        assert (tmp_path / "back" / folder / f"{name}.mine").exists()


async def test_an_interrupted_restore_with_the_same_process_id_is_in_nobody_s_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container every restore may be process 7: names are drawn, not numbered by process."""
    from holdfast.client.placing import Target

    monkeypatch.setattr(os, "getpid", lambda: 7)
    (tmp_path / "back").mkdir()
    first = Target(tmp_path / "back", "never")
    fd, name = first.temporary((b"file",))
    os.close(fd)
    first.close()
    assert (tmp_path / "back" / os.fsdecode(name)).exists()
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    report = await pipeline.restore(await pipeline.backup(source), tmp_path / "back", of=source)
    assert report.complete, report.failed
    assert leftovers(tmp_path / "back") == []
    assert_same(source, tmp_path / "back")


async def test_a_restore_that_says_done_has_its_names_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from holdfast.client.placing import Target

    steps: list[str] = []
    synced, renamed = Target.sync_all, Target.rename
    monkeypatch.setattr(Target, "sync_all", lambda self: (steps.append("sync"), synced(self))[1])
    monkeypatch.setattr(
        Target, "rename", lambda self, *place: (steps.append("rename"), renamed(self, *place))[1]
    )
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    await pipeline.restore(await pipeline.backup(source), tmp_path / "back", of=source)
    assert steps[0] == steps[-1] == "sync" and "rename" in steps


async def test_attributes_that_cannot_be_kept_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()
    for name in ("unreadable", "too much", "fine", "none"):
        (tmp_path / "tree" / name).write_text(name)
    kept = {
        b"unreadable": {"user.a": errno.EACCES, "user.b": b"b"},
        b"too much": {"user.a": b"a", "user.big": bytes(300_000), "user.c": b"c"},
        b"fine": {"user.a": b"a", "user.gone": errno.ENODATA},
    }

    def of(path: bytes) -> dict[str, bytes | int]:
        return kept.get(os.path.basename(path), {})

    def value(path: bytes, name: str, **_: object) -> bytes:
        found = of(path)[name]
        if isinstance(found, int):
            raise OSError(found, os.strerror(found))
        return found

    monkeypatch.setattr(os, "listxattr", lambda path, **_: list(of(path)))
    monkeypatch.setattr(os, "getxattr", value)
    made = await Pipeline().backup(tmp_path / "tree")
    assert made.skipped == []
    told = {os.path.basename(one.path): one.why for one in made.reduced}
    assert set(told) == {b"unreadable", b"too much"}
    assert "user.a (Permission denied)" in told[b"unreadable"] and "user.big" in told[b"too much"]
    monkeypatch.undo()


async def test_a_file_of_very_many_holes_fits_a_page_and_comes_back(tmp_path: Path) -> None:
    """A page is one chunk: beyond a bound the smallest holes are stored as the zeros they read as."""
    pattern, count = b"not a hole", FILE_HOLES_MAX + 500
    (tmp_path / "tree").mkdir()
    with (tmp_path / "tree" / "swiss").open("wb") as file:
        for number in range(count):
            # The last holes are the large ones.
            file.seek(number * 8192 + max(0, number - count + 20) * 1_000_000)
            file.write(pattern)
    pipeline = Pipeline()
    made = await pipeline.backup(tmp_path / "tree")
    (entry,) = [e for e in (await pipeline.entries(made)).values() if e.kind == "file"]
    assert len(entry.holes) <= FILE_HOLES_MAX
    assert sum(1 for _, length in entry.holes if length >= 1_000_000) >= 19, "the largest stay holes"
    report = await pipeline.restore(made, tmp_path / "back", of=tmp_path / "tree", verify=True)
    assert report.complete
    assert (tmp_path / "back" / "swiss").read_bytes() == (tmp_path / "tree" / "swiss").read_bytes()


async def test_a_check_that_reads_holds_no_more_than_a_restore_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One entry names all chunks of its file; they are looked at a window at a time."""
    (tmp_path / "large").write_bytes(os.urandom(3 * RESTORE_WINDOW_BYTES))
    pipeline = Pipeline()
    made = await pipeline.backup(tmp_path / "large")
    asked: list[int] = []

    async def counted(refs: Any, *rest: Any) -> Any:
        asked.append(sum(ref.plain_bytes for ref in refs))
        return await open_refs(refs, *rest)

    monkeypatch.setattr(check, "open_refs", counted)
    report = await pipeline.check(made, percent=100)
    assert report.ok and report.read_bytes == 3 * RESTORE_WINDOW_BYTES
    assert len(asked) >= 3 and max(asked) < RESTORE_WINDOW_BYTES + CUT_BYTES_MAX


async def test_two_restores_into_one_folder_do_not_mix(tmp_path: Path) -> None:
    from holdfast.client.placing import Target

    held = Target(tmp_path / "back", "never")
    with pytest.raises(Locked):
        Target(tmp_path / "back", "never")
    held.close()
    Target(tmp_path / "back", "never").close()


async def test_a_cancelled_restore_lets_go_of_its_folders_only_when_nothing_is_written_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread goes on when its task is cancelled: what it holds must not be closed under its hands."""
    from holdfast.client.placing import Target

    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    steps: list[str] = []
    began, may_go_on = threading.Event(), threading.Event()
    write, close = os.pwrite, Target.close

    def slow(fd: int, content: bytes, offset: int) -> int:
        began.set()
        may_go_on.wait(timeout=30)
        written = write(fd, content, offset)
        steps.append("written")
        return written

    monkeypatch.setattr(os, "pwrite", slow)
    monkeypatch.setattr(Target, "close", lambda self: (steps.append("closed"), close(self))[1])
    restoring = asyncio.create_task(pipeline.restore(made, tmp_path / "back", of=source))
    try:
        assert await asyncio.to_thread(began.wait, 30)
        restoring.cancel()
        await asyncio.wait({restoring}, timeout=0.2)  # long enough for one that does not wait to end
        assert steps == []
    finally:
        may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await restoring
    assert "written" in steps and steps.index("closed") == len(steps) - 1
    assert leftovers(tmp_path / "back") == []


async def test_a_full_disk_ends_the_restore_and_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    real, written = os.pwrite, 0

    def full(fd: int, content: bytes, offset: int) -> int:
        nonlocal written
        written += len(content)
        if written > 2_000_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NoRoom) as told:
        await pipeline.restore(made, tmp_path / "back", of=source)
    assert told.value.exit_code == 22
    monkeypatch.undo()
    assert leftovers(tmp_path / "back") == []
    only = compare_trees(os.fsencode(source), os.fsencode(tmp_path / "back"), only_restored=True)
    assert only.identical, only.differences


async def test_many_small_files_share_chunks(tmp_path: Path) -> None:
    source, pipeline = tmp_path / "tree", Pipeline()
    source.mkdir()
    for number in range(2500):
        (source / f"{number:05d}").write_bytes(b"%d" % number * 50)
    made = await pipeline.backup(source)
    assert len(pipeline.chunks.stored) < 12
    report = await pipeline.restore(made, tmp_path / "back", of=source)
    assert report.files == 2500
    assert_same(source, tmp_path / "back")


async def test_files_around_the_small_file_bound_come_back(tmp_path: Path) -> None:
    source, pipeline = tmp_path / "tree", Pipeline()
    source.mkdir()
    for size in (
        1,
        SMALL_FILE_BYTES_MAX - 1,
        SMALL_FILE_BYTES_MAX,
        SMALL_FILE_BYTES_MAX + 1,
        4_194_299,
        4_194_300,
    ):
        (source / f"{size}").write_bytes(os.urandom(size))
    made = await pipeline.backup(source)
    await pipeline.restore(made, tmp_path / "back", of=source)
    assert_same(source, tmp_path / "back")


# Checking


async def test_a_check_names_the_files_that_a_lost_chunk_hits(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    assert (await pipeline.check(made)).ok
    whole = await pipeline.check(made, percent=100.0)
    assert whole.ok
    assert whole.read_chunks == whole.chunks > 3
    text = (await pipeline.entries(made))[os.fsencode(source / "text").lstrip(b"/")]
    gone = {text.extents[0].ref.chunk: NotFound("not stored")}
    report = await pipeline.check(made, missing=gone)
    assert [path.rsplit(b"/", 1)[1] for path, _ in report.damaged] == [b"text"]


async def test_a_check_that_reads_finds_damage_the_catalogue_does_not_know(tmp_path: Path) -> None:
    source, pipeline = tree(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    text = (await pipeline.entries(made))[os.fsencode(source / "text").lstrip(b"/")]
    chunk = text.extents[0].ref.chunk
    pipeline.chunks.stored[chunk] = pipeline.chunks.stored[chunk][:-1] + b"?"
    assert (await pipeline.check(made)).ok
    report = await pipeline.check(made, percent=100.0)
    assert report.damaged_files == 1


async def test_a_sample_reads_about_as_much_as_asked(tmp_path: Path) -> None:
    source, pipeline = tmp_path / "tree", Pipeline()
    source.mkdir()
    for number in range(60):
        (source / f"{number}").write_bytes(os.urandom(300_000))
    made = await pipeline.backup(source)
    report = await pipeline.check(made, percent=50.0, seed=b"fixed")
    assert 10 < report.read_chunks < 50


async def test_nothing_to_back_up_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadRequest):
        await Pipeline().backup()


async def test_progress_moves_within_one_large_file(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "film").write_bytes(os.urandom(40_000_000))
    made = Pipeline()
    told: list[Progress] = []

    class Quick(SystemSource):
        """A clock on which every look is a second later: nothing is left untold."""

        now = 0.0

        def monotonic(self) -> float:
            self.now += 1.0
            return self.now

    result = await run_backup(
        BackupPlan(normal_roots([tmp_path / "tree"]), Excluder(())),
        KEYS,
        made.chunks,
        on_progress=told.append,
        source=Quick(),
    )
    seen = [progress.bytes for progress in told]
    assert seen == sorted(seen) and len({count for count in seen if 0 < count < 40_000_000}) >= 5

    told.clear()
    plan = RestorePlan(str(tmp_path / "back"))
    await run_restore(plan, result.pages, made.load, made.chunks, SEALING, on_progress=told.append)
    seen = [progress.bytes for progress in told]
    assert seen == sorted(seen) and seen[-1] == 40_000_000
    assert any(0 < count < 40_000_000 for count in seen)
