"""The manifest: self-contained pages of entries, each sealed and stored like any chunk.

    page    = canonical msgpack [version, chunks: [[pid, chunk id, plain bytes, epoch]...], entries: [...]]
    entry   = [kind, path, mode, uid, gid, user, group, mtime_ns, ctime_ns, inode, device, size, target,
               linked, xattrs, digest, holes, trusted, extents: [[chunk index, offset, length]...]]

Entries are sorted by path components over all pages. A page ends after an entry
whose keyed path hash hits (so that consecutive snapshots share most pages), or
when it is full. A lost page loses its path range only, and its neighbours tell
which (docs/FORMAT.md, "Manifest").
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Literal

from blake3 import blake3
from msgspec import Struct

from holdfast.client.entries import Entry, Extent, check_entry, check_path
from holdfast.client.identity import AccountKeys
from holdfast.client.limits import (
    HOLE_BYTES,
    PAGE_BOUNDARY_ONE_IN,
    PAGE_BYTES_MAX,
    PAGE_BYTES_MIN,
    PAGE_EXTENTS_MAX,
    TIME_NS_MAX,
    TIME_NS_MIN,
)
from holdfast.client.sealing import SealedChunk, SealingKeys, open_chunk, seal
from holdfast.client.snapshot_record import ChunkRef
from holdfast.client.walk import components
from holdfast.protocol.codec import Record, decode, encode
from holdfast.protocol.errors import BadRequest, HoldfastError, IntegrityFailure

__all__ = [
    "ManifestWriter",
    "Page",
    "PageEntry",
    "PageLoader",
    "UnreadablePage",
    "open_page",
    "page_chunks",
    "read_manifest",
]

PageLoader = Callable[[Sequence[ChunkRef]], Awaitable[list[bytes | HoldfastError]]]
"""Plaintexts of pages, one per reference, or why one cannot be had."""

_PAGES_AT_ONCE = 8
_ENTRY_BYTES = 120


class PageEntry(Record):
    """One entry as it lies in a page; its extents index the page's chunk table."""

    kind: Literal["file", "dir", "symlink", "fifo", "more"]
    path: bytes
    mode: int
    uid: int
    gid: int
    user: str
    group: str
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    size: int
    target: bytes
    linked: bool
    xattrs: list[tuple[bytes, bytes]]
    digest: bytes
    holes: list[tuple[int, int]]
    trusted: bool
    extents: list[tuple[int, int, int]]


class _Page(Record):
    version: Literal[1]
    chunks: list[ChunkRef]
    entries: list[PageEntry]


class UnreadablePage(Struct, frozen=True):
    """A page that cannot be read now: everything between two paths is unknown.

    ``after`` and ``before`` are the last path known before it and the first behind it (empty: none).
    """

    error: HoldfastError
    after: bytes
    before: bytes


class ManifestWriter:
    """Collects entries in order and seals pages.

    Args:
        keys: the account's present keys.
        emit: takes each sealed page, in order.
    """

    def __init__(self, keys: AccountKeys, emit: Callable[[SealedChunk], None]) -> None:
        self._keys = keys
        self._emit = emit
        self._entries: list[PageEntry] = []
        self._table: dict[ChunkRef, int] = {}
        self._size = 0
        self._extents = 0
        self.pages: list[ChunkRef] = []
        self.entries = 0

    def add(self, entry: Entry) -> None:
        """The next entry in order of path components."""
        extents = entry.extents
        self._put(entry, extents[:PAGE_EXTENTS_MAX])
        for start in range(PAGE_EXTENTS_MAX, len(extents), PAGE_EXTENTS_MAX):
            self._flush()
            self._put(Entry("more", entry.path), extents[start : start + PAGE_EXTENTS_MAX])
        full = self._size >= PAGE_BYTES_MAX or self._extents >= PAGE_EXTENTS_MAX
        if full or (self._size >= PAGE_BYTES_MIN and self._is_boundary(entry.path)):
            self._flush()
        self.entries += 1

    def _is_boundary(self, path: bytes) -> bool:
        mark = blake3(path, key=self._keys.page_key).digest(length=8)
        return int.from_bytes(mark, "big") % PAGE_BOUNDARY_ONE_IN == 0

    def _put(self, entry: Entry, extents: Sequence[Extent]) -> None:
        indexed = []
        for extent in extents:
            index = self._table.setdefault(extent.ref, len(self._table))
            indexed.append((index, extent.offset, extent.length))
        self._entries.append(
            PageEntry(
                entry.kind,
                entry.path,
                entry.mode,
                entry.uid,
                entry.gid,
                _unicode(entry.user),
                _unicode(entry.group),
                _time_ns(entry.mtime_ns),
                _time_ns(entry.ctime_ns),
                entry.inode,
                entry.device,
                entry.size,
                entry.target,
                entry.linked,
                list(entry.xattrs),
                entry.digest,
                list(entry.holes),
                entry.trusted,
                indexed,
            )
        )
        self._size += _ENTRY_BYTES + len(entry.path) + len(entry.target) + 12 * len(indexed)
        if entry.xattrs:
            self._size += sum(len(name) + len(value) for name, value in entry.xattrs)
        self._size += HOLE_BYTES * len(entry.holes)
        self._extents += len(indexed)

    def _flush(self) -> None:
        if not self._entries:
            return
        chunk = seal(self._keys.sealing, encode(_Page(1, list(self._table), self._entries)))
        self._emit(chunk)
        self.pages.append(ChunkRef(chunk.pid, chunk.chunk_id, chunk.plain_bytes, chunk.epoch))
        self._entries, self._table, self._size, self._extents = [], {}, 0, 0

    def adopt(self, ref: ChunkRef, page: Page) -> bool:
        """Take a page of another manifest over as it is: the same entries would give the same page.

        Returns:
            False when entries before it wait for a page of their own: then its entries must be added.
        """
        if self._entries:
            return False
        self.pages.append(ref)
        self.entries += len(page.raw_entries)
        return True

    def finish(self) -> list[ChunkRef]:
        """Seal what is left; all pages in order."""
        self._flush()
        return self.pages


def _time_ns(time_ns: int) -> int:
    """A file's time as a page can hold it: some filesystems keep times of any year."""
    if TIME_NS_MIN <= time_ns <= TIME_NS_MAX:
        return time_ns
    return TIME_NS_MIN if time_ns < TIME_NS_MIN else TIME_NS_MAX


@lru_cache(maxsize=256)
def _unicode(name: str) -> str:
    """An owner's name as a page can hold it: the system's list of users may hold any bytes."""
    return name.encode(errors="replace").decode()


def open_page(keys: Mapping[int, SealingKeys], ref: ChunkRef, sealed: bytes | bytearray) -> bytes:
    """A page's plaintext; raises IntegrityFailure (see open_chunk)."""
    if ref.epoch not in keys:
        raise IntegrityFailure(f"there is no key for epoch {ref.epoch}")
    return bytes(
        open_chunk(keys[ref.epoch], sealed, chunk_id=ref.chunk, pid=ref.pid, plain_bytes=ref.plain_bytes)
    )


class Page:
    """A page opened: its raw entries, and what they amount to.

    Raises:
        IntegrityFailure: it is malformed, or of a version not known here.
    """

    __slots__ = ("_raw",)

    def __init__(self, plain: bytes) -> None:
        try:
            self._raw = decode(plain, _Page)
        except BadRequest as error:
            raise IntegrityFailure(
                "a manifest page is malformed, or was written by a newer program", why=error.why
            ) from error

    @property
    def chunks(self) -> list[ChunkRef]:
        """Every chunk that its entries may name: its chunk table."""
        return self._raw.chunks

    @property
    def raw_entries(self) -> list[PageEntry]:
        """The entries as they lie in the page; nothing but their types was checked."""
        return self._raw.entries

    def entries(self, after: bytes = b"") -> Iterator[Entry]:
        """The entries, every bound and the order checked.

        Args:
            after: the last path of the page before.

        Raises:
            IntegrityFailure: the page breaks a rule; no entry behind the first break is given.
        """
        last = after.split(b"/") if after else []
        in_file = True  # before the page: then the path alone tells
        for raw in self._raw.entries:
            here = check_path(raw.path)
            more = raw.kind == "more"
            if more and (here != last or not in_file):
                raise IntegrityFailure("a manifest page goes on with a file that was not begun")
            if not more and not here > last:
                raise IntegrityFailure("a manifest's entries are not in order", why=f"at {raw.path[:80]!r}")
            last, in_file = here, more or raw.kind == "file"
            entry = self._entry(raw)
            check_entry(entry)
            yield entry

    def _entry(self, raw: PageEntry) -> Entry:
        return Entry(
            raw.kind,
            raw.path,
            raw.mode,
            raw.uid,
            raw.gid,
            raw.user,
            raw.group,
            raw.mtime_ns,
            raw.ctime_ns,
            raw.inode,
            raw.device,
            raw.size,
            raw.target,
            raw.linked,
            tuple(raw.xattrs),
            raw.digest,
            _holes(raw) if raw.holes else (),
            raw.trusted,
            tuple([self._extent(raw, *extent) for extent in raw.extents]),
        )

    def _extent(self, raw: PageEntry, index: int, offset: int, length: int) -> Extent:
        if not 0 <= index < len(self._raw.chunks) or offset < 0 or length < 1:
            raise IntegrityFailure(f"an extent of {raw.path[:80]!r} is out of range")
        ref = self._raw.chunks[index]
        if offset + length > ref.plain_bytes:
            raise IntegrityFailure(f"an extent of {raw.path[:80]!r} reaches beyond its chunk")
        return Extent(ref, offset, length)


def page_chunks(plain: bytes) -> list[ChunkRef]:
    """Every chunk that a page's entries may name: its chunk table.

    Raises:
        IntegrityFailure: the page is malformed, or of a version not known here.
    """
    return Page(plain).chunks


def _holes(raw: PageEntry) -> tuple[tuple[int, int], ...]:
    end = 0
    for offset, length in raw.holes:
        if offset < end or length < 1 or offset + length > raw.size:
            raise IntegrityFailure(f"the holes of {raw.path[:80]!r} do not fit its size")
        end = offset + length
    return tuple(raw.holes)


async def read_manifest(
    pages: Sequence[ChunkRef], load: PageLoader, *, skip_unreadable: bool = False
) -> AsyncIterator[Entry | UnreadablePage]:
    """All entries in order, a few pages in memory at a time.

    Args:
        skip_unreadable: give an UnreadablePage where a page cannot be had, instead of raising.

    Raises:
        HoldfastError: a page cannot be had or breaks a rule.
    """
    after = b""
    broken: HoldfastError | None = None
    for start in range(0, len(pages), _PAGES_AT_ONCE):
        for plain in await load(pages[start : start + _PAGES_AT_ONCE]):
            entries: list[Entry] = []
            try:
                if isinstance(plain, HoldfastError):
                    raise plain
                page = Page(plain)
                # A page behind a gap may go on with a file that began in the gap.
                entries = list(page.entries(_before_first(page, after) if broken else after))
            except HoldfastError as error:
                if not skip_unreadable:
                    raise
                broken = broken or error.bare()
                continue
            if broken is not None:
                yield UnreadablePage(broken, after, entries[0].path if entries else b"")
                broken = None
            for entry in entries:
                yield entry
            if entries:
                after = entries[-1].path
    if broken is not None:
        yield UnreadablePage(broken, after, b"")


def _before_first(page: Page, after: bytes) -> bytes:
    """What a page behind a gap follows: the file it goes on with, or else the last path before the gap."""
    first = page.raw_entries[0] if page.raw_entries else None
    if first is None or first.kind != "more" or components(first.path) < components(after):
        return after
    return first.path
