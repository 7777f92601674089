"""The side of a backup that reads and seals: walk, read what changed, cut, seal, collect in batches.

In path order, in one worker thread. Unchanged files (size, times, inode against the parent snapshot)
are not read, unless they lie in a chunk that is hardly used any more; equal small files share what
is stored already.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from blake3 import blake3
from msgspec.structs import replace

from holdfast.client.backup_result import BackupPlan, BackupResult, Skipped
from holdfast.client.cutting import StreamCutter, cut_seed
from holdfast.client.entries import Entry, Extent
from holdfast.client.identity import AccountKeys
from holdfast.client.limits import (
    BATCH_CHUNKS_MAX,
    BATCH_FIRST_SEALED_BYTES,
    BATCH_SEALED_BYTES,
    SMALL_FILE_BYTES_MAX,
)
from holdfast.client.manifest import ManifestWriter
from holdfast.client.parent import Parent, ParentPage, ParentPages, files_of, still_is
from holdfast.client.progress import OnProgress, Progress
from holdfast.client.reading import FileReader, SkippedFile, describe, holes_of, unchanged, untrusted
from holdfast.client.repacking import ChunkUse
from holdfast.client.sealing import SealedChunk, seal
from holdfast.client.small_files import DigestMemory, EntryQueue, SmallFileStream, Waiting
from holdfast.client.snapshot_record import ChunkRef
from holdfast.client.walk import Found, Problem, components, walk
from holdfast.protocol.clock import Source

__all__ = ["Producer"]

_TELL_EVERY_S = 0.1


class _Batcher:
    """Collects sealed chunks and hands them over a batch at a time.

    The first batch is small and each may be twice the one before, up to the most: the servers have
    something to do while a small backup is still being read, and a large one has few requests.
    """

    def __init__(self, hand_over: Callable[[list[SealedChunk]], None]) -> None:
        self._hand_over = hand_over
        self._batch: list[SealedChunk] = []
        self._size = 0
        self._most = BATCH_FIRST_SEALED_BYTES

    def add(self, chunk: SealedChunk) -> None:
        self._batch.append(chunk)
        self._size += len(chunk.sealed)
        if self._size >= self._most or len(self._batch) >= BATCH_CHUNKS_MAX:
            self.flush()
            self._most = min(2 * self._most, BATCH_SEALED_BYTES)

    def flush(self) -> None:
        if self._batch:
            batch, self._batch, self._size = self._batch, [], 0
            self._hand_over(batch)


class Producer:
    """Walks, reads, cuts and seals; runs in one worker thread.

    Args:
        hand_over: takes each batch of sealed chunks; waits while there is no room for it.
        on_page: told of each page of the manifest, which is in a batch, too.
    """

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
            if max(entry.size, reader.stat.st_size) < SMALL_FILE_BYTES_MAX:
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
        # Read where it will be cut: what turns out to be known is not taken, and costs no copy either.
        content = reader.whole_into(self._small.room())
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
            self._small.take(waiting, len(content))
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
