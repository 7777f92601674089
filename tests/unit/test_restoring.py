"""Restores that meet something: damage, files that are there, interruptions, each other; and checks."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from support.pipeline import Pipeline
from support.trees import assert_same, leftovers, tree

from holdfast.client import check, restore
from holdfast.client.limits import (
    CUT_BYTES_MAX,
    FILE_HOLES_MAX,
    RESTORE_WINDOW_BYTES,
    SMALL_FILE_BYTES_MAX,
)
from holdfast.client.placing import Target, temporary_prefix
from holdfast.client.restore import open_refs
from holdfast.cluster.demo.compare import compare_trees
from holdfast.protocol.errors import (
    IntegrityFailure,
    Locked,
    NoRoom,
    NotFound,
    TooFewShards,
)


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
    held = Target(tmp_path / "back", "never")
    with pytest.raises(Locked):
        Target(tmp_path / "back", "never")
    held.close()
    Target(tmp_path / "back", "never").close()


async def test_a_cancelled_restore_lets_go_of_its_folders_only_when_nothing_is_written_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread goes on when its task is cancelled: what it holds must not be closed under its hands."""
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


class Steps:
    """What a restore does to each file, and to the disk, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, windows_of: int) -> None:
        self.told: list[tuple[str, bytes]] = []
        self.sync_takes = threading.Event()
        self.sync_takes.set()
        self.written_beside_a_sync = threading.Event()
        described, synced, renamed = Target.describe, Target.sync_all, Target.rename

        def describe(target: Target, fd: int, entry: Any) -> None:
            described(target, fd, entry)
            self.told.append(("written", entry.path))
            if self.paths("sync begins") and not self.paths("synced"):
                self.written_beside_a_sync.set()

        def sync_all(target: Target) -> None:
            self.told.append(("sync begins", b""))
            self.sync_takes.wait(5)
            synced(target)
            self.told.append(("synced", b""))

        def rename(target: Target, parts: Any, name: bytes, entry: Any) -> bool:
            self.told.append(("named", entry.path))
            return renamed(target, parts, name, entry)

        monkeypatch.setattr(Target, "describe", describe)
        monkeypatch.setattr(Target, "sync_all", sync_all)
        monkeypatch.setattr(Target, "rename", rename)
        monkeypatch.setattr(restore, "RESTORE_WINDOW_ACTIONS_MAX", windows_of)

    def paths(self, step: str) -> list[bytes]:
        return [path for told, path in self.told if told == step]

    def was_durable(self, path: bytes) -> bool:
        """Did a whole sync lie between its last byte and its name?"""
        between = [
            told
            for told, _ in self.told[self.told.index(("written", path)) : self.told.index(("named", path))]
        ]
        return "synced" in between[between.index("sync begins") :] if "sync begins" in between else False


def many(folder: Path, count: int = 40) -> Path:
    for number in range(count):
        (folder / f"{number % 3}").mkdir(parents=True, exist_ok=True)
        (folder / f"{number % 3}" / f"{number:03}").write_bytes(b"%d" % number * 100)
    return folder


async def test_each_file_is_durable_before_it_gets_its_name_over_many_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows are written while the one before is synced: that sync is none for what came meanwhile."""
    source, pipeline = many(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    steps = Steps(monkeypatch, windows_of=7)
    report = await pipeline.restore(made, tmp_path / "back", of=source)
    assert report.complete and report.files == 40
    assert steps.paths("named") == steps.paths("written") and len(steps.paths("named")) == 40
    assert all(map(steps.was_durable, steps.paths("named")))
    assert len(steps.paths("sync begins")) >= 6 and steps.told[-1] == ("synced", b""), "the names are, too"
    assert_same(source, tmp_path / "back")


async def test_the_next_window_is_written_while_the_disk_syncs_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, pipeline = many(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    steps = Steps(monkeypatch, windows_of=7)
    steps.sync_takes.clear()
    restoring = asyncio.create_task(pipeline.restore(made, tmp_path / "back", of=source))
    assert await asyncio.to_thread(steps.written_beside_a_sync.wait, 4)
    assert steps.paths("named") == [], "nothing has a name before it is durable"
    steps.sync_takes.set()
    assert (await restoring).complete


async def test_what_was_written_before_the_disk_was_full_has_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, pipeline = many(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    steps = Steps(monkeypatch, windows_of=7)
    temporary = Target.temporary

    def full(target: Target, parts: Any) -> Any:
        if len(steps.paths("written")) >= 20:
            raise OSError(errno.ENOSPC, "full")
        return temporary(target, parts)

    monkeypatch.setattr(Target, "temporary", full)
    with pytest.raises(NoRoom):
        await pipeline.restore(made, tmp_path / "back", of=source)
    assert leftovers(tmp_path / "back") == []
    there = [path for path in (tmp_path / "back").rglob("*") if path.is_file()]
    assert 7 <= len(there) <= 20 and len(there) == len(steps.paths("named"))
    assert all(map(steps.was_durable, steps.paths("named")))


async def test_a_file_that_came_into_a_folder_that_was_not_there_when_it_was_planned_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks for files in a folder that is not there; what comes into it later is met at its name."""
    source, pipeline = many(tmp_path / "tree"), Pipeline()
    made = await pipeline.backup(source)
    back, synced = tmp_path / "back", Target.sync_all

    def meanwhile(target: Target) -> None:
        if (back / "1").is_dir():
            (back / "1" / "001").write_text("mine")
        synced(target)

    monkeypatch.setattr(Target, "sync_all", meanwhile)
    report = await pipeline.restore(made, back, of=source)
    assert report.skipped_existing == 1 and report.files == 39
    assert (back / "1" / "001").read_text() == "mine"
    assert leftovers(back) == []
