"""Checking that a snapshot can be restored, without restoring it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from holdfast.client.chunks import ChunkSource
from holdfast.client.limits import RESTORE_WINDOW_BYTES
from holdfast.client.manifest import PageLoader, UnreadablePage, read_manifest
from holdfast.client.progress import OnProgress, Progress
from holdfast.client.restore import open_refs
from holdfast.client.sealing import SealingKeys
from holdfast.client.snapshot_record import ChunkRef
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.ids import ChunkId
from holdfast.protocol.limits import LOCATE_CHUNKS_MAX

__all__ = ["CheckReport", "FindMissing", "run_check"]

FindMissing = Callable[[Sequence[ChunkId]], Awaitable[Mapping[ChunkId, HoldfastError]]]
"""Which of these chunks cannot be had now (by the catalogue and the nodes that are up), and why."""

_FILES_NAMED_MAX = 10_000


@dataclass(slots=True)
class CheckReport:
    """What a check found.

    Attributes:
        damaged: (path, error) of files that cannot be restored now, at most 10,000.
        read_chunks, read_bytes: sealed chunks really fetched and opened.
    """

    files: int = 0
    entries: int = 0
    chunks: int = 0
    read_chunks: int = 0
    read_bytes: int = 0
    damaged_files: int = 0
    damaged: list[tuple[bytes, HoldfastError]] = field(default_factory=list)
    unreadable: list[tuple[bytes, bytes, HoldfastError]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Can everything be restored, as far as was looked?"""
        return not self.damaged_files and not self.unreadable


def _is_sampled(chunk: ChunkId, percent: float, seed: bytes) -> bool:
    mark = int.from_bytes(blake3(seed + chunk).digest(length=4), "big")
    return mark < percent / 100 * 2**32


class _Checker:
    def __init__(
        self,
        chunks: ChunkSource,
        keys: Mapping[int, SealingKeys],
        find_missing: FindMissing,
        percent: float,
        seed: bytes,
    ) -> None:
        self._chunks = chunks
        self._keys = keys
        self._find_missing = find_missing
        self._percent = percent
        self._seed = seed
        self._seen: set[ChunkId] = set()
        self._bad: dict[ChunkId, HoldfastError] = {}
        self._waiting: list[tuple[bytes, list[ChunkId]]] = []
        self._refs: list[ChunkRef] = []
        self._size = 0
        self.report = CheckReport()

    def take(self, path: bytes, refs: Sequence[ChunkRef]) -> bool:
        """Note a file and its chunks; True when there is enough to look at."""
        self._waiting.append((path, [ref.chunk for ref in refs]))
        for ref in refs:
            if ref.chunk not in self._seen:
                self._seen.add(ref.chunk)
                self._refs.append(ref)
                self._size += ref.plain_bytes if self._percent else 0
        return self._size >= RESTORE_WINDOW_BYTES or len(self._refs) >= LOCATE_CHUNKS_MAX

    async def flush(self) -> None:
        """Look at what has gathered."""
        refs, self._refs, self._size = self._refs, [], 0
        for start in range(0, len(refs), LOCATE_CHUNKS_MAX):
            portion = [ref.chunk for ref in refs[start : start + LOCATE_CHUNKS_MAX]]
            self._bad.update(await self._find_missing(portion))
        self.report.chunks += len(refs)
        sampled = [
            ref
            for ref in refs
            if ref.chunk not in self._bad and _is_sampled(ref.chunk, self._percent, self._seed)
        ]
        for window in _windows(sampled):
            for ref, plain in (await open_refs(window, self._chunks, self._keys)).items():
                self.report.read_chunks += 1
                if isinstance(plain, HoldfastError):
                    self._bad[ref.chunk] = plain
                else:
                    self.report.read_bytes += len(plain)
        waiting, self._waiting = self._waiting, []
        for path, ids in waiting:
            wrong = next((self._bad[chunk] for chunk in ids if chunk in self._bad), None)
            if wrong is not None:
                self.report.damaged_files += 1
                if len(self.report.damaged) < _FILES_NAMED_MAX:
                    self.report.damaged.append((path, wrong))


def _windows(refs: Sequence[ChunkRef]) -> Iterator[list[ChunkRef]]:
    """As many at a time as a restore would hold: one entry may name gibibytes of chunks."""
    window: list[ChunkRef] = []
    size = 0
    for ref in refs:
        window.append(ref)
        size += ref.plain_bytes
        if size >= RESTORE_WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


async def run_check(
    pages: Sequence[ChunkRef],
    load: PageLoader,
    chunks: ChunkSource,
    keys: Mapping[int, SealingKeys],
    find_missing: FindMissing,
    *,
    percent: float = 0.0,
    seed: bytes = b"",
    on_progress: OnProgress | None = None,
) -> CheckReport:
    """Check one snapshot: every manifest page opens, every chunk is there; ``percent`` of them are read.

    Args:
        percent: 0 to 100: how many of the chunks to fetch, decode and open.
        seed: decides which ones are sampled.
    """
    checker = _Checker(chunks, keys, find_missing, percent, seed)
    report = checker.report
    async for entry in read_manifest(pages, load, skip_unreadable=True):
        if isinstance(entry, UnreadablePage):
            report.unreadable.append((entry.after, entry.before, entry.error))
            continue
        report.entries += 1
        if entry.kind == "file":
            report.files += 1
        if entry.extents and checker.take(entry.path, [extent.ref for extent in entry.extents]):
            await checker.flush()
            if on_progress is not None:
                on_progress(Progress("check", files=report.files, bytes=report.read_bytes))
    await checker.flush()
    return report
