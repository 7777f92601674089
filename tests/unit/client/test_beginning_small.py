"""Small trees: the other side has work before all of a backup is read, or all of a restore fetched."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from support.pipeline import Pipeline

from holdfast.client.chunks import MemoryChunks
from holdfast.client.limits import (
    BATCH_FIRST_SEALED_BYTES,
    BATCH_SEALED_BYTES,
    CUT_BYTES_MAX,
    RESTORE_FIRST_WINDOW_BYTES,
    RESTORE_WINDOW_BYTES,
)
from holdfast.client.sealing import SealedChunk
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.ids import ChunkId
from holdfast.protocol.limits import MIB

CHUNK_SEALED_MAX = CUT_BYTES_MAX + CUT_BYTES_MAX // 8


class Counting(MemoryChunks):
    """Remembers how many bytes came and went at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.put_bytes: list[int] = []
        self.fetched_bytes: list[int] = []

    async def put(self, batch: Sequence[SealedChunk]) -> None:
        self.put_bytes.append(sum(len(chunk.sealed) for chunk in batch))
        await super().put(batch)

    async def fetch(
        self, wanted: Sequence[ChunkId]
    ) -> AsyncIterator[tuple[ChunkId, bytes | bytearray | HoldfastError]]:
        self.fetched_bytes.append(sum(len(self.stored[chunk]) for chunk in wanted if chunk in self.stored))
        async for found in super().fetch(wanted):
            yield found


def small_files(folder: Path, count: int, length: int) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:05}").write_bytes(os.urandom(length))


async def test_a_small_backup_is_on_its_way_before_all_of_it_is_read(tmp_path: Path) -> None:
    chunks = Counting()
    small_files(tmp_path / "tree", 320, 64 * 1024)
    await Pipeline(chunks).backup(tmp_path / "tree")
    first, *rest = chunks.put_bytes
    assert first < BATCH_FIRST_SEALED_BYTES + CHUNK_SEALED_MAX
    assert sum(rest) > 12 * MIB, "most of it came later"
    assert all(
        later < 2 * (before + CHUNK_SEALED_MAX) for before, later in zip(chunks.put_bytes, rest, strict=False)
    )


async def test_a_large_backup_has_few_large_batches(tmp_path: Path) -> None:
    chunks = Counting()
    (tmp_path / "large").write_bytes(os.urandom(64 * MIB))
    await Pipeline(chunks).backup(tmp_path / "large")
    assert max(chunks.put_bytes) < BATCH_SEALED_BYTES + CHUNK_SEALED_MAX
    assert len(chunks.put_bytes) <= 3 + 64 * MIB // BATCH_SEALED_BYTES + 1, "three that grow, and the last"


async def test_a_small_restore_writes_before_all_of_it_is_fetched(tmp_path: Path) -> None:
    chunks = Counting()
    small_files(tmp_path / "tree", 320, 64 * 1024)
    pipeline = Pipeline(chunks)
    made = await pipeline.backup(tmp_path / "tree")
    chunks.fetched_bytes.clear()
    report = await pipeline.restore(made, tmp_path / "back", of=tmp_path / "tree")
    assert report.complete and report.files == 320
    windows = [size for size in chunks.fetched_bytes if size > MIB]  # the others are pages of the manifest
    assert windows[0] < RESTORE_FIRST_WINDOW_BYTES + CHUNK_SEALED_MAX
    assert len(windows) >= 3 and max(windows) < RESTORE_WINDOW_BYTES + CHUNK_SEALED_MAX
