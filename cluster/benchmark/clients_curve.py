"""Many clients at once: does each get its share, and does the cluster carry as much as for one?

Each client is a process and an account of its own. All are started first, back up something else, and
begin together when told: what is measured is clients that run, not how Python starts, loads modules at
their first use, and comes by its memory.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from holdfast.cluster.benchmark.holdfast_subject import HoldfastSubject
from holdfast.cluster.benchmark.samples import MB
from holdfast.cluster.local import LocalCluster
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.limits import MIB

__all__ = ["measure_clients"]

_GO = "go\n"
_WARM_BYTES_MAX = 24 * MIB
"""As much as a client has in flight at most: then it has all its memory."""


async def _client(warm: str, path: str) -> None:
    """Back up one file; then, when told, another, and say how many seconds that took."""
    from holdfast.client import AsyncClient

    async with AsyncClient.from_env() as client:
        await client.backup(warm)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        started = SYSTEM.monotonic()
        await client.backup(path)
        print(SYSTEM.monotonic() - started, flush=True)


def _fill(file: Path, size: int) -> None:
    with file.open("wb") as to:
        for start in range(0, size, MIB):
            to.write(SYSTEM.random_bytes(min(MIB, size - start)))


def measure_clients(cluster: LocalCluster, folder: Path, count: int, total_bytes: int) -> tuple[float, float]:
    """(total MB/s, slowest client's rate as a part of the mean); the bytes are shared out."""
    each = total_bytes // count
    program = [sys.executable, "-P", "-m", "holdfast.cluster.benchmark.clients_curve"]
    place = folder / f"clients-{count}"
    place.mkdir()
    with ExitStack() as running:
        running.callback(shutil.rmtree, place)
        processes = []
        for number in range(count):
            subject = HoldfastSubject(cluster, place / f"device-{number}")
            files = [place / f"{name}-{number}" for name in ("warm", "file")]
            for file, size in zip(files, (min(each, _WARM_BYTES_MAX), each), strict=True):
                _fill(file, size)
            process = subprocess.Popen(
                [*program, *map(str, files)],
                env=subject.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            processes.append(running.enter_context(process))
            running.callback(process.kill)
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise HoldfastError("a client of the benchmark did not start")
        started = SYSTEM.monotonic()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(_GO)
            process.stdin.flush()
        seconds = [float(process.stdout.readline()) for process in processes if process.stdout is not None]
        whole = SYSTEM.monotonic() - started
    rates = [each / MB / each_s for each_s in seconds]
    return count * each / MB / whole, min(rates) / (sum(rates) / len(rates))


if __name__ == "__main__":
    from holdfast.protocol.terminal import run

    run(lambda: _client(*sys.argv[1:]))
