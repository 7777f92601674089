"""A node's store that is compacted while it works: every few commands a copy takes the file's place.

python -m support.crash.compact_work ROOT LOG SEED COUNT
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

from holdfast.node import store_lmdb_compacting
from support.crash import store_work
from support.shards import made_put

__all__ = ["work"]


def work(root: Path, note: Callable[[str, int, str], None], random: Random, count: int) -> None:
    """Puts and erasures between the steps of copies; a copy's end is a command that changes nothing."""
    store = store_work.open_store(root)
    note("done", 0, store_work.describe(store))
    copy = None
    for number in range(1, count + 1):
        note("begin", number, "")
        if number % 3 == 0:
            if copy is None:
                copy = store.compact()
            if copy.step(random.choice((20_000, 200_000))):
                copy.finish()
                copy = None
        elif random.random() < 0.6:
            sizes = [random.choice((400, 16_300, 60_000)) for _ in range(4)]
            store.put([[made_put(10 * number + i, sealed_bytes=size) for i, size in enumerate(sizes)]])
        elif random.random() < 0.5:
            keys = store.scan(b"", b"\xff" * 100, 1000)
            store.mark(number, random.sample(keys, len(keys) // 3), 0)
        else:
            store.erase_due(1, random.randint(1, 8))
        note("done", number, store_work.describe(store))
    store.close()


def main() -> None:
    """The recorded process."""
    from support.crash.recording import Recording

    if os.environ.get("CARELESS"):  # the copy takes the file's place before the disk has it
        store_lmdb_compacting.Copy._make_durable = lambda self: self._into.env.close()  # type: ignore[method-assign]
        step = store_lmdb_compacting.Copy.step

        def unsynced(self: store_lmdb_compacting.Copy, most_bytes: int) -> bool:
            self._is_synced = True
            return step(self, most_bytes)

        store_lmdb_compacting.Copy.step = unsynced  # type: ignore[method-assign]
    root, log, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    recording = Recording(root, log)
    work(root, recording.note, Random(seed), count)


if __name__ == "__main__":
    main()
