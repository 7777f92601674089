"""A made-up messenger folder: an SQLite message database and some hundred media files. Seeded."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from blake3 import blake3

__all__ = ["change_messenger", "make_messenger"]

_WORDS = [
    "tomorrow",
    "morning",
    "harbour",
    "train",
    "photo",
    "birthday",
    "lake",
    "tickets",
    "thanks",
    "grandma",
    "winter",
    "bread",
    "music",
    "letter",
    "garden",
    "window",
    "river",
    "street",
    "coffee",
    "holiday",
    "mountain",
    "dinner",
    "summer",
    "market",
    "bicycle",
    "island",
    "lantern",
]


def _noise(seed: str, length: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return blake3(seed.encode()).digest(length=length)


def _sentence(seed: str) -> str:
    picks = _noise(seed, 14)
    return " ".join(_WORDS[pick % len(_WORDS)] for pick in picks)


def _add_messages(database: Path, first: int, count: int) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS messages "
            "(id INTEGER PRIMARY KEY, chat INTEGER, sender TEXT, sent_ms INTEGER, body TEXT)"
        )
        connection.execute("CREATE INDEX IF NOT EXISTS by_chat ON messages (chat, sent_ms)")
        connection.executemany(
            "INSERT INTO messages VALUES (?, ?, ?, ?, ?)",
            (
                (n, n % 40, f"person-{n % 97}", 1_700_000_000_000 + 1000 * n, _sentence(f"message {n}"))
                for n in range(first, first + count)
            ),
        )


def _add_media(folder: Path, first: int, count: int) -> None:
    for number in range(first, first + count):
        chat = folder / "media" / f"chat {number % 12:02d}"
        chat.mkdir(parents=True, exist_ok=True)
        length = 4_000 + int.from_bytes(_noise(f"length {number}", 4), "big") % 180_000
        (chat / f"IMG_{number:05d}.jpg").write_bytes(_noise(f"media {number}", length))


def make_messenger(folder: Path, messages: int = 60_000, media: int = 320) -> None:
    """Fill a new folder."""
    folder.mkdir(parents=True)
    _add_messages(folder / "messages.sqlite", 0, messages)
    _add_media(folder, 0, media)
    (folder / "profile.ini").write_text("[me]\nname = Ada\n")
    (folder / "drafts").mkdir(mode=0o750)
    (folder / "drafts" / "empty.txt").touch()
    os.symlink("messages.sqlite", folder / "current")
    os.link(folder / "profile.ini", folder / "profile.backup.ini")
    # Names are bytes: this one is not UTF-8, that one has a newline.
    (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt"))).write_text("latin-1 name\n")
    (folder / "two\nlines.txt").write_text("newline in the name\n")
    with (folder / "voice.raw").open("wb") as sparse:
        sparse.write(_noise("voice", 70_000))
        sparse.seek(900_000)
        sparse.write(_noise("voice end", 50_000))


def change_messenger(folder: Path, messages: int = 60_000, media: int = 320) -> None:
    """What a day does to it: new messages and media, something edited, renamed, deleted."""
    _add_messages(folder / "messages.sqlite", messages, messages // 20)
    _add_media(folder, media, media // 8)
    (folder / "media" / "holiday.mp4").write_bytes(_noise("film", 48_000_000))
    (folder / "profile.ini").write_text("[me]\nname = Ada\nstatus = away\n")
    first = sorted((folder / "media" / "chat 00").iterdir())
    first[0].unlink()
    first[1].rename(folder / "media" / "kept.jpg")
    os.truncate(first[2], 1000)
