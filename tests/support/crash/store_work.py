"""A node's store at work: commands that follow from a seed, and what the store says of itself after each.

python -m support.crash.store_work ROOT LOG SEED COUNT
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import lmdb

from holdfast.node.store import Compaction, ShardKey
from holdfast.node.store_lmdb import LmdbStore
from holdfast.protocol.clock import FixedSource
from holdfast.protocol.stripes import digest_of
from support.shards import made_put

__all__ = ["CAPACITY_BYTES", "describe", "open_store", "work"]

CAPACITY_BYTES = 30_000_000
_SIZES = (400, 5_000, 16_300, 60_000, 250_000)


def open_store(root: Path) -> LmdbStore:
    """As a node opens it."""
    return LmdbStore(root / "store", source=FixedSource(seed=bytes(root)), capacity_bytes=CAPACITY_BYTES)


def describe(store: LmdbStore) -> str:
    """A digest of everything that the store promises to keep."""
    stats = store.stats()
    keys = store.scan(b"", b"\xff" * 100, 100_000)
    told = (
        store.id,
        stats.shards,
        stats.used_bytes,
        stats.counter,
        stats.marked,
        stats.quarantined,
        stats.findings,
        store.term(),
        store.running_ms,
        store.scrub_state(),
        list(zip(keys, store.read(keys), strict=True)),
    )
    return digest_of(repr(told).encode()).hex()


def _command(store: LmdbStore, random: Random, number: int) -> Callable[[], object]:
    """The next thing to do."""
    keys = store.scan(b"", b"\xff" * 100, 100_000)
    some: list[ShardKey] = random.sample(keys, min(len(keys), random.randint(1, 8)))
    puts = [
        made_put(1000 * number + i, sealed_bytes=random.choice(_SIZES), group=random.randint(1, 3))
        for i in range(random.randint(1, 6))
    ]
    again = made_put(number // 2 * 1000, sealed_bytes=400)
    return random.choice(
        [
            *[lambda: store.put([puts])] * 6,
            lambda: store.put([puts[:1], [again], puts[1:]]),
            lambda: store.mark(number + 1, some, random.randint(0, 50)),
            lambda: store.erase_due(random.randint(0, 60), 20),
            lambda: store.raise_term(number),
            lambda: store.save_running(number),
            lambda: store.save_scrub_state(b"%d" % number),
        ]
    )


def work(root: Path, note: Callable[[str, int, str], None], random: Random, count: int) -> None:
    """So many commands, each told before and after.

    Now and then the store is closed and opened again; meanwhile it is compacted, again and again.
    """
    store = open_store(root)
    copy: Compaction | None = None
    note("done", 0, describe(store))
    for number in range(1, count + 1):
        if number % 17 == 0:
            store.close()
            store, copy = open_store(root), None
        elif copy is None and number % 12 == 5:
            copy = store.compact()
        elif copy is not None and copy.step(200_000):
            copy.finish()
            copy = None
        command = _command(store, random, number)
        note("begin", number, "")
        command()
        note("done", number, describe(store))
    store.close()


def main() -> None:
    """The recorded process."""
    from support.crash.recording import Recording

    if os.environ.get("CARELESS"):
        real = lmdb.open
        lmdb.open = lambda *values, **options: real(*values, **{**options, "sync": False})
    root, log, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    recording = Recording(root, log)
    work(root, recording.note, Random(seed), count)


if __name__ == "__main__":
    main()
