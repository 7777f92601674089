"""Pages of the parent that nothing changed in are taken over: never at the price of another manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.pipeline import Pipeline

from holdfast.client.backup import BackupResult
from holdfast.client.manifest import Page
from holdfast.client.snapshot_record import ChunkRef
from holdfast.protocol.clock import SystemSource
from holdfast.protocol.errors import NotFound

LATER = SystemSource(offset_ms=60_000)
"""Everything was last touched long before: times can be believed."""


@pytest.fixture(autouse=True)
def many_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of a few entries."""
    monkeypatch.setattr("holdfast.client.manifest.PAGE_BYTES_MIN", 300)
    monkeypatch.setattr("holdfast.client.manifest.PAGE_BYTES_MAX", 1500)
    monkeypatch.setattr("holdfast.client.manifest.PAGE_BOUNDARY_ONE_IN", 3)


def made_tree(folder: Path) -> Path:
    tree = folder / "tree"
    for name in ("a", "b", "c", "d"):
        (tree / name).mkdir(parents=True)
        for number in range(9):
            (tree / name / f"file {number}").write_text(f"{name} {number}\n" * 40)
    os.symlink("a", tree / "b" / "link")
    os.mkfifo(tree / "c" / "pipe")
    return tree


async def pages_below(pipeline: Pipeline, result: BackupResult, tree: Path) -> list[ChunkRef]:
    """Pages that name nothing above the tree: others on this machine change those folders' times."""
    kept = []
    for ref, plain in zip(result.pages, await pipeline.load(result.pages), strict=True):
        assert isinstance(plain, bytes)
        if all(raw.path.startswith(os.fsencode(tree)[1:]) for raw in Page(plain).raw_entries):
            kept.append(ref)
    return kept


async def both_ways(
    pipeline: Pipeline, tree: Path, parent: BackupResult, monkeypatch: pytest.MonkeyPatch
) -> BackupResult:
    """Back up with pages taken over, and without: it must be the same manifest."""
    fast = await pipeline.backup(tree, parent=parent)
    with monkeypatch.context() as patched:
        patched.setattr("holdfast.client.producing.still_is", lambda found, raw: False)
        slow = await pipeline.backup(tree, parent=parent)
    assert await pages_below(pipeline, fast, tree) == await pages_below(pipeline, slow, tree)
    counts = [(r.entries, r.files, r.total_bytes, r.read_files, r.read_bytes) for r in (fast, slow)]
    assert counts[0] == counts[1]
    return fast


async def test_where_nothing_changed_nothing_is_sealed(tmp_path: Path) -> None:
    pipeline, tree = Pipeline(source=LATER), made_tree(tmp_path)
    first = await pipeline.backup(tree)
    below = await pages_below(pipeline, first, tree)
    assert len(below) > 5
    second = await pipeline.backup(tree, parent=first)
    assert await pages_below(pipeline, second, tree) == below
    assert second.read_files == 0
    assert (second.files, second.total_bytes, second.entries) == (
        first.files,
        first.total_bytes,
        first.entries,
    )
    # Should the parent go away meanwhile, all of it is claimed: data and pages.
    assert {ref.chunk for ref in below[:-1]} <= set(second.reused_chunks())
    assert {e.ref.chunk for found in (await pipeline.entries(first)).values() for e in found.extents} <= set(
        second.reused_chunks()
    )


def _append(tree: Path) -> None:
    with (tree / "b" / "file 4").open("a") as file:
        file.write("more")


def _swap(tree: Path) -> None:
    (tree / "d" / "file 0").unlink()
    (tree / "d" / "file 0").mkdir()


def _retarget(tree: Path) -> None:
    (tree / "b" / "link").unlink()
    os.symlink("c", tree / "b" / "link")


CHANGES: dict[str, Callable[[Path], None]] = {
    "nothing": lambda tree: None,
    "content": _append,
    "mode": lambda tree: (tree / "a" / "file 3").chmod(0o600),
    "mode of a folder": lambda tree: (tree / "c").chmod(0o700),
    "time alone": lambda tree: os.utime(tree / "a" / "file 3", (1, 1)),
    "a new file in front": lambda tree: (tree / "A").write_text("new"),
    "a new file behind": lambda tree: (tree / "z").write_text("new"),
    "a new file within": lambda tree: (tree / "b" / "file 35").write_text("new"),
    "a file gone": lambda tree: (tree / "b" / "file 4").unlink(),
    "the last file gone": lambda tree: (tree / "d" / "file 8").unlink(),
    "a file renamed": lambda tree: (tree / "b" / "file 4").rename(tree / "b" / "other"),
    "a folder in a file's place": _swap,
    "a link elsewhere": _retarget,
    "a second name": lambda tree: os.link(tree / "a" / "file 3", tree / "c" / "second"),
    "an attribute": lambda tree: os.setxattr(tree / "b" / "file 2", "user.note", b"x"),
    "a pipe gone": lambda tree: (tree / "c" / "pipe").unlink(),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_whatever_changes_the_manifest_is_the_one_made_anew(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, tree = Pipeline(source=LATER), made_tree(tmp_path)
    first = await pipeline.backup(tree)
    CHANGES[name](tree)
    second = await both_ways(pipeline, tree, first, monkeypatch)
    told = []
    for result in (first, second, await both_ways(pipeline, tree, second, monkeypatch)):
        entries = await pipeline.entries(result)
        told.append({path: e for path, e in entries.items() if path.startswith(os.fsencode(tree)[1:])})
    assert (told[0] == told[1]) == (name == "nothing")
    assert told[2] == told[1]
    restored = tmp_path / "back"
    report = await pipeline.restore(second, restored, tree)
    assert report.complete
    assert sorted(p.relative_to(restored) for p in restored.rglob("*")) == sorted(
        p.relative_to(tree) for p in tree.rglob("*")
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(names=st.lists(st.sampled_from(sorted(CHANGES)), max_size=5, unique=True))
async def test_any_changes_together(
    names: list[str], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, tree = Pipeline(source=LATER), made_tree(tmp_path_factory.mktemp("any"))
    first = await pipeline.backup(tree)
    for name in names:
        if not (name == "content" and "a file gone" in names):
            try:
                CHANGES[name](tree)
            except FileNotFoundError:
                continue  # another change took it away
    second = await both_ways(pipeline, tree, first, monkeypatch)
    await both_ways(pipeline, tree, second, monkeypatch)


async def test_a_page_that_is_gone_is_read_again_and_the_others_are_taken_over(tmp_path: Path) -> None:
    pipeline, tree = Pipeline(source=LATER), made_tree(tmp_path)
    first = await pipeline.backup(tree)
    # Where pages end is drawn with the keys: one of folders alone would have nothing to be read again.
    with_files = [
        at
        for at, plain in enumerate(await pipeline.load(first.pages))
        if isinstance(plain, bytes) and any(b"/file " in raw.path for raw in Page(plain).raw_entries)
    ]
    gone = next(at for at in with_files if at >= 2)
    pipeline.chunks.errors[first.pages[gone].chunk] = NotFound("gone")
    second = await pipeline.backup(tree, parent=first)
    below = await pages_below(pipeline, second, tree)
    assert [page in below for page in first.pages[gone + 1 :]].count(False) == 0
    assert 0 < second.read_files < second.files


async def test_a_file_touched_just_now_is_looked_at_again(tmp_path: Path) -> None:
    """Its page may not be taken over: equal times would hide a change within the clock's grain."""
    pipeline, tree = Pipeline(), made_tree(tmp_path)
    first = await pipeline.backup(tree)
    second = await pipeline.backup(tree, parent=first)
    assert second.read_files == second.files
