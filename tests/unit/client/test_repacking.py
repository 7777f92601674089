"""Chunks of small files that are hardly used any more: what is left is sent again, so that they are free."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.pipeline import Pipeline

from holdfast.client.backup import BackupResult
from holdfast.client.repacking import is_still_there
from holdfast.protocol.clock import SystemSource
from holdfast.protocol.ids import ChunkId

LATER = SystemSource(offset_ms=10_000)
"""Ten seconds later: what was just written counts as settled."""
FILES, SIZE = 200, 20_000


def small_files(folder: Path) -> list[Path]:
    folder.mkdir()
    made = []
    for number in range(FILES):
        path = folder / f"{number:04}"
        path.write_bytes(os.urandom(SIZE))
        made.append(path)
    return made


async def used(pipeline: Pipeline, result: BackupResult) -> dict[ChunkId, int]:
    """Bytes that a snapshot uses of each chunk of files."""
    found: dict[ChunkId, int] = {}
    for entry in (await pipeline.entries(result)).values():
        for extent in entry.extents:
            found[extent.ref.chunk] = found.get(extent.ref.chunk, 0) + extent.length
    return found


async def came_back(pipeline: Pipeline, result: BackupResult, source: Path, target: Path) -> None:
    await pipeline.restore(result, target, of=source)
    assert {path.name for path in target.iterdir()} == {path.name for path in source.iterdir()}
    for path in source.iterdir():
        assert (target / path.name).read_bytes() == path.read_bytes()


async def test_what_is_left_of_little_used_chunks_is_sent_again_and_they_are_free(tmp_path: Path) -> None:
    paths = small_files(tmp_path / "files")
    pipeline = Pipeline(source=LATER)
    first = await pipeline.backup(tmp_path / "files")
    before = await used(pipeline, first)
    for number, path in enumerate(paths):
        if number % 10:
            path.unlink()
    second = await pipeline.backup(tmp_path / "files", parent=first)
    after = await used(pipeline, second)
    assert second.read_files == FILES // 10 and second.read_bytes == FILES // 10 * SIZE
    assert not before.keys() & after.keys(), "nothing holds the old chunks any more"
    assert sum(len(pipeline.chunks.stored[chunk]) for chunk in after) < FILES // 5 * SIZE
    await came_back(pipeline, second, tmp_path / "files", tmp_path / "back")
    third = await pipeline.backup(tmp_path / "files", parent=second)
    assert third.read_files == 0, "and it is done once"


async def test_chunks_that_are_used_enough_are_left_alone(tmp_path: Path) -> None:
    paths = small_files(tmp_path / "files")
    pipeline = Pipeline(source=LATER)
    first = await pipeline.backup(tmp_path / "files")
    # The last one stays: the last chunk may be short, and hold little but that one.
    for path in paths[::2]:
        path.unlink()
    second = await pipeline.backup(tmp_path / "files", parent=first)
    assert second.read_files == 0


async def test_equal_content_is_not_found_in_the_chunk_that_is_to_go(tmp_path: Path) -> None:
    paths = small_files(tmp_path / "files")
    pipeline = Pipeline(source=LATER)
    first = await pipeline.backup(tmp_path / "files")
    before = await used(pipeline, first)
    kept = paths[:: FILES // 8]
    for path in paths:
        if path not in kept:
            path.unlink()
    for number, path in enumerate(kept):
        (tmp_path / "files" / f"copy {number}").write_bytes(path.read_bytes())
    second = await pipeline.backup(tmp_path / "files", parent=first)
    after = await used(pipeline, second)
    assert not before.keys() & after.keys()
    assert sum(len(pipeline.chunks.stored[chunk]) for chunk in after) < len(kept) * SIZE * 3 // 2, (
        "and stored once"
    )
    await came_back(pipeline, second, tmp_path / "files", tmp_path / "back")


async def test_files_that_were_renamed_as_a_whole_are_known_by_their_content(tmp_path: Path) -> None:
    small_files(tmp_path / "files")
    pipeline = Pipeline(source=LATER)
    first = await pipeline.backup(tmp_path)
    (tmp_path / "files").rename(tmp_path / "renamed")
    second = await pipeline.backup(tmp_path, parent=first)
    assert (await used(pipeline, first)).keys() == (await used(pipeline, second)).keys()


async def test_what_lies_outside_this_backup_does_not_count(tmp_path: Path) -> None:
    """The parent had two folders, this backup has one: the other's files are still on the disk."""
    both = [tmp_path / "a", tmp_path / "b"]
    for folder in both:
        folder.mkdir()
    (both[0] / "one").write_bytes(os.urandom(SIZE))
    for number in range(20):
        (both[1] / str(number)).write_bytes(os.urandom(SIZE))
    pipeline = Pipeline(source=LATER)
    first = await pipeline.backup(*both)
    second = await pipeline.backup(both[0], parent=first)
    assert second.read_files == 1
    await came_back(pipeline, second, both[0], tmp_path / "back")


async def test_a_dry_run_needs_none_of_it(tmp_path: Path) -> None:
    paths = small_files(tmp_path / "files")
    pipeline = Pipeline(source=LATER)
    first = await pipeline.backup(tmp_path / "files")
    for path in paths[1:]:
        path.unlink()
    stored = len(pipeline.chunks.stored)
    await pipeline.backup(tmp_path / "files", parent=first, dry_run=True)
    assert len(pipeline.chunks.stored) == stored


@pytest.mark.parametrize("change", ["gone", "touched", "a folder"])
async def test_a_file_that_looks_otherwise_is_not_still_there(tmp_path: Path, change: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    pipeline = Pipeline(source=LATER)
    result = await pipeline.backup(path)
    (entry,) = [e for e in (await pipeline.entries(result)).values() if e.kind == "file"]
    assert is_still_there(entry)
    path.unlink()
    if change == "touched":
        path.write_bytes(b"content")
    elif change == "a folder":
        path.mkdir()
    assert not is_still_there(entry)
