"""The backup pipeline: what client/producing.py reads and seals in a worker thread goes to the sink.

Sealed chunks go over to the event loop in batches, and waiting for the sink there is
what keeps memory bounded.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence

from holdfast.client.backup_result import BackupPlan, BackupResult, Skipped
from holdfast.client.chunks import ChunkSink
from holdfast.client.entries import Entry
from holdfast.client.identity import AccountKeys
from holdfast.client.limits import READ_BYTES
from holdfast.client.manifest import PageLoader
from holdfast.client.parent import ParentPages
from holdfast.client.producing import Producer
from holdfast.client.progress import OnProgress, Progress
from holdfast.client.sealing import SealedChunk
from holdfast.client.snapshot_record import ChunkRef
from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.errors import HoldfastError

__all__ = ["BackupPlan", "BackupResult", "Skipped", "run_backup", "run_stream_backup"]


async def run_backup(
    plan: BackupPlan,
    keys: AccountKeys,
    sink: ChunkSink,
    *,
    parent_pages: Sequence[ChunkRef] = (),
    load: PageLoader | None = None,
    on_progress: OnProgress | None = None,
    on_page: Callable[[SealedChunk], None] | None = None,
    source: Source = SYSTEM,
) -> BackupResult:
    """Store everything a plan names; returns when all of it is durable.

    Args:
        parent_pages, load: the manifest of the snapshot to compare with, and how to get its pages.
        on_progress, on_page: told while it runs, in the worker thread; pages may be kept for next time.

    Raises:
        HoldfastError: the sink's error; nothing becomes visible.
    """
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    def hand_over(batch: list[SealedChunk]) -> None:
        _check_wanted(stop)
        asyncio.run_coroutine_threadsafe(sink.put(batch), loop).result()

    def told(progress: Progress) -> None:
        _check_wanted(stop)
        if on_progress is not None:
            on_progress(progress)

    async def loaded(refs: Sequence[ChunkRef]) -> list[bytes | HoldfastError]:
        assert load is not None, "there are pages to load only where there is a loader"
        return await load(refs)

    before = ParentPages(
        parent_pages, lambda refs: asyncio.run_coroutine_threadsafe(loaded(refs), loop).result()
    )

    def work() -> BackupResult:
        return Producer(keys, hand_over, source, told, on_page).run(plan, before)

    try:
        result = await asyncio.to_thread(work)
    except asyncio.CancelledError:
        # The thread cannot be cancelled: it ends at the next chunk or file it comes to.
        stop.set()
        raise
    await sink.settle()
    return result


class _Unwanted(Exception):
    """The backup was cancelled; nobody waits for the thread's result."""


def _check_wanted(stop: threading.Event) -> None:
    if stop.is_set():
        raise _Unwanted


async def run_stream_backup(
    path: bytes,
    portions: AsyncIterator[bytes],
    keys: AccountKeys,
    sink: ChunkSink,
    *,
    source: Source = SYSTEM,
) -> BackupResult:
    """Store one stream as one file of this name; returns when all of it is durable.

    Raises:
        HoldfastError: the sink's error; nothing becomes visible.
    """
    loop = asyncio.get_running_loop()

    def hand_over(batch: list[SealedChunk]) -> None:
        asyncio.run_coroutine_threadsafe(sink.put(batch), loop).result()

    producer = Producer(keys, hand_over, source, None)
    cutter, extents, size = producer.begin_stream(), [], 0
    gathered = bytearray()
    async for portion in portions:
        size += len(portion)
        gathered += portion
        if len(gathered) >= READ_BYTES:
            taken, gathered = bytes(gathered), bytearray()
            extents.extend(await asyncio.to_thread(producer.feed_stream, cutter, taken))
    now_ns = source.now_ns()
    entry = Entry("file", path, mode=0o600, mtime_ns=now_ns, size=size)

    def end() -> BackupResult:
        extents.extend(producer.feed_stream(cutter, bytes(gathered)))
        return producer.end_stream(cutter, entry, extents)

    result = await asyncio.to_thread(end)
    await sink.settle()
    return result
