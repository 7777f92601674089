"""The floor: what the same bytes cost one process with the same primitives, and nothing else.

    in:   read a chunk -> seal -> encode -> write n shards to n files; fsync all at the end
    out:  read k shards -> decode -> open

No network, no database, no cutting, one thread. Everything that Holdfast does is
told as a ratio to this, measured in the same round: figures of two machines, or of
two hours, cannot be compared otherwise. Run as a process of its own.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.limits import MIB
from holdfast.protocol.profiles import Profile

__all__ = ["Floor", "measure_floor", "read_floor"]

_CHUNK_BYTES = MIB


@dataclass(frozen=True, slots=True)
class Floor:
    """Seconds for so many bytes, in and out."""

    bytes: int
    in_s: float
    out_s: float
    in_cpu_s: float
    out_cpu_s: float


def measure_floor(file: Path, folder: Path, profile: Profile) -> Floor:
    """Take a file in and out again.

    Args:
        folder: where the n files of shards are written; they are removed at the end.
    """
    from holdfast.client.sealing import SealingKeys, open_chunk, seal
    from holdfast.protocol import erasure
    from holdfast.protocol.memory import keep_freed_memory

    keep_freed_memory()
    keys = SealingKeys(1, bytes(32), bytes(64))
    paths = [folder / f"floor-{slot}" for slot in range(profile.n)]
    sealed_chunks, size = [], file.stat().st_size
    started, cpu = SYSTEM.monotonic(), sum(os.times()[:2])
    writing = [path.open("wb", buffering=0) for path in paths]
    with file.open("rb", buffering=0) as reading:
        while plain := reading.read(_CHUNK_BYTES):
            chunk = seal(keys, plain)
            for target, shard in zip(writing, erasure.encode(profile, chunk.sealed), strict=True):
                target.write(shard)
            sealed_chunks.append((chunk.chunk_id, chunk.pid, len(chunk.sealed), chunk.plain_bytes))
    for target in writing:
        os.fsync(target.fileno())
        target.close()
    in_s, in_cpu_s = SYSTEM.monotonic() - started, sum(os.times()[:2]) - cpu
    started, cpu = SYSTEM.monotonic(), sum(os.times()[:2])
    shards = [path.open("rb", buffering=0) for path in paths[: profile.k]]
    opened = 0
    for chunk_id, pid, sealed_bytes, plain_bytes in sealed_chunks:
        length = profile.shard_bytes(sealed_bytes)
        here = {slot: source.read(length) for slot, source in enumerate(shards)}
        sealed = erasure.decode(profile, here, sealed_bytes)
        opened += len(open_chunk(keys, sealed, chunk_id=chunk_id, pid=pid, plain_bytes=plain_bytes))
    assert opened == size, "what came out must be what went in"
    out_s, out_cpu_s = SYSTEM.monotonic() - started, sum(os.times()[:2]) - cpu
    for source, path in zip(shards + [None] * profile.m, paths, strict=True):
        if source is not None:
            source.close()
        path.unlink()
    return Floor(size, in_s, out_s, in_cpu_s, out_cpu_s)


def read_floor(line: str) -> Floor:
    """What a floor process printed."""
    return Floor(**json.loads(line))


if __name__ == "__main__":
    from dataclasses import asdict

    print(json.dumps(asdict(measure_floor(Path(sys.argv[1]), Path(sys.argv[2]), Profile.parse(sys.argv[3])))))
