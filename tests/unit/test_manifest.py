"""The manifest: pages that stand alone, change little, and refuse what no backup makes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.pipeline import KEYS, Pipeline

from holdfast.client.entries import Entry, Extent, check_path
from holdfast.client.limits import PAGE_BYTES_MAX, PAGE_EXTENTS_MAX
from holdfast.client.manifest import ManifestWriter, UnreadablePage, read_manifest
from holdfast.client.sealing import SealedChunk, seal
from holdfast.client.snapshot_record import ChunkRef
from holdfast.protocol.errors import HoldfastError, IntegrityFailure, TooFewShards

CHUNK = seal(KEYS.sealing, b"x" * 1000)
REF = ChunkRef(CHUNK.pid, CHUNK.chunk_id, 1000, 1)


def file(path: str, size: int = 10, **other: object) -> Entry:
    return Entry("file", path.encode(), mode=0o644, size=size, extents=(Extent(REF, 0, size),), **other)  # type: ignore[arg-type]


async def read(
    pipeline: Pipeline, pages: Sequence[ChunkRef], *, skip: bool = False
) -> list[Entry | UnreadablePage]:
    return [entry async for entry in read_manifest(pages, pipeline.load, skip_unreadable=skip)]


async def test_entries_come_back_as_they_were() -> None:
    entries = [
        Entry("dir", b"a", mode=0o755, uid=1, gid=2, user="u", group="g", mtime_ns=3),
        file("a/b", digest=b"d" * 32, trusted=True, xattrs=((b"user.x", b"\0\xff"),)),
        Entry("symlink", b"a/l", target=b"../\xff"),
        Entry("file", b"a/sparse", size=100, holes=((0, 50), (60, 40)), extents=(Extent(REF, 5, 10),)),
        Entry("fifo", b"a\n"),
    ]
    pipeline = Pipeline()
    assert await read(pipeline, pipeline.forge(entries).pages) == entries


def pages_of(entries: Sequence[Entry]) -> list[SealedChunk]:
    sealed: list[SealedChunk] = []
    writer = ManifestWriter(KEYS, sealed.append)
    for entry in entries:
        writer.add(entry)
    writer.finish()
    return sealed


def test_a_change_in_one_place_changes_few_pages() -> None:
    names = [f"d{n // 100:04d}/f{n:06d}" for n in range(20_000)]
    before = {page.chunk_id for page in pages_of([file(name) for name in names])}
    changed = [file(name, 11 if n == 9_000 else 10) for n, name in enumerate(names) if n != 15_000]
    after = {page.chunk_id for page in pages_of(changed)}
    assert len(before) > 10
    assert len(after - before) <= 4


def test_pages_stay_bounded_whatever_the_entries() -> None:
    long = [Entry("symlink", b"l%06d" % n, target=b"t" * 4000) for n in range(2000)]
    assert all(page.plain_bytes < 2 * PAGE_BYTES_MAX for page in pages_of(long))


async def test_a_file_with_more_extents_than_a_page_holds_goes_on_in_the_next() -> None:
    extents = tuple(Extent(REF, n % 900, 1) for n in range(2 * PAGE_EXTENTS_MAX + 7))
    pipeline = Pipeline()
    huge = Entry("file", b"b", size=len(extents), extents=extents)
    made = pipeline.forge([file("a"), huge, file("c")])
    found = await read(pipeline, made.pages)
    assert [(e.kind, e.path) for e in found if isinstance(e, Entry)] == [
        ("file", b"a"),
        ("file", b"b"),
        ("more", b"b"),
        ("more", b"b"),
        ("file", b"c"),
    ]
    joined = tuple(x for e in found if isinstance(e, Entry) and e.path == b"b" for x in e.extents)
    assert joined == extents


async def test_a_lost_page_costs_its_path_range_and_no_more() -> None:
    pipeline = Pipeline()
    made = pipeline.forge([file(f"f{n:06d}") for n in range(12_000)])
    assert len(made.pages) >= 5
    lost = made.pages[2]
    pipeline.chunks.errors[lost.chunk] = TooFewShards("gone for now")
    found = await read(pipeline, made.pages, skip=True)
    (gap,) = [entry for entry in found if isinstance(entry, UnreadablePage)]
    position = found.index(gap)
    before, behind = found[position - 1], found[position + 1]
    assert isinstance(before, Entry)
    assert isinstance(behind, Entry)
    assert (gap.after, gap.before) == (before.path, behind.path)
    assert isinstance(gap.error, TooFewShards)
    with pytest.raises(TooFewShards):
        await read(pipeline, made.pages)


async def test_a_lost_last_page_is_told_too() -> None:
    pipeline = Pipeline()
    made = pipeline.forge([file(f"f{n:06d}") for n in range(6_000)])
    pipeline.chunks.errors[made.pages[-1].chunk] = TooFewShards("gone for now")
    found = await read(pipeline, made.pages, skip=True)
    assert isinstance(found[-1], UnreadablePage)
    assert found[-1].before == b""


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/a",
        b"a//b",
        b"a/",
        b"..",
        b"a/../b",
        b".",
        b"a/./b",
        b"a\0b",
        b"n" * 256,
        b"a/" * 40_000 + b"b",
    ],
)
def test_paths_that_could_lead_elsewhere_are_refused(path: bytes) -> None:
    with pytest.raises(IntegrityFailure):
        check_path(path)


@pytest.mark.parametrize("path", [b"a", b"a/b", b"...", b"a\nb", b"\xff\xfe", b"n" * 255, b"-rf", b" "])
def test_strange_but_plain_paths_are_fine(path: bytes) -> None:
    check_path(path)


@pytest.mark.parametrize(
    "entries",
    [
        [file("b"), file("a")],
        [file("a"), file("a")],
        [file("a.b"), file("a/b")],
        [Entry("more", b"a")],
        [file("a"), Entry("more", b"b")],
        [Entry("file", b"a", size=2000, extents=(Extent(REF, 0, 2000),))],
        [Entry("file", b"a", size=10, extents=(Extent(REF, 995, 10),))],
        [Entry("file", b"a", size=10, extents=(Extent(REF, -1, 10),))],
        [Entry("file", b"a", size=0, extents=(Extent(REF, 0, 0),))],
        [Entry("file", b"a", size=10, holes=((5, 10),))],
        [Entry("file", b"a", size=10, holes=((5, 2), (6, 1)))],
        [Entry("file", b"a", size=10, holes=((0, 0),))],
        [file("../etc/passwd")],
        [file("a/../../b")],
    ],
)
async def test_pages_that_break_a_rule_are_refused(entries: list[Entry]) -> None:
    pipeline = Pipeline()
    with pytest.raises(HoldfastError) as told:
        await read(pipeline, pipeline.forge(entries).pages)
    assert isinstance(told.value, IntegrityFailure)
