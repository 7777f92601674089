"""Equal small files share what is stored, however long ago the first one went by."""

from __future__ import annotations

import pytest
from support.pipeline import KEYS

from holdfast.client import small_files
from holdfast.client.entries import Entry, Extent
from holdfast.client.sealing import seal
from holdfast.client.small_files import DigestMemory, Waiting
from holdfast.client.snapshot_record import ChunkRef

CHUNK = seal(KEYS.sealing, b"content")
REF = ChunkRef(CHUNK.pid, CHUNK.chunk_id, 7, 1)


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def cut(number: int, *, ready: bool = True) -> Waiting:
    """A file of this backup whose extents are known, or (ready=False) not all of them yet."""
    waiting = Waiting(Entry("file", b"path %d" % number, size=7), ready=ready)
    waiting.add(Extent(REF, 0, number + 1))
    return waiting


def test_a_file_is_found_with_its_extents_long_after_it_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_files, "PENDING_ENTRIES_MAX", 8)
    memory = DigestMemory()
    unready = cut(0, ready=False)
    memory.remember(digest(0), unready)
    for number in range(1, 100):
        memory.remember(digest(number), cut(number))
    assert memory.find(digest(0)) is unready, "what waits is found as it is"
    for number in range(1, 100):
        found = memory.find(digest(number))
        assert found is not None and found.is_ready
        assert found.extents() == (Extent(REF, 0, number + 1),) and found.entry.size == 7
        assert not found.entry.extents, "it was claimed by this backup, and is not the parent's"
    assert memory.find(digest(100)) is None


def test_the_parent_s_files_are_told_from_this_backup_s() -> None:
    memory = DigestMemory()
    memory.remember_stored(digest(1), 7, (Extent(REF, 0, 7),))
    found = memory.find(digest(1))
    assert found is not None and found.entry.extents == found.extents() == (Extent(REF, 0, 7),)


def test_the_longest_unused_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_files, "DIGESTS_REMEMBERED_MAX", 3)
    memory = DigestMemory()
    for number in range(3):
        memory.remember_stored(digest(number), 7, ())
    assert memory.find(digest(0)) is not None
    memory.remember_stored(digest(3), 7, ())
    assert memory.find(digest(1)) is None
    assert memory.find(digest(0)) is not None and memory.find(digest(3)) is not None
