"""The backup pipeline: walk, read what changed, cut, seal, hand over.

Everything that reads or seals runs in one worker thread, in path order; sealed
chunks go over to the event loop in batches, and waiting for the sink there is
what keeps memory bounded. Unchanged files (size, times, inode against the parent
snapshot) are not read, unless they lie in a chunk that is hardly used any more; equal small
files share what is stored already.
"""

from __future__ import annotations

import asyncio
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from blake3 import blake3
from msgspec.structs import replace

from holdfast.client.chunks import ChunkSink
from holdfast.client.cutting import StreamCutter, cut_seed
from holdfast.client.entries import Entry, Extent
from holdfast.client.exclude import Excluder
from holdfast.client.identity import AccountKeys
from holdfast.client.limits import BATCH_CHUNKS_MAX, BATCH_SEALED_BYTES, READ_BYTES, SMALL_FILE_BYTES_MAX
from holdfast.client.manifest import ManifestWriter, PageLoader
from holdfast.client.parent import Parent, ParentPage, ParentPages, files_of, still_is
from holdfast.client.progress import OnProgress, Progress
from holdfast.client.reading import FileReader, SkippedFile, describe, holes_of, unchanged, untrusted
from holdfast.client.repacking import ChunkUse
from holdfast.client.sealing import SealedChunk, seal
from holdfast.client.small_files import DigestMemory, EntryQueue, SmallFileStream, Waiting
from holdfast.client.snapshot_record import ChunkRef
from holdfast.client.walk import Found, Problem, components, walk
from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.ids import ChunkId

__all__ = ["BackupPlan", "BackupResult", "Skipped", "run_backup", "run_stream_backup"]

_TELL_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class BackupPlan:
    """What to back up. ``roots`` are absolute, in walking order (walk.normal_roots)."""

    roots: Sequence[bytes]
    excluder: Excluder = field(default_factory=Excluder)
    one_file_system: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not in the snapshot (or what of it is not), and why."""

    path: bytes
    why: str


@dataclass(slots=True)
class BackupResult:
    """What a backup did.

    Attributes:
        pages: the manifest.
        read_files, read_bytes: what had to be read.
        reused: chunk ids taken over from the parent without a claim (32 bytes each, joined).
        reduced: what is in the snapshot without some of its extended attributes.
        changed: files that changed while they were read; they are in the snapshot as they were read.
    """

    pages: list[ChunkRef] = field(default_factory=list)
    entries: int = 0
    files: int = 0
    total_bytes: int = 0
    read_files: int = 0
    read_bytes: int = 0
    reused: bytearray = field(default_factory=bytearray)
    skipped: list[Skipped] = field(default_factory=list)
    reduced: list[Skipped] = field(default_factory=list)
    changed: list[bytes] = field(default_factory=list)

    def reused_chunks(self) -> list[ChunkId]:
        """The reused chunk ids, each once."""
        raw = bytes(self.reused)
        return list(dict.fromkeys(ChunkId(raw[i : i + 32]) for i in range(0, len(raw), 32)))


class _Batcher:
    """Collects sealed chunks and hands them over a batch at a time."""

    def __init__(self, hand_over: Callable[[list[SealedChunk]], None]) -> None:
        self._hand_over = hand_over
        self._batch: list[SealedChunk] = []
        self._size = 0

    def add(self, chunk: SealedChunk) -> None:
        self._batch.append(chunk)
        self._size += len(chunk.sealed)
        if self._size >= BATCH_SEALED_BYTES or len(self._batch) >= BATCH_CHUNKS_MAX:
            self.flush()

    def flush(self) -> None:
        if self._batch:
            batch, self._batch, self._size = self._batch, [], 0
            self._hand_over(batch)


class _Producer:
    """Runs in the worker thread."""

    def __init__(
        self,
        keys: AccountKeys,
        hand_over: Callable[[list[SealedChunk]], None],
        source: Source,
        on_progress: OnProgress | None,
        on_page: Callable[[SealedChunk], None] | None = None,
    ) -> None:
        self._on_page = on_page
        self._keys = keys
        self._source = source
        self._on_progress = on_progress
        self._told = source.monotonic()
        self._seed = cut_seed(keys.cut_key)
        self._batcher = _Batcher(hand_over)
        self._manifest = ManifestWriter(keys, self._page)
        self._queue = EntryQueue(self._manifest.add, self._adopt)
        self._small = SmallFileStream(self._seed, self._store)
        self._large = StreamCutter(self._seed)
        self._digests = DigestMemory()
        self._use = ChunkUse()
        self._parent = Parent(())
        self._parent_digests: Iterable[Entry] = ()
        self._linked: dict[tuple[int, int], Waiting] = {}
        self._under_way = 0  # bytes of a large file that is not counted yet
        self.result = BackupResult()

    def _page(self, chunk: SealedChunk) -> None:
        if self._on_page is not None:
            self._on_page(chunk)
        self._batcher.add(chunk)

    def _store(self, plain: memoryview) -> ChunkRef:
        chunk = seal(self._keys.sealing, plain)
        self._batcher.add(chunk)
        return ChunkRef(chunk.pid, chunk.chunk_id, chunk.plain_bytes, chunk.epoch)

    def run(self, plan: BackupPlan, before: ParentPages) -> BackupResult:
        """Walk and store everything; the manifest's pages come last."""
        if not plan.dry_run:
            self._use = ChunkUse.of(before, plan.roots)
        self._parent, self._parent_digests = Parent(before), files_of(before)
        page: ParentPage | None = None
        same: list[Found] = []  # what was found just as the page says it was
        for found in walk(plan.roots, plan.excluder, one_file_system=plan.one_file_system):
            if isinstance(found, Problem):
                self._skip(found.path, found.why)
                continue
            if found.path == b"/":
                continue
            if page is None:
                page = self._parent.page_at(components(found.path))
                if page is not None and self._use.holds_little(page.page):
                    page = None
            if page is not None:
                entries = page.page.raw_entries
                if len(same) < len(entries) and still_is(found, entries[len(same)]):
                    same.append(found)
                    if len(same) == len(entries) and not page.is_last:
                        self._take_page(page, same, plan.dry_run)
                        page, same = None, []
                    continue
                self._take_each([*same, found], plan.dry_run)
                page, same = None, []
                continue
            self._take_each([found], plan.dry_run)
        if page is not None and len(same) == len(page.page.raw_entries):
            self._take_page(page, same, plan.dry_run)
        else:
            self._take_each(same, plan.dry_run)
        if not plan.dry_run:
            self.finish()
        return self.result

    def _take_each(self, all_found: Iterable[Found], dry_run: bool) -> None:
        for found in all_found:
            try:
                self._take(found, self._parent.file_at(components(found.path)), dry_run)
            except SkippedFile as error:
                self._skip(found.path, str(error))
            self._tell(found.path)

    def _take_page(self, page: ParentPage, all_found: Sequence[Found], dry_run: bool) -> None:
        """Everything in the page's range is as it was: the page is, too."""
        self._parent.take_page()
        for found in all_found:
            if stat.S_ISREG(found.stat.st_mode):
                self.result.files += 1
                self.result.total_bytes += found.stat.st_size
        for ref in (page.ref, *page.page.chunks):
            self.result.reused += ref.chunk
        if not dry_run:
            self._queue.add_page(page)
        self._tell(all_found[-1].path)

    def _adopt(self, page: ParentPage) -> None:
        if not self._manifest.adopt(page.ref, page.page):
            for entry in page.page.entries():
                self._manifest.add(entry)

    def finish(self) -> BackupResult:
        """Cut what is left, seal the last page."""
        self._small.flush()
        self._queue.drain()
        self.result.pages = self._manifest.finish()
        self.result.entries = self._manifest.entries
        self._batcher.flush()
        return self.result

    def _skip(self, path: bytes, why: str) -> None:
        self.result.skipped.append(Skipped(path, why))

    def _tell(self, path: bytes, phase: str = "backup") -> None:
        now = self._source.monotonic()
        if self._on_progress is None or now - self._told < _TELL_EVERY_S:
            return
        self._told = now
        done = self.result
        self._on_progress(
            Progress(
                phase,
                files=done.files,
                bytes=done.total_bytes + self._under_way,
                new_bytes=done.read_bytes,
                path=path.decode(errors="replace"),
            )
        )

    def _take(self, found: Found, before: Entry | None, dry_run: bool) -> None:
        left_out: list[str] = []
        entry = describe(found, self._source.now_ns(), left_out)
        if left_out:
            self.result.reduced.append(Skipped(found.path, f"without {', '.join(left_out)}"))
        if entry.kind != "file":
            if not dry_run:
                self._queue.add(Waiting(entry))
            return
        key = (found.stat.st_dev, found.stat.st_ino)
        if entry.linked and key in self._linked:
            first = self._linked[key]
            # Another name of a file that is in already: the same content, whatever was read of it.
            same = Waiting(_like(entry, first.entry), like=first)
            if not dry_run:
                self._queue.add(same)
        elif before is not None and unchanged(entry, before) and not self._use.is_little(before):
            same = Waiting(_like(entry, before, before.extents))
            self._note_reused(before)
            if not dry_run:
                self._queue.add(same)
        else:
            same = self._read(found, entry, dry_run)
        if entry.linked:
            self._linked[key] = same
        self.result.files += 1
        self.result.total_bytes += same.entry.size

    def _note_reused(self, before: Entry) -> None:
        for extent in before.extents:
            if not self.result.reused.endswith(extent.ref.chunk):
                self.result.reused += extent.ref.chunk

    def _read(self, found: Found, entry: Entry, dry_run: bool) -> Waiting:
        self.result.read_files += 1
        if dry_run:
            self.result.read_bytes += entry.size
            return Waiting(entry)
        with FileReader(found.path) as reader:
            if entry.size < SMALL_FILE_BYTES_MAX:
                return self._read_small(reader, found.path, entry)
            return self._read_large(reader, found.path, entry)

    def _remember_parent(self) -> None:
        """Small files of the parent: the same content under another name need not be sent again.

        Read when the first small file has changed: most backups of most machines never need it.
        """
        entries, self._parent_digests = self._parent_digests, ()
        for entry in entries:
            if entry.digest and entry.extents:
                self._digests.remember_stored(entry.digest, entry.size, entry.extents)

    def _settled(self, reader: FileReader, path: bytes, entry: Entry, size: int) -> Entry:
        """The entry as it was really read."""
        if size == entry.size and not reader.changed_since(entry):
            return entry
        self.result.changed.append(path)
        return untrusted(entry, size)

    def _read_small(self, reader: FileReader, path: bytes, entry: Entry) -> Waiting:
        content = reader.whole()
        self.result.read_bytes += len(content)
        entry = self._settled(reader, path, entry, len(content))
        if not content:
            waiting = Waiting(entry)
            self._queue.add(waiting)
            return waiting
        digest = blake3(content, key=self._keys.file_key).digest()
        entry = replace(entry, digest=digest)
        self._remember_parent()
        known = self._digests.find(digest)
        if known is not None and known.entry.size == len(content) and not self._use.is_little(known.entry):
            waiting = Waiting(entry, like=known)
            if known.entry.extents:
                self._note_reused(known.entry)
        else:
            waiting = Waiting(entry, ready=False)
            self._small.add(waiting, content)
            self._digests.remember(digest, waiting)
        self._queue.add(waiting)
        if self._queue.is_long:
            self._small.flush()
            self._queue.drain()
        return waiting

    def _read_large(self, reader: FileReader, path: bytes, entry: Entry) -> Waiting:
        """Cut from its first byte, holes left out."""
        cutter = self._large
        cutter.clear()  # the file before may have ended with an error
        runs, read, size = reader.runs(), [], 0
        waiting_extents: list[Extent] = []
        for start, length in runs:
            got = 0
            while got < length:
                count = reader.read_into(cutter.room()[: length - got], start + got)
                if not count:
                    break
                got += count
                self._under_way += count
                self.result.read_bytes += count
                waiting_extents.extend(self._stored(cutter.take(count)))
                self._tell(path)
            if got:
                read.append((start, got))
            if got < length:
                size = start + got
                break
        else:
            size = reader.stat.st_size
        waiting_extents.extend(self._stored(cutter.finish()))
        self._under_way = 0
        entry = self._settled(reader, path, entry, size)
        waiting = Waiting(replace(entry, holes=holes_of(size, read)).with_extents(tuple(waiting_extents)))
        self._queue.add(waiting)
        if self._queue.is_long:
            self._small.flush()
            self._queue.drain()
        return waiting

    def _stored(self, chunks: Iterator[memoryview]) -> Iterator[Extent]:
        for chunk in chunks:
            yield Extent(self._store(chunk), 0, len(chunk))

    # Streams

    def begin_stream(self) -> StreamCutter:
        """The cutter of a stream that becomes one file."""
        return StreamCutter(self._seed)

    def feed_stream(self, cutter: StreamCutter, portion: bytes) -> list[Extent]:
        """Store what is certain by now."""
        self.result.read_bytes += len(portion)
        return list(self._stored(cutter.feed(portion)))

    def end_stream(self, cutter: StreamCutter, entry: Entry, extents: list[Extent]) -> BackupResult:
        """Store the rest, and the entry."""
        extents.extend(self._stored(cutter.finish()))
        self._queue.add(Waiting(entry.with_extents(tuple(extents))))
        self.result.files, self.result.read_files = 1, 1
        self.result.total_bytes = entry.size
        return self.finish()


def _like(entry: Entry, content: Entry, extents: tuple[Extent, ...] = ()) -> Entry:
    return replace(
        entry,
        extents=extents,
        size=content.size,
        digest=content.digest,
        holes=content.holes,
        trusted=entry.trusted and content.trusted,
    )


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
        return _Producer(keys, hand_over, source, told, on_page).run(plan, before)

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

    producer = _Producer(keys, hand_over, source, None)
    cutter, extents, size = producer.begin_stream(), [], 0
    gathered = bytearray()
    async for portion in portions:
        size += len(portion)
        gathered += portion
        if len(gathered) >= READ_BYTES:
            taken, gathered = bytes(gathered), bytearray()
            extents.extend(await asyncio.to_thread(producer.feed_stream, cutter, taken))
    if gathered:
        extents.extend(await asyncio.to_thread(producer.feed_stream, cutter, bytes(gathered)))
    now_ns = source.now_ns()
    entry = Entry("file", path, mode=0o600, mtime_ns=now_ns, size=size)
    result = await asyncio.to_thread(producer.end_stream, cutter, entry, extents)
    await sink.settle()
    return result
