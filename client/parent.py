"""The parent snapshot beside a running backup: what each file was, and pages that may be taken over whole.

Both go in path order. Where nothing in a page's range has changed, the page itself says all
that is to be said: comparing its raw entries with what lies on the disk costs a tenth of making
every entry anew, sealing the page, and finding out that it is the same.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from holdfast.client.entries import Entry
from holdfast.client.limits import PARENT_PAGES_KEPT_MAX
from holdfast.client.manifest import Page, PageEntry
from holdfast.client.reading import attributes_of, owner_names
from holdfast.client.snapshot_record import ChunkRef
from holdfast.client.walk import Found, components
from holdfast.protocol.errors import HoldfastError

__all__ = ["LoadPages", "Parent", "ParentPage", "ParentPages", "files_of", "still_is"]

LoadPages = Callable[[Sequence[ChunkRef]], list[bytes | HoldfastError]]
"""Plaintexts of pages, one per reference, or why one cannot be had. Blocks."""

_PAGES_AT_ONCE = 8


class ParentPages:
    """The parent's pages in order, as often as wanted; the first ones stay opened. Blocks.

    A page that cannot be had, or is malformed, is None.
    """

    def __init__(self, refs: Sequence[ChunkRef], load: LoadPages) -> None:
        self._refs = refs
        self._load = load
        self._kept: list[Page | None] = []

    def __iter__(self) -> Iterator[tuple[ChunkRef, Page | None]]:
        kept = list(self._kept)
        yield from zip(self._refs, kept, strict=False)
        for start in range(len(kept), len(self._refs), _PAGES_AT_ONCE):
            portion = self._refs[start : start + _PAGES_AT_ONCE]
            opened = [_opened(plain) for plain in self._load(portion)]
            if start == len(self._kept) and start < PARENT_PAGES_KEPT_MAX:
                self._kept.extend(opened)
            yield from zip(portion, opened, strict=True)


def _opened(plain: bytes | HoldfastError) -> Page | None:
    try:
        return None if isinstance(plain, HoldfastError) else Page(plain)
    except HoldfastError:
        return None


class ParentPage:
    """A page, and whether it may be taken over as it is.

    Attributes:
        is_whole: it names no file twice (no hard links, no file that goes on in another page), so what it
            says of each does not depend on other pages.
        is_last: it ended with the snapshot, not where its entries told it to.
    """

    __slots__ = ("is_last", "is_whole", "page", "ref")

    def __init__(self, ref: ChunkRef, page: Page, is_last: bool, goes_on: bool) -> None:
        self.ref = ref
        self.page = page
        self.is_last = is_last
        self.is_whole = (
            bool(page.raw_entries)
            and not goes_on
            and not any(raw.linked or raw.kind == "more" for raw in page.raw_entries)
        )


def still_is(found: Found, raw: PageEntry) -> bool:
    """Is what was found the very thing that the entry tells of, in everything that an entry tells?

    True means that the next backup would write this entry again, byte for byte.
    """
    told = found.stat
    mode = told.st_mode
    if found.path[1:] != raw.path or stat.S_IMODE(mode) != raw.mode or told.st_mtime_ns != raw.mtime_ns:
        return False
    if (told.st_uid, told.st_gid) != (raw.uid, raw.gid):
        return False
    if owner_names(raw.uid, raw.gid) != (raw.user, raw.group):
        return False
    if raw.kind == "file":
        if (
            not stat.S_ISREG(mode)
            or not raw.trusted
            or (told.st_size, told.st_ctime_ns, told.st_ino) != (raw.size, raw.ctime_ns, raw.inode)
            or told.st_nlink > 1
        ):
            return False
    elif raw.kind == "symlink":
        if not stat.S_ISLNK(mode) or not _leads_to(found.path, raw.target):
            return False
    elif not (stat.S_ISDIR(mode) if raw.kind == "dir" else raw.kind == "fifo" and stat.S_ISFIFO(mode)):
        return False
    left_out: list[str] = []
    return attributes_of(found.path, left_out) == tuple(raw.xattrs) and not left_out


def _leads_to(path: bytes, target: bytes) -> bool:
    try:
        return os.readlink(path) == target
    except OSError:
        return False


class Parent:
    """Goes through the parent's pages once, as the walk does. For the worker thread.

    Asked in path order. A page that cannot be read, or breaks a rule, is passed over: what it named is
    read again.
    """

    def __init__(self, pages: Iterable[tuple[ChunkRef, Page | None]]) -> None:
        self._pages = iter(pages)
        self._following = next(self._pages, None)
        self._files: deque[tuple[tuple[bytes, ...], Entry]] = deque()
        self._ahead: ParentPage | None = None
        self._ahead_from: tuple[bytes, ...] = ()
        self._turn()

    def _turn(self) -> None:
        """Look at the next page that can be read, without entering it."""
        self._ahead = None
        while self._ahead is None and self._following is not None:
            (ref, page), self._following = self._following, next(self._pages, None)
            behind = self._following[1] if self._following is not None else None
            if page is not None and page.raw_entries:
                goes_on = behind is not None and _begins_within(behind)
                self._ahead = ParentPage(ref, page, self._following is None, goes_on)
                self._ahead_from = components(page.raw_entries[0].path)

    def page_at(self, here: tuple[bytes, ...]) -> ParentPage | None:
        """The page that begins at this very path, if it may be taken over."""
        while self._ahead is not None and self._ahead_from < here:
            self._enter(self._ahead)
        if self._ahead is not None and self._ahead_from == here and self._ahead.is_whole:
            return self._ahead
        return None

    def take_page(self) -> None:
        """It was taken over: go on behind it."""
        self._files.clear()
        self._turn()

    def file_at(self, here: tuple[bytes, ...]) -> Entry | None:
        """What the parent says of the file at this path; what sorts before it is passed over for good."""
        while self._ahead is not None and self._ahead_from <= here:
            self._enter(self._ahead)
        while self._files and self._files[0][0] < here:
            self._files.popleft()
        if self._files and self._files[0][0] == here:
            return self._files[0][1]
        return None

    def rest(self) -> Iterator[Entry]:
        """All files from the present page on, in order; the parent is then at its end."""
        while True:
            yield from [entry for _, entry in self._files]
            self._files.clear()
            if self._ahead is None:
                return
            self._enter(self._ahead)

    def _enter(self, entered: ParentPage) -> None:
        """Make the files of a page known, with all their extents; they may go on in the pages behind it."""
        page = entered.page
        self._turn()
        first = page.raw_entries[0]
        try:
            entries = list(page.entries(first.path if first.kind == "more" else b""))
        except HoldfastError:
            return
        for entry in entries:
            if entry.kind == "file":
                self._files.append((components(entry.path), entry))
            elif entry.kind == "more" and self._files and self._files[-1][1].path == entry.path:
                here, held = self._files.pop()
                self._files.append((here, held.with_extents(held.extents + entry.extents)))
        while self._ahead is not None and self._files and _begins_within(self._ahead.page):
            self._enter(self._ahead)


def _begins_within(page: Page) -> bool:
    """Does it begin in the middle of a file that the page before it began?"""
    return bool(page.raw_entries) and page.raw_entries[0].kind == "more"


def files_of(pages: Iterable[tuple[ChunkRef, Page | None]]) -> Iterator[Entry]:
    """All files of a snapshot in order, with all their extents, as far as its pages can be read."""
    return Parent(pages).rest()
