"""How fast a node's store takes shards after its room has been used over and over.

LMDB finds room for a large value by looking for that many free pages in a row; in old,
full stores that search, and the free list itself, have been reported to become slow.
Here a store is filled, and then overwritten several times: some shards are erased, others of
other sizes take their place. The rate of each pass is told beside that of the first fill. The
same again by a process that is given a third of the memory that its store takes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from holdfast.cluster.benchmark.memory import bounded_memory
from holdfast.cluster.benchmark.samples import MB
from holdfast.node.store import Put, ShardKey
from holdfast.node.store_lmdb import LmdbStore
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.ids import AccountId, ChunkId, UploadId
from holdfast.protocol.limits import KIB, MIB
from holdfast.protocol.profiles import Profile
from holdfast.protocol.stripes import ShardRecord, StripeHeader, digest_of

__all__ = ["measure_churn", "measure_churn_within"]

_PROFILE = Profile(4, 2)
_ACCOUNT = AccountId(bytes(32))
_SHARD_BYTES_MIN, _SHARD_BYTES_MAX = 60 * KIB, 420 * KIB
_FULL = 0.8
_BATCH = 16
_BATCHES_TOGETHER = 4
_TIMES_MEMORY = 3


def _puts(first: int) -> Iterator[Put]:
    """Shards of changing sizes, each of bytes of its own."""
    number = first
    while True:
        noise = blake3(b"churn %d" % number)
        size = _SHARD_BYTES_MIN + int.from_bytes(noise.digest(length=4), "big") % (
            _SHARD_BYTES_MAX - _SHARD_BYTES_MIN
        )
        shard = noise.digest(length=size)
        digests = digest_of(shard) * _PROFILE.n
        stripe = StripeHeader(_PROFILE, size * _PROFILE.k, digests)
        chunk = ChunkId(noise.digest())
        yield Put(ShardRecord(_ACCOUNT, chunk, UploadId(bytes(16)), 1, 0, stripe), shard)
        number += 1


class _Churn:
    def __init__(self, folder: Path, store_bytes: int) -> None:
        self.store = LmdbStore(folder, source=SYSTEM, capacity_bytes=store_bytes)
        self._full_bytes = int(store_bytes * _FULL)
        self._made = _puts(0)
        self._kept: list[tuple[ShardKey, int]] = []
        self._order = 0

    def _put(self, seconds_bytes: list[float]) -> int:
        batches = [[next(self._made) for _ in range(_BATCH)] for _ in range(_BATCHES_TOGETHER)]
        started = SYSTEM.monotonic()
        refused = self.store.put(batches)
        seconds_bytes[0] += SYSTEM.monotonic() - started
        assert not any(refused), refused
        sizes = [(ShardKey.of(put.record), len(put.shard)) for batch in batches for put in batch]
        self._kept.extend(sizes)
        count = sum(size for _, size in sizes)
        seconds_bytes[1] += count
        return count

    def fill(self) -> float:
        """MB/s of the first fill."""
        spent = [0.0, 0.0]
        while spent[1] < self._full_bytes:
            self._put(spent)
        return spent[1] / MB / spent[0]

    def overwrite(self) -> float:
        """MB/s of putting as many bytes again, each batch in place of shards erased before it."""
        spent = [0.0, 0.0]
        while spent[1] < self._full_bytes:
            # Every third from the front: holes of all sizes, not one long free stretch.
            gone, freed = [], 0
            for key, size in self._kept[: 3 * _BATCH * _BATCHES_TOGETHER : 3]:
                gone.append((key, size))
                freed += size
            taken = set(gone)
            self._kept = [kept for kept in self._kept if kept not in taken]
            self._order += 1
            self.store.mark(self._order, [key for key, _ in gone], 0)
            self.store.erase_due(1, len(gone))
            self._put(spent)
        return spent[1] / MB / spent[0]


def measure_churn(folder: Path, store_bytes: int = 1024 * MIB, passes: int = 5) -> list[tuple[str, float]]:
    """(what, MB/s) of the first fill, and of each overwriting."""
    place = folder / "churn"
    churn = _Churn(place, store_bytes)
    try:
        return [
            ("fresh", churn.fill()),
            *((f"overwritten {number} x", churn.overwrite()) for number in range(1, passes + 1)),
        ]
    finally:
        churn.store.close()


def measure_churn_within(folder: Path, memory_bytes: int, passes: int = 5) -> list[tuple[str, float]]:
    """The same of a store three times as large as the memory its process is given.

    Empty where no memory can be bounded.

    Raises:
        HoldfastError: the process that measures failed.
    """
    with bounded_memory(memory_bytes) as door:
        if door is None:
            return []
        program = [sys.executable, "-P", "-m", "holdfast.cluster.benchmark.churn_curve"]
        arguments = [str(door), str(folder), str(_TIMES_MEMORY * memory_bytes), str(passes)]
        done = subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise HoldfastError("the store of the benchmark failed", why=done.stderr[-600:].strip())
        return [(label, rate) for label, rate in json.loads(done.stdout)]


def _main(door: str, folder: str, store_bytes: str, passes: str) -> None:
    Path(door).write_text(str(os.getpid()))
    place = Path(folder) / "bounded"
    place.mkdir()
    try:
        print(json.dumps(measure_churn(place, int(store_bytes), int(passes))))
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    _main(*sys.argv[1:])
