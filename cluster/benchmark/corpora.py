"""What is backed up: trees made from a fixed seed, so that anybody measures the same bytes.

Each round has bytes of its own (nobody has stored them before), each corpus knows
what a day changes in it. Sizes are chosen to tell causes apart: one big file is
bandwidth, many small ones are the cost of a file, text compresses, a database
changes in the middle.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from holdfast.protocol.limits import KIB, MIB

__all__ = ["CORPORA", "FULL", "QUICK", "USUAL", "Corpus", "bytes_of", "files_of", "one_file"]

_PORTION = 4 * MIB
_SPOTS = 16
_SPOT_BYTES = 64 * KIB
_FOLDER_FILES = 250
_PROSE = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an "
    "they which one you were all her she there would their we him been has when who will no more if out so "
    "up said what its about than into them can only other time new some could these two may first then"
)
_WORDS = _PROSE.split()
_ROW_BYTES = 420
"""Roughly what one message takes in the database, with its index."""


def _noise(label: str, length: int, offset: int = 0) -> bytes:
    """Bytes that do not compress, the same for the same label."""
    return blake3(label.encode()).digest(length=length, seek=offset)


def _write(path: Path, label: str, length: int) -> None:
    with path.open("wb") as file:
        for start in range(0, length, _PORTION):
            file.write(_noise(label, min(_PORTION, length - start), start))


def _text(label: str, length: int) -> bytes:
    """Words in lines, about as compressible as prose."""
    made = bytearray()
    picks = _noise(label, length // 4 + 16)
    for start in range(0, len(picks), 12):
        made += " ".join(_WORDS[pick % len(_WORDS)] for pick in picks[start : start + 12]).encode() + b"\n"
        if len(made) >= length:
            break
    return bytes(made[:length])


def bytes_of(tree: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in _files(tree))


def files_of(tree: Path) -> int:
    """How many files lie below a folder."""
    return sum(1 for _ in _files(tree))


def _files(tree: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(tree):
        yield from (Path(folder) / name for name in names)


@dataclass(frozen=True, slots=True)
class Corpus:
    """One tree.

    Attributes:
        make: fills an empty folder; the label is the seed.
        change: what a day changes.
        by_files: is the number to look at files per second?
    """

    name: str
    what: str
    make: Callable[[Path, str], None]
    change: Callable[[Path, str], None]
    by_files: bool = False


def _place(folder: Path, number: int) -> Path:
    below = folder / f"{number // _FOLDER_FILES:03d}"
    below.mkdir(exist_ok=True)
    return below / f"{number:05d}"


def _same_files(count: int, length: int) -> tuple[Callable[[Path, str], None], Callable[[Path, str], None]]:
    """``count`` files of ``length`` bytes; a day rewrites one in a hundred."""

    def make(folder: Path, label: str) -> None:
        for number in range(count):
            _write(_place(folder, number), f"{label} {number}", length)

    def change(folder: Path, label: str) -> None:
        for number in range(0, count, 100):
            _write(_place(folder, number), f"{label} {number} changed", length)

    return make, change


def one_file(length: int) -> tuple[Callable[[Path, str], None], Callable[[Path, str], None]]:
    """One file; a day overwrites 1 MiB of it, at sixteen places."""

    def make(folder: Path, label: str) -> None:
        _write(folder / "file", label, length)

    def change(folder: Path, label: str) -> None:
        with (folder / "file").open("r+b") as file:
            for spot in range(_SPOTS):
                file.seek(spot * (length // _SPOTS))
                file.write(_noise(f"{label} spot {spot}", _SPOT_BYTES))

    return make, change


def _make_text(folder: Path, label: str) -> None:
    for number in range(2000):
        _place(folder, number).write_bytes(_text(f"{label} {number}", 32 * KIB))


def _change_text(folder: Path, label: str) -> None:
    for number in range(0, 2000, 100):
        with _place(folder, number).open("ab") as file:
            file.write(_text(f"{label} {number} more", KIB))


def _make_messages(folder: Path, label: str) -> None:
    rows = 200 * MIB // _ROW_BYTES
    with closing(sqlite3.connect(folder / "messages.sqlite")) as connection, connection:
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute(
            "CREATE TABLE messages (id INTEGER PRIMARY KEY, chat INTEGER, sender TEXT, body TEXT)"
        )
        connection.execute("CREATE INDEX by_chat ON messages (chat, id)")
        connection.executemany(
            "INSERT INTO messages VALUES (?, ?, ?, ?)",
            ((n, n % 40, f"person-{n % 97}", _text(f"{label} {n}", 360).decode()) for n in range(rows)),
        )


def _change_messages(folder: Path, label: str) -> None:
    """One row in a hundred is edited: those of one stretch, as people edit what is new."""
    with closing(sqlite3.connect(folder / "messages.sqlite")) as connection, connection:
        count = connection.execute("SELECT count(*) FROM messages").fetchone()[0]
        connection.executemany(
            "UPDATE messages SET body = ? WHERE id = ?",
            (
                (_text(f"{label} {n} edited", 360).decode(), n)
                for n in range(count - count // 50, count - count // 100)
            ),
        )


CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus("big", "one file of 256 MiB, random", *one_file(256 * MIB)),
        Corpus("mid", "64 files of 1 MiB, random", *_same_files(64, MIB)),
        Corpus("small", "1,000 files of 10 KiB, random", *_same_files(1000, 10 * KIB), by_files=True),
        Corpus("many", "20,000 files of 4 KiB, random", *_same_files(20_000, 4 * KIB), by_files=True),
        Corpus("huge", "one file of 4 GiB, random", *one_file(4096 * MIB)),
        Corpus("text", "2,000 files of 32 KiB, words", _make_text, _change_text),
        Corpus("messages", "an SQLite database of 200 MiB", _make_messages, _change_messages),
    )
}
QUICK = ("big", "small")
USUAL = ("big", "mid", "small")
FULL = tuple(CORPORA)
