"""What a disk may hold after a power cut: computed from a write log, one state for each seed.

The rules are those of POSIX, not those of the kindest filesystem. What was not synced may be there, not
be there, or be there in parts of a sector's size, in any order, each sector in any version it had since
the last sync; a file that grew may have its new length before its new content; names are durable only
once their folder was synced. Whole sectors are taken for indivisible, as LMDB and SQLite do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

from support.crash.write_log import (
    Created,
    Durable,
    DurableFolder,
    Event,
    MadeFolder,
    Removed,
    Renamed,
    Sized,
    Written,
)

__all__ = ["Disk", "Leftover"]

SECTOR_BYTES: Final = 512
PAGE_BYTES: Final = 4096
_KINDS: Final = ("nothing", "everything", "pages", "sectors", "names first")
"""What of the last moments is there; "names first": every name, and no byte that was not synced."""


@dataclass(slots=True)
class _File:
    """``synced`` is on the disk; ``open`` are (position, event) of what may be."""

    synced: bytearray = field(default_factory=bytearray)
    open: list[tuple[int, Written | Sized]] = field(default_factory=list)


@dataclass(slots=True)
class _Folder:
    """Names -> what they mean (a file's number, or a folder's path when it was made)."""

    synced: dict[str, int | str] = field(default_factory=dict)
    now: dict[str, int | str] = field(default_factory=dict)
    open: list[tuple[int, dict[str, int | str | None]]] = field(default_factory=list)


def _apply(content: bytearray, event: Written | Sized) -> None:
    if isinstance(event, Sized):
        if event.length < len(content):
            del content[event.length :]
        else:
            content.extend(bytes(event.length - len(content)))
        return
    end = event.offset + len(event.content)
    if end > len(content):
        content.extend(bytes(end - len(content)))
    content[event.offset : end] = event.content


@dataclass(frozen=True, slots=True)
class Leftover:
    """Path -> content of every file, and all folders."""

    files: dict[str, bytes]
    folders: list[str]

    def write(self, root: Path) -> None:
        """Lay it out below a folder."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in self.folders:
            (root / name).mkdir(mode=0o700, parents=True)
        for name, content in self.files.items():
            (root / name).write_bytes(content)
            (root / name).chmod(0o600)


class Disk:
    """The files of a log as of some event; :meth:`feed` goes on, :meth:`after_power_cut` looks."""

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._folders: dict[str, _Folder] = {"": _Folder()}
        self._position = 0

    def feed(self, events: Sequence[Event]) -> None:
        """These events happen, too."""
        for event in events:
            self._happen(event)
            self._position += 1

    def _folder_of(self, path: str) -> tuple[_Folder, str]:
        above, _, name = path.rpartition("/")
        found: int | str = ""
        for part in filter(None, above.split("/")):
            found = self._folders[str(found)].now[part]
        return self._folders[str(found)], name

    def _happen(self, event: Event) -> None:
        match event:
            case Created(path, file):
                self._files[file] = _File()
                self._name(path, file)
            case MadeFolder(path):
                made = f"{path}@{self._position}"
                self._folders[made] = _Folder()
                self._name(path, made)
            case Written(file) | Sized(file):
                self._files[file].open.append((self._position, event))
            case Durable(file, until, only):
                self._settle(self._files[file], until, only)
            case DurableFolder(path, until):
                folder, _ = self._folder_of(f"{path}/x" if path else "x")
                for at, change in list(folder.open):
                    if at < until:
                        folder.open.remove((at, change))
                        _rename(folder.synced, change)
            case Renamed(path, to):
                self._rename(path, to)
            case Removed(path):
                folder, name = self._folder_of(path)
                self._change(folder, {name: None})
            case _:
                pass

    def _name(self, path: str, meaning: int | str) -> None:
        folder, name = self._folder_of(path)
        self._change(folder, {name: meaning})

    def _change(self, folder: _Folder, change: dict[str, int | str | None]) -> None:
        folder.open.append((self._position, change))
        _rename(folder.now, change)

    def _rename(self, path: str, to: str) -> None:
        folder, name = self._folder_of(path)
        other, new = self._folder_of(to)
        meaning = folder.now[name]
        if folder is other:
            self._change(folder, {name: None, new: meaning})
        else:  # two changes, either of which may be there without the other
            self._change(folder, {name: None})
            self._change(other, {new: meaning})

    def _settle(self, file: _File, until: int, only: int) -> None:
        if only < 0:
            for at, event in list(file.open):
                if at < until:
                    file.open.remove((at, event))
                    _apply(file.synced, event)
            return
        # O_DSYNC: this write alone is on the disk, whatever began before it.
        ((entry),) = [entry for entry in file.open if entry[0] == only]
        file.open.remove(entry)
        written = entry[1]
        assert isinstance(written, Written)
        for _, other in file.open:
            assert _apart(written, other), "which of two writes to the same bytes is there is not modelled"
        _apply(file.synced, written)

    # Looking

    def as_it_is(self) -> Leftover:
        """Without any power cut."""
        return self._laid_out({path: dict(folder.now) for path, folder in self._folders.items()}, _whole)

    def after_power_cut(self, random: Random) -> Leftover:
        """One of the states that a power cut now could leave."""
        kind = random.choice(_KINDS)
        garbage = random.random() < 0.25

        def content(file: _File) -> bytes:
            luck = random.choice((kind, kind, *_KINDS[:2])) if kind in ("pages", "sectors") else kind
            if luck == "nothing" or luck == "names first":
                return bytes(file.synced)
            if luck == "everything":
                return _whole(file)
            step = PAGE_BYTES if kind == "pages" else SECTOR_BYTES
            return _mixed(file, step, random, garbage)

        return self._laid_out(
            {path: _names(folder, kind, random) for path, folder in self._folders.items()}, content
        )

    def _laid_out(self, names: dict[str, dict[str, int | str]], content: object) -> Leftover:
        assert callable(content)
        left = Leftover({}, [])
        waiting: list[tuple[str, str]] = [("", "")]
        while waiting:
            where, folder = waiting.pop()
            for name, meaning in sorted(names[folder].items()):
                path = f"{where}/{name}" if where else name
                if isinstance(meaning, str):
                    left.folders.append(path)
                    waiting.append((path, meaning))
                else:
                    left.files[path] = content(self._files[meaning])
        left.folders.sort()
        return left


def _rename(names: dict[str, int | str], change: dict[str, int | str | None]) -> None:
    for name, meaning in change.items():
        if meaning is None:
            names.pop(name, None)
        else:
            names[name] = meaning


def _names(folder: _Folder, kind: str, random: Random) -> dict[str, int | str]:
    names = dict(folder.synced)
    if kind == "everything" or kind == "names first":
        return dict(folder.now)
    if kind == "nothing":
        return names
    if random.random() < 0.5:  # in order, as a journal keeps them
        chosen = folder.open[: random.randint(0, len(folder.open))]
    else:
        chosen = [entry for entry in folder.open if random.random() < 0.5]
    for _, change in chosen:
        _rename(names, change)
    return names


def _whole(file: _File) -> bytes:
    content = bytearray(file.synced)
    for _, event in file.open:
        _apply(content, event)
    return bytes(content)


def _apart(written: Written, other: Written | Sized) -> bool:
    end = written.offset + len(written.content)
    if isinstance(other, Sized):
        return other.length >= end
    return other.offset >= end or other.offset + len(other.content) <= written.offset


def _window(event: Written | Sized, window: bytes, start: int) -> bytes:
    """What an event makes of the bytes from ``start`` on."""
    if isinstance(event, Sized):
        kept = max(0, event.length - start)
        return window if kept >= len(window) else window[:kept] + bytes(len(window) - kept)
    first, last = max(start, event.offset), min(start + len(window), event.offset + len(event.content))
    if first >= last:
        return window
    fresh = event.content[first - event.offset : last - event.offset]
    return window[: first - start] + fresh + window[last - start :]


def _touched(file: _File, step: int) -> set[int]:
    """Which steps of a file any open event changes."""
    end = len(file.synced)
    steps: set[int] = set()
    for _, event in file.open:
        if isinstance(event, Sized):
            steps.update(range(min(end, event.length) // step, -(-max(end, event.length) // step)))
            end = event.length
        else:
            last = event.offset + len(event.content)
            steps.update(range(min(end, event.offset) // step, -(-last // step)))
            end = max(end, last)
    return steps


def _mixed(file: _File, step: int, random: Random, garbage: bool) -> bytes:
    """Every step in one of the versions that it had since the last sync, and one of the lengths."""
    lengths = [len(file.synced)]
    for _, event in file.open:
        last = event.length if isinstance(event, Sized) else event.offset + len(event.content)
        lengths.append(last if isinstance(event, Sized) else max(lengths[-1], last))
    length = random.choice(lengths)
    content = bytearray(file.synced[:length])
    content.extend(bytes(length - len(content)))
    as_far = random.random()  # how far the disk had come, on the whole
    for number in sorted(_touched(file, step)):
        start = number * step
        if start >= length:
            break
        versions = [bytes(file.synced[start : start + step]).ljust(step, b"\0")]
        for _, event in file.open:
            versions.append(_window(event, versions[-1], start))
        chosen = versions[-1] if random.random() < as_far else random.choice(versions)
        if garbage and start >= len(file.synced) and random.random() < 0.3:
            chosen = random.randbytes(step)  # allotted, never written: whatever lay there before
        content[start : start + step] = chosen[: length - start]
    return bytes(content)
