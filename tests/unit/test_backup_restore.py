"""What goes in comes out: byte for byte, whatever the files are, however often."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path

import pytest
from support.pipeline import KEYS, SEALING, Pipeline
from support.trees import LATER, assert_same, leftovers, tree

from holdfast.client import reading
from holdfast.client.backup import BackupPlan, run_backup
from holdfast.client.exclude import Excluder
from holdfast.client.limits import READ_BYTES
from holdfast.client.progress import Progress
from holdfast.client.restore import RestorePlan, run_restore
from holdfast.client.walk import normal_roots
from holdfast.protocol.clock import FixedSource, SystemSource
from holdfast.protocol.errors import (
    BadRequest,
    NoQuorum,
    NotFound,
    TooFewShards,
)


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


async def test_a_small_file_that_is_a_large_one_by_the_time_it_is_opened_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room for a small file; how long it is tells the open file, not the look that came before."""
    content = os.urandom(READ_BYTES + 12_345)
    (tmp_path / "tree").mkdir()
    path = tmp_path / "tree" / "replaced"
    path.write_bytes(b"small")
    opened = reading.FileReader.__init__

    def replaced_before(self: reading.FileReader, found: bytes) -> None:
        path.write_bytes(content)
        opened(self, found)

    monkeypatch.setattr(reading.FileReader, "__init__", replaced_before)
    pipeline = Pipeline()
    made = await pipeline.backup(tmp_path / "tree")
    assert [os.fsdecode(each) for each in made.changed] == [str(path)]
    assert (await pipeline.restore(made, tmp_path / "back", of=tmp_path / "tree")).complete
    assert (tmp_path / "back" / "replaced").read_bytes() == content


async def test_a_small_file_that_was_cut_off_is_as_long_as_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "tree" / name).write_bytes(name.encode() * 1000)
    whole = reading.FileReader.whole_into

    def cut_off(self: reading.FileReader, room: memoryview) -> memoryview:
        if self.stat.st_ino == (tmp_path / "tree" / "b").stat().st_ino:
            os.truncate(tmp_path / "tree" / "b", 10)
        return whole(self, room)

    monkeypatch.setattr(reading.FileReader, "whole_into", cut_off)
    pipeline = Pipeline()
    made = await pipeline.backup(tmp_path / "tree")
    assert [os.path.basename(each) for each in made.changed] == [b"b"]
    assert (await pipeline.restore(made, tmp_path / "back", of=tmp_path / "tree")).complete
    back = {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()}
    assert back == {"a": b"a" * 1000, "b": b"b" * 10, "c": b"c" * 1000}
