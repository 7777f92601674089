"""Many clients at once: does each get its share, and does the cluster carry as much as for one?

Each client is a process and an account of its own. All are started first, and begin together
when told, so that Python's start is not measured.
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


async def _client(path: str) -> None:
    """Ready; then, when told, back up one file and say how many seconds it took."""
    from holdfast.client import AsyncClient

    async with AsyncClient.from_env() as client:
        await client.status()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        started = SYSTEM.monotonic()
        await client.backup(path)
        print(SYSTEM.monotonic() - started, flush=True)


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
            file = place / f"file-{number}"
            with file.open("wb") as to:
                for start in range(0, each, MIB):
                    to.write(SYSTEM.random_bytes(min(MIB, each - start)))
            process = subprocess.Popen(
                [*program, str(file)], env=subject.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                text=True,
            )  # fmt: skip
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

    run(lambda: _client(sys.argv[1]))
