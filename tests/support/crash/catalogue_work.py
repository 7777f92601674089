"""A coordinator's catalogue at work: commands that follow from a seed, and all its rows after each.

python -m support.crash.catalogue_work ROOT LOG SEED COUNT
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

from sqlalchemy import Connection, event, inspect, text
from sqlalchemy.pool import Pool

from holdfast.coordinator.catalogue.engine import Catalogue
from holdfast.protocol.ids import AccountId, DeviceId
from holdfast.protocol.stripes import digest_of
from support.catalogue import Book, chunk_id

__all__ = ["describe", "work"]


def describe(catalogue: Catalogue) -> str:
    """A digest of every row of every table."""

    def rows(connection: Connection) -> list[tuple[str, list[str]]]:
        found = []
        for name in sorted(inspect(connection).get_table_names()):
            entries = connection.execute(text(f'SELECT * FROM "{name}"'))  # noqa: S608
            found.append((name, sorted(repr(tuple(row)) for row in entries)))
        return found

    return digest_of(repr(catalogue.read_now(rows)).encode()).hex()


def _command(
    book: Book, who: tuple[AccountId, DeviceId], random: Random, number: int
) -> Callable[[], object]:
    upload = number // 8 + 1
    if number % 8 == 0:
        return lambda: book.begin(who, upload, now_ms=number)
    if number % 8 == 7:
        return random.choice([lambda: book.end(who, upload), lambda: book.expire(10**9)])
    chunks = [chunk_id(200 * number + i) for i in range(random.choice([1, 3, 40, 200]))]
    slots = set(random.sample(range(6), random.choice([5, 6, 6])))
    return random.choice(
        [
            lambda: book.claim(who, upload, chunks),
            *[lambda: book.commit(who, upload, [book.stripe(chunk, slots) for chunk in chunks])] * 3,
        ]
    )


def work(root: Path, note: Callable[[str, int, str], None], random: Random, count: int) -> None:
    """So many commands, each told before and after; now and then it is closed and opened again."""
    book = Book.open(root)
    who = book.account(b"ada")
    note("done", 0, describe(book.catalogue))
    for number in range(1, count + 1):
        if number % 60 == 0:
            book.catalogue.close()
            book = Book.open(root)
        command = _command(book, who, random, number + 7)
        note("begin", number, "")
        command()
        note("done", number, describe(book.catalogue))
    book.catalogue.close()


def main() -> None:
    """The recorded process."""
    import sqlite3

    assert sqlite3.sqlite_version_info  # it must be loaded before anything can stand before its calls
    from support.crash.recording import Recording

    if os.environ.get("CARELESS"):
        event.listen(Pool, "checkout", lambda made, *_: made.execute("PRAGMA synchronous=OFF"))
    root, log, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    recording = Recording(root, log)
    work(root, recording.note, Random(seed), count)


if __name__ == "__main__":
    main()
