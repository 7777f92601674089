"""Small files run together: one stream in path order, cut like any other.

Chunks then stay near a mebibyte whatever the file sizes; a file gets its extents
when the chunks that hold it are cut. Files wait in a queue until then, and their
entries go to the manifest in order.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from holdfast.client.cutting import StreamCutter
from holdfast.client.entries import Entry, Extent
from holdfast.client.limits import DIGESTS_REMEMBERED_MAX, PENDING_ENTRIES_MAX
from holdfast.client.parent import ParentPage
from holdfast.client.snapshot_record import ChunkRef

__all__ = ["DigestMemory", "EntryQueue", "SmallFileStream", "Waiting"]


class Waiting:
    """An entry on its way to the manifest: ready when its extents are known."""

    __slots__ = ("_extents", "_like", "entry", "ready")

    def __init__(self, entry: Entry, *, ready: bool = True, like: Waiting | None = None) -> None:
        self.entry = entry
        self.ready = ready
        self._like = like
        self._extents: list[Extent] = list(entry.extents)

    def add(self, extent: Extent) -> None:
        """The next extent."""
        self._extents.append(extent)

    @property
    def is_ready(self) -> bool:
        """Are all extents known?"""
        return self._like.is_ready if self._like is not None else self.ready

    def extents(self) -> tuple[Extent, ...]:
        """Its extents (or those of the equal file it shares them with)."""
        return self._like.extents() if self._like is not None else tuple(self._extents)


class EntryQueue:
    """Hands entries on in the order they came, as soon as the first is ready.

    Args:
        emit: takes each entry. emit_page: takes each page that is taken over whole.
    """

    def __init__(self, emit: Callable[[Entry], None], emit_page: Callable[[ParentPage], None]) -> None:
        self._emit = emit
        self._emit_page = emit_page
        self._queue: deque[Waiting | ParentPage] = deque()
        self._entries = 0

    def add(self, waiting: Waiting) -> None:
        """The next entry in path order."""
        self._queue.append(waiting)
        self._entries += 1
        self.drain()

    def add_page(self, page: ParentPage) -> None:
        """The next entries, all of a page."""
        self._queue.append(page)
        self._entries += len(page.page.raw_entries)
        self.drain()

    def drain(self) -> None:
        """Hand on what is ready."""
        while self._queue:
            first = self._queue[0]
            if isinstance(first, ParentPage):
                self._entries -= len(first.page.raw_entries)
                self._emit_page(first)
            elif first.is_ready:
                self._entries -= 1
                self._emit(first.entry.with_extents(first.extents()))
            else:
                return
            self._queue.popleft()

    @property
    def is_long(self) -> bool:
        """Too many wait: the stream should be cut early."""
        return self._entries >= PENDING_ENTRIES_MAX


class SmallFileStream:
    """The concatenation of small files, cut as it grows.

    Args:
        seed: the cutter's seed.
        store: seals a chunk and gives its reference.
    """

    def __init__(self, seed: int, store: Callable[[memoryview], ChunkRef]) -> None:
        self._cutter = StreamCutter(seed)
        self._store = store
        self._cut_to = 0
        self._end = 0
        self._files: deque[tuple[Waiting, int, int]] = deque()

    def room(self) -> memoryview:
        """Where to read the next file; then :meth:`take` it, or leave it: the next gets the same room."""
        return self._cutter.room()

    def take(self, waiting: Waiting, count: int) -> None:
        """So many bytes of the room are a file; ``waiting`` becomes ready when its last chunk is cut."""
        self._files.append((waiting, self._end, self._end + count))
        self._end += count
        self._cut(self._cutter.take(count))

    def flush(self) -> None:
        """Cut everything that is there: all files are ready afterwards."""
        self._cut(self._cutter.finish())

    def _cut(self, chunks: Iterable[memoryview]) -> None:
        for chunk in chunks:
            ref = self._store(chunk)
            start, end = self._cut_to, self._cut_to + len(chunk)
            self._cut_to = end
            while self._files:
                waiting, first, last = self._files[0]
                if first >= end:
                    break
                begin = max(first, start)
                waiting.add(Extent(ref, begin - start, min(last, end) - begin))
                if last > end:
                    break
                waiting.ready = True
                self._files.popleft()


class DigestMemory:
    """Which content was seen where: equal small files share extents. Bounded, oldest forgotten.

    A file whose chunk is not cut yet is remembered as it waits; afterwards size and extents are enough.
    """

    def __init__(self) -> None:
        self._waiting: dict[bytes, Waiting] = {}
        self._stored: OrderedDict[bytes, tuple[int, tuple[Extent, ...], bool]] = OrderedDict()

    def find(self, digest: bytes) -> Waiting | None:
        """A file with this content, if one is remembered; its entry has extents if it is the parent's."""
        waiting = self._waiting.get(digest)
        if waiting is not None:
            return waiting
        stored = self._stored.get(digest)
        if stored is None:
            return None
        self._stored.move_to_end(digest)
        size, extents, is_parents = stored
        entry = Entry("file", b"", size=size, digest=digest, extents=extents if is_parents else ())
        found = Waiting(entry)
        for extent in () if is_parents else extents:
            found.add(extent)
        return found

    def remember(self, digest: bytes, waiting: Waiting) -> None:
        """This file of the present backup has this content."""
        self._waiting[digest] = waiting
        if len(self._waiting) > 2 * PENDING_ENTRIES_MAX:
            self._settle()

    def remember_stored(self, digest: bytes, size: int, extents: tuple[Extent, ...]) -> None:
        """A file of the parent snapshot has this content."""
        self._keep(digest, (size, extents, True))

    def _settle(self) -> None:
        """What is cut by now needs a few words only; no more than PENDING_ENTRIES_MAX are not."""
        ready = [(digest, waiting) for digest, waiting in self._waiting.items() if waiting.is_ready]
        for digest, waiting in ready:
            del self._waiting[digest]
            self._keep(digest, (waiting.entry.size, waiting.extents(), False))

    def _keep(self, digest: bytes, stored: tuple[int, tuple[Extent, ...], bool]) -> None:
        self._stored[digest] = stored
        if len(self._stored) > DIGESTS_REMEMBERED_MAX:
            self._stored.popitem(last=False)
