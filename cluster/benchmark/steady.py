"""Figures that are no rates: latency of one small stream, memory at rest, the time of --help."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from holdfast.cluster.benchmark.holdfast_subject import HoldfastSubject, holdfast
from holdfast.cluster.benchmark.measuring import measure, own_bytes, resident_bytes
from holdfast.cluster.benchmark.samples import Figure
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.limits import KIB

__all__ = ["measure_steady", "memory_at_rest", "percentile"]

_STREAM_BYTES = 10 * KIB
_HELP_RUNS = 9
_WARM_UP = 5


async def _streams(count: int) -> list[float]:
    """Seconds of each of ``count`` backups of one small stream, by one client that goes on running."""
    from holdfast.client import AsyncClient

    async def once(content: bytes) -> AsyncIterator[bytes]:
        yield content

    seconds = []
    async with AsyncClient.from_env() as client:
        for number in range(_WARM_UP + count):
            content = SYSTEM.random_bytes(_STREAM_BYTES)
            started = SYSTEM.monotonic()
            await client.backup_stream(f"stream-{number}", once(content))
            seconds.append(SYSTEM.monotonic() - started)
    return seconds[_WARM_UP:]


def percentile(values: Sequence[float], percent: int) -> float:
    """The least value that so many percent of all are not above (nearest rank)."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def measure_steady(subject: HoldfastSubject, folder: Path, streams: int) -> dict[str, Any]:
    """All of them, in milliseconds and MiB."""
    os.sync()  # what others have written is not this one's to wait for
    program = [sys.executable, "-P", "-m", "holdfast.cluster.benchmark.steady", str(streams)]
    told = measure(program, environment=subject.environment, folder=folder)
    seconds: list[float] = json.loads(told.output)
    helps = [
        measure(holdfast("--help"), environment=os.environ, folder=folder).seconds for _ in range(_HELP_RUNS)
    ]
    made: dict[str, Any] = {
        "stream_10_kib_p50_ms": round(percentile(seconds, 50) * 1000, 1),
        "stream_10_kib_p99_ms": round(percentile(seconds, 99) * 1000, 1),
        "help_ms": round(Figure.of(helps).middle * 1000, 1),
    }
    return made


def memory_at_rest(subject: HoldfastSubject) -> dict[str, Any]:
    """Of a cluster that has just started: the most of any one process of each role, in MiB."""
    made: dict[str, Any] = {}
    members = {"node": subject.cluster.nodes(), "coordinator": [subject.cluster.coordinator]}
    for role, running in members.items():
        pids = [pid for member in running for pid in member.pids()]
        made[f"idle_{role}_rss_mib"] = round(max(map(resident_bytes, pids)) / 2**20, 1)
        made[f"idle_{role}_own_mib"] = round(max(map(own_bytes, pids)) / 2**20, 1)
    return made


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_streams(int(sys.argv[1])))))
