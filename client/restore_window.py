"""One window of a restore: what to do, in order, and the thread that does it.

The planner (client/restore.py) fills windows with actions; when a window's chunks
are there, :class:`WindowWriter` carries it out: contents first, then one syncfs for
all files finished in it, then the renames. While the disk syncs one window, the next
one's contents are written. Only this side touches the target.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeAlias

from blake3 import blake3
from msgspec import Struct, field

from holdfast.client.entries import Entry, Extent
from holdfast.client.placing import Target, no_room_or
from holdfast.client.snapshot_record import ChunkRef
from holdfast.protocol.errors import Conflict, HoldfastError, IntegrityFailure, NoRoom

__all__ = [
    "Action",
    "Content",
    "FileJob",
    "FinishFolder",
    "Link",
    "Make",
    "Plain",
    "RestoreReport",
    "Window",
    "WindowWriter",
]

Parts = tuple[bytes, ...]
Plain = bytes | memoryview
Contents = Mapping[ChunkRef, Plain | HoldfastError]


_EntryPath: TypeAlias = bytes


class RestoreReport(Struct):
    """What a restore did.

    Attributes:
        files, bytes: names of files, as a backup counts them: each of several hard links.
        links: symbolic links; ``pipes``: named pipes.
        failed: (path, error) of every entry that could not be restored.
        unreadable: (after, before) path ranges whose manifest page could not be read.
        verified_bytes: bytes read again and compared, with ``verify``.
    """

    files: int = 0
    bytes: int = 0
    folders: int = 0
    links: int = 0
    pipes: int = 0
    skipped_existing: int = 0
    owners_skipped: int = 0
    modes_reduced: int = 0
    xattrs_skipped: int = 0
    verified_bytes: int = 0
    failed: list[tuple[_EntryPath, HoldfastError]] = field(default_factory=list)
    unreadable: list[tuple[_EntryPath, _EntryPath, HoldfastError]] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Is everything that was asked for there?"""
        return not self.failed and not self.unreadable


class FileJob(Struct, eq=False):
    """One file being written; ``position`` counts bytes of content (holes left out)."""

    entry: Entry
    parts: Parts
    fd: int = -1
    name: bytes = b""
    position: int = 0
    holes_passed: int = 0
    hole_bytes: int = 0
    skipped: bool = False
    error: HoldfastError | None = None
    digests: list[tuple[int, int, bytes]] = field(default_factory=list)

    def places(self, length: int) -> Iterator[tuple[int, int]]:
        """(file offset, length) of the next bytes of content, stepping over holes."""
        offset = self.position + self.hole_bytes
        while length:
            run = length
            if self.holes_passed < len(self.entry.holes):
                start, hole = self.entry.holes[self.holes_passed]
                if start <= offset:
                    self.holes_passed += 1
                    self.hole_bytes += hole
                    offset += hole
                    continue
                run = min(length, start - offset)
            yield offset, run
            offset, length = offset + run, length - run


class Content(Struct, frozen=True):
    """Some of a file's extents; ``last``: the file is complete after them."""

    job: FileJob
    extents: tuple[Extent, ...]
    last: bool


class Make(Struct, frozen=True):
    """A folder, symbolic link or named pipe."""

    entry: Entry
    parts: Parts


class Link(Struct, frozen=True):
    """Another name of a file."""

    entry: Entry
    parts: Parts
    first: FileJob


class FinishFolder(Struct, frozen=True):
    """Everything in this folder has been told."""

    entry: Entry
    parts: Parts


Action = Content | Make | Link | FinishFolder


class Window(Struct):
    """Actions in order, and the chunks they need."""

    actions: list[Action] = field(default_factory=list)
    refs: dict[ChunkRef, None] = field(default_factory=dict)
    plain_bytes: int = 0

    def need(self, ref: ChunkRef) -> None:
        """Count a chunk once."""
        if ref not in self.refs:
            self.refs[ref] = None
            self.plain_bytes += ref.plain_bytes


class _Unplaced(Struct):
    """A window whose contents are written: files that wait for their names, and what comes after those."""

    done: list[FileJob]
    after: list[Link | FinishFolder]
    synced: Future[None] | None


class WindowWriter:
    """Carries windows out, in order, in one thread at a time; another one only waits for the disk.

    Args:
        verify: read every file again after it was placed, and compare.

    Attributes:
        written_bytes: content written so far, of finished and unfinished files.
    """

    def __init__(self, target: Target, report: RestoreReport, *, verify: bool) -> None:
        self._target = target
        self._report = report
        self._verify = verify
        self._open: set[FileJob] = set()
        self._disk = ThreadPoolExecutor(1, "restore sync")
        self._unplaced: _Unplaced | None = None
        self.written_bytes = 0

    def carry_out(self, window: Window, contents: Contents) -> None:
        """Write all of a window, and place the one before; :meth:`complete` places the last.

        Raises:
            NoRoom: the disk is full; nothing half-written is left.
        """
        try:
            done, after = self._write_all(window, contents)
        finally:
            self.complete()
        # All of it is written before its sync begins. What is written meanwhile waits for the next sync.
        synced = self._disk.submit(self._target.sync_all) if done else None
        self._unplaced = _Unplaced(done, after, synced)
        if self._verify:
            self.complete()  # files stay open until they are read again: not those of two windows

    def _write_all(
        self, window: Window, contents: Contents
    ) -> tuple[list[FileJob], list[Link | FinishFolder]]:
        """Contents, folders and links; gives the files that are complete, and what is to do behind them."""
        done: list[FileJob] = []
        after: list[Link | FinishFolder] = []
        for action in window.actions:
            if isinstance(action, Link | FinishFolder):
                after.append(action)
                continue
            try:
                if isinstance(action, Make):
                    self._make(action)
                elif self._write(action, contents):
                    done.append(action.job)
            except OSError as error:
                self._failed(action, no_room_or(error, self._target.path))
            except NoRoom:
                raise
            except HoldfastError as error:
                self._failed(action, error)
        return done, after

    def complete(self) -> None:
        """Place what is written, once it is durable.

        Raises:
            NoRoom: the disk is full; nothing half-written is left.
        """
        if self._unplaced is None:
            return
        unplaced, self._unplaced = self._unplaced, None
        if unplaced.synced is not None:
            unplaced.synced.result()
        self._place(unplaced.done)
        for action in unplaced.after:
            self._finish(action)

    def _failed(self, action: Make | Content, error: HoldfastError) -> None:
        if isinstance(action, Content):
            self._drop(action.job)
            if action.job.error is None:
                action.job.error = error.bare()
                self._report.failed.append((action.job.entry.path, error))
        else:
            self._report.failed.append((action.entry.path, error.bare()))
        if isinstance(error, NoRoom):
            raise error

    def _make(self, action: Make) -> None:
        entry, parts = action.entry, action.parts
        if entry.kind == "dir":
            self._target.folder(parts)
            self._report.folders += 1
        elif not self._target.wants(parts, entry):
            self._report.skipped_existing += 1
        elif entry.kind == "symlink":
            self._target.symlink(parts, entry)
            self._report.links += 1
        else:
            self._target.fifo(parts, entry)
            self._report.pipes += 1

    def _write(self, action: Content, contents: Contents) -> bool:
        """Write some of a file; True when it is complete and waits for its rename."""
        job = action.job
        if job.error is not None or job.skipped:
            return False
        if job.fd < 0:
            # The planner has looked; where the kernel lets nothing be replaced, once is enough.
            if not self._target.never_replaces and not self._target.wants(job.parts, job.entry):
                job.skipped = True
                self._report.skipped_existing += 1
                return False
            job.fd, job.name = self._target.temporary(job.parts)
            self._open.add(job)
        began = job.position
        for extent in action.extents:
            plain = contents[extent.ref]
            if isinstance(plain, HoldfastError):
                raise plain
            self._write_extent(job, memoryview(plain)[extent.offset : extent.offset + extent.length])
        if not action.last:
            self._target.write_back(job.fd, began, job.position - began)
            return False
        written = job.position + sum(length for _, length in job.entry.holes)
        if written != job.entry.size:
            raise IntegrityFailure(
                f"the manifest's extents give {written} bytes for a file of {job.entry.size}",
                do="The file was not restored. Run 'holdfast check' on this snapshot.",
            )
        if job.position != job.entry.size:
            os.ftruncate(job.fd, job.entry.size)  # it ends with a hole, or is one
        self._target.describe(job.fd, job.entry)
        if not self._verify:
            os.close(job.fd)
            job.fd = -2
        return True

    def _write_extent(self, job: FileJob, view: memoryview) -> None:
        at = 0
        for offset, length in job.places(len(view)):
            portion = view[at : at + length]
            at += length
            if self._verify:
                job.digests.append((offset, length, blake3(portion).digest()))
            while len(portion):
                count = os.pwrite(job.fd, portion, offset)
                portion, offset = portion[count:], offset + count
        job.position += len(view)
        self.written_bytes += len(view)

    def _place(self, done: list[FileJob]) -> None:
        """Their names, for files that are durable."""
        for job in done:
            try:
                if self._verify:
                    self._read_again(job)
                job.skipped = not self._target.rename(job.parts, job.name, job.entry)
            except OSError as error:
                job.error = no_room_or(error, self._target.path)
            except HoldfastError as error:
                job.error = error.bare()
            self._open.discard(job)
            if job.error is not None:
                self._report.failed.append((job.entry.path, job.error))
                self._drop(job)
            elif job.skipped:
                self._report.skipped_existing += 1
                self._drop(job)
            else:
                self._report.files += 1
                self._report.bytes += job.entry.size
            if job.fd >= 0:
                os.close(job.fd)
            job.fd = -2

    def _read_again(self, job: FileJob) -> None:
        os.posix_fadvise(job.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        for offset, length, digest in job.digests:
            hasher = blake3()
            while length:
                portion = os.pread(job.fd, min(length, 1 << 20), offset)
                if not portion:
                    break
                hasher.update(portion)
                offset, length = offset + len(portion), length - len(portion)
            if length or hasher.digest() != digest:
                raise IntegrityFailure("the disk gave back other bytes than were written to it")
        self._report.verified_bytes += job.position

    def _finish(self, action: Link | FinishFolder) -> None:
        try:
            if isinstance(action, FinishFolder):
                self._target.finish_folder(action.parts, action.entry)
            elif action.first.error is not None:
                self._report.failed.append((action.entry.path, action.first.error))
            elif action.first.skipped:
                raise Conflict(
                    "its other name was taken by somebody else while this restore ran",
                    do="Move that file aside and run the restore again.",
                )
            elif not self._target.wants(action.parts, action.entry):
                self._report.skipped_existing += 1
            else:
                self._target.hard_link(action.parts, action.first.parts)
                self._report.files += 1
                self._report.bytes += action.entry.size
        except OSError as error:
            self._report.failed.append((action.entry.path, no_room_or(error, self._target.path)))
        except HoldfastError as error:
            self._report.failed.append((action.entry.path, error.bare()))

    def _drop(self, job: FileJob) -> None:
        """Leave nothing half-written."""
        self._open.discard(job)
        if job.fd >= 0:
            os.close(job.fd)
        job.fd = -2
        if job.name:
            self._target.discard(job.parts, job.name)

    def abandon(self) -> None:
        """Place what is written, remove every file that is not finished. Nothing is under way afterwards."""
        with suppress(HoldfastError):  # whoever gives up has the first error to tell
            self.complete()
        self._disk.shutdown()
        for job in list(self._open):
            self._drop(job)
