"""Restoring: read the manifest, plan windows, fetch ahead, write.

It goes on with the files it can produce and says what it could not. While one
window is written, the chunks of the next two are on their way.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from holdfast.client.chunks import ChunkSource
from holdfast.client.entries import Entry, Extent
from holdfast.client.exclude import Excluder
from holdfast.client.limits import (
    RESTORE_FIRST_WINDOW_BYTES,
    RESTORE_WINDOW_ACTIONS_MAX,
    RESTORE_WINDOW_BYTES,
    RESTORE_WINDOWS_AHEAD_MAX,
)
from holdfast.client.manifest import PageLoader, UnreadablePage, read_manifest
from holdfast.client.placing import Overwrite, Target
from holdfast.client.progress import OnProgress, Progress
from holdfast.client.restore_window import (
    Content,
    FileJob,
    FinishFolder,
    Link,
    Make,
    Plain,
    RestoreReport,
    Window,
    WindowWriter,
)
from holdfast.client.sealing import SealingKeys, open_chunk
from holdfast.client.snapshot_record import ChunkRef
from holdfast.client.walk import components
from holdfast.protocol.errors import HoldfastError, IntegrityFailure, NotFound

__all__ = ["RestorePlan", "RestoreReport", "open_refs", "run_restore"]


class RestorePlan(Struct, frozen=True):
    """What to restore, and where to.

    Attributes:
        prefix: path in the snapshot; what lies in it lands directly below the target.
        include: patterns as for --exclude; empty: everything.
    """

    target: str
    prefix: bytes = b""
    include: Sequence[str] = ()
    overwrite: Overwrite = "never"
    verify: bool = False


async def open_refs(
    refs: Sequence[ChunkRef], chunks: ChunkSource, keys: Mapping[int, SealingKeys]
) -> dict[ChunkRef, Plain | HoldfastError]:
    """Fetch and open chunks; for each its plaintext, or why it cannot be had."""
    by_id: dict[bytes, list[ChunkRef]] = {}
    for ref in refs:
        by_id.setdefault(ref.chunk, []).append(ref)
    found: dict[ChunkRef, Plain | HoldfastError] = {}

    def opened(ref: ChunkRef, sealed: bytes | bytearray) -> Plain | HoldfastError:
        if ref.epoch not in keys:
            return IntegrityFailure(f"there is no key for epoch {ref.epoch}")
        try:
            return open_chunk(
                keys[ref.epoch],
                sealed,
                chunk_id=ref.chunk,
                pid=ref.pid,
                plain_bytes=ref.plain_bytes,
                proven=True,
            )
        except HoldfastError as error:
            return error.bare()

    async def open_one(ref: ChunkRef, sealed: bytes | bytearray) -> None:
        found[ref] = await asyncio.to_thread(opened, ref, sealed)

    opening: list[asyncio.Task[None]] = []
    try:
        async for chunk, sealed in chunks.fetch([refs_[0].chunk for refs_ in by_id.values()]):
            for ref in by_id[chunk]:
                if isinstance(sealed, HoldfastError):
                    found[ref] = sealed
                else:
                    opening.append(asyncio.create_task(open_one(ref, sealed)))
        await asyncio.gather(*opening)
    finally:
        for task in opening:
            task.cancel()
    return found


class _Planner:
    """Turns entries into windows of actions. Pure but for a quick look at what is there."""

    def __init__(self, plan: RestorePlan, target: Target, report: RestoreReport) -> None:
        self._prefix = components(plan.prefix)
        self._include = Excluder(plan.include)
        self._target = target
        self._report = report
        self._folders: list[tuple[Entry, tuple[bytes, ...], bool]] = []
        self._job: FileJob | None = None
        self._rest: deque[Extent] = deque()
        self._most_bytes = RESTORE_FIRST_WINDOW_BYTES
        self._linked: dict[tuple[int, int], FileJob] = {}
        self.window = Window()
        self.matched = 0

    def next_window(self) -> Window:
        """The window as it is, for carrying out; a new one begins.

        The first is small and each may be twice the one before, up to the most: writing begins early.
        """
        full, self.window = self.window, Window()
        self._most_bytes = min(2 * self._most_bytes, RESTORE_WINDOW_BYTES)
        return full

    def take(self, entry: Entry) -> bool:
        """Plan one entry; False when the present window must be carried out first (then ask again)."""
        if not self._drain() or len(self.window.actions) >= RESTORE_WINDOW_ACTIONS_MAX:
            return False
        if entry.kind == "more":
            if self._job is not None:
                self._rest.extend(entry.extents)
            return True
        self._end_file()
        whole = components(entry.path)
        self._leave_folders(whole)
        parts = self._below_target(whole, entry)
        if parts is None:
            return True
        selected = self._selected(entry)
        if entry.kind == "dir" and parts:
            self._folders.append((entry, whole, selected))
        if not selected or not parts:
            return True
        self.matched += 1
        self._plan(entry, parts)
        return True

    def _below_target(self, whole: tuple[bytes, ...], entry: Entry) -> tuple[bytes, ...] | None:
        if whole[: len(self._prefix)] == self._prefix:
            below = whole[len(self._prefix) :]
            # A file named by the prefix itself keeps its name; a folder is the target.
            return below if below or entry.kind == "dir" else whole[-1:]
        return None

    def _selected(self, entry: Entry) -> bool:
        if not self._include:
            return True
        if self._folders and self._folders[-1][2]:
            return True
        return self._include.excludes(b"/" + entry.path, entry.kind == "dir")

    def _leave_folders(self, whole: tuple[bytes, ...]) -> None:
        while self._folders and whole[: len(self._folders[-1][1])] != self._folders[-1][1]:
            entry, path, _ = self._folders.pop()
            self.window.actions.append(FinishFolder(entry, path[len(self._prefix) :]))

    def _plan(self, entry: Entry, parts: tuple[bytes, ...]) -> None:
        if entry.kind != "file":
            self.window.actions.append(Make(entry, parts))
            return
        key = (entry.device, entry.inode)
        if entry.linked and key in self._linked:
            self.window.actions.append(Link(entry, parts, self._linked[key]))
            return
        if not self._target.looks_wanted(parts, entry):
            self._report.skipped_existing += 1
            return
        job = FileJob(entry, parts)
        if entry.linked:
            self._linked[key] = job
        self._job = job
        self._rest.extend(entry.extents)

    def _drain(self) -> bool:
        """Put the file's extents into the window as far as they fit; True when none is left."""
        fitting: list[Extent] = []
        while self._rest and self.window.plain_bytes < self._most_bytes:
            extent = self._rest.popleft()
            self.window.need(extent.ref)
            fitting.append(extent)
        if fitting:
            assert self._job is not None
            self.window.actions.append(Content(self._job, tuple(fitting), False))
        return not self._rest and self.window.plain_bytes < self._most_bytes

    def _end_file(self) -> None:
        if self._job is None:
            return
        before = self.window.actions[-1] if self.window.actions else None
        if isinstance(before, Content) and before.job is self._job:
            self.window.actions[-1] = Content(self._job, before.extents, True)
        else:
            self.window.actions.append(Content(self._job, (), True))
        self._job = None

    def finish(self) -> bool:
        """No more entries; False when the present window must be carried out first (then ask again)."""
        if not self._drain() and self._rest:
            return False
        self._end_file()
        while self._folders:
            entry, path, _ = self._folders.pop()
            self.window.actions.append(FinishFolder(entry, path[len(self._prefix) :]))
        return True


class _Restorer:
    """Keeps windows moving: fetched ahead, written in order."""

    def __init__(
        self,
        writer: WindowWriter,
        chunks: ChunkSource,
        keys: Mapping[int, SealingKeys],
        on_written: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._chunks = chunks
        self._keys = keys
        self._on_written = on_written
        self._fetching: deque[tuple[Window, asyncio.Task[dict[ChunkRef, Plain | HoldfastError]]]] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def add(self, window: Window) -> None:
        """Start fetching a window; write an earlier one first when enough are on their way.

        Whoever comes with a window has planned it while those before it were fetched.
        """
        if len(self._fetching) > RESTORE_WINDOWS_AHEAD_MAX:
            await self._write_next()
        before = self._fetching[-1] if self._fetching else None
        self._fetching.append((window, asyncio.create_task(self._fetch(window, before))))
        await asyncio.sleep(0)  # writing and fetching set out while planning goes on

    async def _fetch(
        self,
        window: Window,
        before: tuple[Window, asyncio.Task[dict[ChunkRef, Plain | HoldfastError]]] | None,
    ) -> dict[ChunkRef, Plain | HoldfastError]:
        """A window's plaintexts; what the window before has is taken from there."""
        shared = [ref for ref in window.refs if before is not None and ref in before[0].refs]
        known = set(shared)
        found = await open_refs([ref for ref in window.refs if ref not in known], self._chunks, self._keys)
        if before is not None and shared:
            earlier = await before[1]
            found.update((ref, earlier[ref]) for ref in shared)
        return found

    async def _write_next(self) -> None:
        window, fetching = self._fetching.popleft()
        contents = await fetching
        await self._written()
        self._writing = asyncio.create_task(asyncio.to_thread(self._writer.carry_out, window, contents))

    async def finish(self) -> None:
        """Write everything that is on its way."""
        while self._fetching:
            await self._write_next()
        await self._written()
        self._writing = asyncio.create_task(asyncio.to_thread(self._writer.complete))
        await self._written()

    async def _written(self) -> None:
        if self._writing is not None:
            # A cancelled wait would cancel the task, but not its thread: stop() must still see it running.
            await asyncio.shield(self._writing)
            self._on_written()

    async def stop(self) -> None:
        """End all tasks; what is not finished is removed."""
        tasks = [task for _, task in self._fetching]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._writing is not None:
            # A thread cannot be cancelled: let the window it works on end.
            await asyncio.gather(self._writing, return_exceptions=True)
        await asyncio.to_thread(self._writer.abandon)


async def run_restore(
    plan: RestorePlan,
    pages: Sequence[ChunkRef],
    load: PageLoader,
    chunks: ChunkSource,
    keys: Mapping[int, SealingKeys],
    *,
    on_progress: OnProgress | None = None,
) -> RestoreReport:
    """Restore what a plan names. What cannot be had is in the report, everything else is there.

    Args:
        pages, load: the snapshot's manifest.
        keys: sealing keys by epoch.

    Raises:
        NoRoom: the target's disk is full. Locked: another restore runs in the target.
        NotFound: nothing in the snapshot matches.
        HoldfastError: the target cannot be used.
    """
    report = RestoreReport()
    target = Target(plan.target, plan.overwrite)
    planner = _Planner(plan, target, report)
    writer = WindowWriter(target, report, verify=plan.verify)
    at = b""

    def tell() -> None:
        if on_progress is not None:
            name = os.fsdecode(at)
            on_progress(Progress("restore", files=report.files, bytes=writer.written_bytes, path=name))

    restorer = _Restorer(writer, chunks, keys, tell)

    try:
        async for entry in read_manifest(pages, load, skip_unreadable=True):
            if isinstance(entry, UnreadablePage):
                report.unreadable.append((entry.after, entry.before, entry.error))
                continue
            at = entry.path
            while not planner.take(entry):
                await restorer.add(planner.next_window())
        while not planner.finish():
            await restorer.add(planner.next_window())
        await restorer.add(planner.next_window())
        at = b""
        await restorer.finish()
        # Contents were durable before they got their names; now the names are, too.
        await asyncio.to_thread(target.sync_all)
    finally:
        await restorer.stop()
        target.close()
    for name in ("owners_skipped", "modes_reduced", "xattrs_skipped"):
        setattr(report, name, getattr(target.placed, name))
    if not planner.matched and report.complete and (plan.prefix or plan.include):
        raise NotFound(
            "nothing in this snapshot matches", do="Look at what it holds with 'holdfast ls SNAPSHOT'."
        )
    return report
