"""Benchmark: one big file in and out of a local cluster, beside what the machine itself can do.

    python -m holdfast.cluster.bench [--mib 256] [--rounds 5] [--nodes 6] [--profile 4+2] [--json]

One client process uses the SDK for all rounds, so that its memory and processor time are its
own; one more backup and restore run as ``holdfast`` commands, with Python's start and all.
Machines are noisy: compare ratios within one run, not figures of two runs. The floor is what the
same bytes cost without Holdfast, in the same minute: written and fsynced once (restore), and n/k
times (backup).
"""

from __future__ import annotations

import asyncio
import filecmp
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

from holdfast.cluster.local import LocalCluster
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.profiles import Profile
from holdfast.protocol.terminal import Output, guarded, json_option, run

__all__ = ["bench"]

_MB = 1e6
_PORTION = 4 * 1024 * 1024
_AS_CLIENT = "--as-client"


@dataclass(frozen=True, slots=True)
class Timed:
    """One backup or restore.

    Attributes:
        cpu_s: processor seconds of the client; rss_bytes: its peak of resident memory so far.
    """

    seconds: float
    cpu_s: float
    rss_bytes: int


# The client's process: a line in, a line out


async def _timed(verb: str, path: str, target: str) -> Timed:
    from holdfast.client.sdk import AsyncClient

    async with AsyncClient.from_env() as client:
        await client.status()
        started, before = SYSTEM.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
        if verb == "backup":
            await client.backup(path)
        else:
            await client.restore("latest", target, path=path)
        seconds, after = SYSTEM.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Timed(seconds, cpu, after.ru_maxrss * 1024)


async def _client() -> None:
    while line := await asyncio.to_thread(sys.stdin.readline):
        verb, path, target = json.loads(line)
        print(json.dumps(asdict(await _timed(verb, path, target))), flush=True)


# The benchmark's own


class _Bench:
    def __init__(self, cluster: LocalCluster, folder: Path, size: int) -> None:
        self.cluster = cluster
        self.folder = folder
        self.size = size
        self.file = folder / "source" / "file"
        self.file.parent.mkdir()
        self.environment = {**os.environ, **cluster.env(), "HOLDFAST_HOME": str(folder / "home")}

    def command(self, *arguments: str) -> float:
        """Run ``holdfast``; its wall seconds, from Python's start to its end."""
        started = SYSTEM.monotonic()
        holdfast = [sys.executable, "-P", "-m", "holdfast.client.console", *arguments, "--json"]
        subprocess.run(holdfast, env=self.environment, stdout=subprocess.DEVNULL, check=True)
        return SYSTEM.monotonic() - started

    @contextmanager
    def client(self) -> Iterator[Callable[..., Timed]]:
        """A client process, to be asked for one thing after the other."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "holdfast.cluster.bench", _AS_CLIENT],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None
        asked, told = process.stdin, process.stdout

        def ask(verb: str, target: str = "") -> Timed:
            asked.write(json.dumps([verb, str(self.file.parent), target]) + "\n")
            asked.flush()
            line = told.readline()
            if not line:
                raise click.ClickException(f"the client's {verb} failed")
            return Timed(**json.loads(line))

        try:
            yield ask
        finally:
            asked.close()
            process.wait(timeout=30)
            told.close()

    def servers_cpu_s(self) -> float:
        """Processor seconds that coordinator and nodes have used so far."""
        ticks = 0
        for member in [self.cluster.coordinator, *self.cluster.nodes()]:
            for pid in member.pids():
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def fresh_file(self) -> None:
        """New random bytes: nothing to compress, nothing stored yet."""
        with self.file.open("wb") as file:
            for start in range(0, self.size, _PORTION):
                file.write(SYSTEM.random_bytes(min(_PORTION, self.size - start)))
            os.fsync(file.fileno())

    def floor_s(self, times: float) -> float:
        """Seconds to write and fsync ``times`` the file's size to this disk."""
        portion = SYSTEM.random_bytes(_PORTION)
        path = self.folder / "floor"
        started = SYSTEM.monotonic()
        with path.open("wb") as file:
            for _ in range(max(1, round(self.size * times / _PORTION))):
                file.write(portion)
            os.fsync(file.fileno())
        seconds = SYSTEM.monotonic() - started
        path.unlink()
        return seconds

    def check(self, target: Path) -> None:
        """What came back must be what went in."""
        if not filecmp.cmp(target / "file", self.file, shallow=False):
            raise click.ClickException("the restored file differs")


@dataclass(slots=True)
class _Series:
    """All rounds of one verb."""

    name: str
    bytes: int
    runs: list[Timed]
    servers_cpu_s: list[float]
    floors_s: list[float]

    def measure(self, bench: _Bench, work: Callable[[], Timed]) -> float:
        """One round; gives its MB/s."""
        before = bench.servers_cpu_s()
        self.runs.append(work())
        self.servers_cpu_s.append(bench.servers_cpu_s() - before)
        return self.bytes / _MB / self.runs[-1].seconds

    def numbers(self) -> dict[str, float]:
        """What is told of it: medians, but for the best rate and the peak of memory."""
        gb = self.bytes / 1e9
        rates = [self.bytes / _MB / run.seconds for run in self.runs]
        shares = [floor / run.seconds for floor, run in zip(self.floors_s, self.runs, strict=True)]
        return {
            f"{self.name}_mb_per_s": round(median(rates), 1),
            f"{self.name}_best_mb_per_s": round(max(rates), 1),
            f"{self.name}_of_floor": round(median(shares), 3),
            f"{self.name}_client_cpu_s_per_gb": round(median(run.cpu_s for run in self.runs) / gb, 2),
            f"{self.name}_servers_cpu_s_per_gb": round(median(self.servers_cpu_s) / gb, 2),
        }


def _measure(bench: _Bench, rounds: int, profile: Profile, output: Output) -> dict[str, float]:
    into = _Series("backup", bench.size, [], [], [])
    out = _Series("restore", bench.size, [], [], [])
    back = bench.folder / "back"
    with bench.client() as ask:
        for number in range(1, rounds + 1):
            # The floors come first: the disk is still busy with what they leave behind.
            into.floors_s.append(bench.floor_s(profile.n / profile.k))
            out.floors_s.append(bench.floor_s(1.0))
            bench.fresh_file()
            rate_in = into.measure(bench, lambda: ask("backup"))
            # The last round's file goes now, so that this one finds memory that was in use before: on
            # virtual machines memory that never was costs several times the work done on it.
            shutil.rmtree(back, ignore_errors=True)
            rate_out = out.measure(bench, lambda: ask("restore", str(back)))
            bench.check(back)
            output.say(f"  {number:5}{rate_in:12.0f}{rate_out:12.0f}")
    bench.fresh_file()
    by_command = bench.folder / "by-command"
    commands = {
        "backup_command_s": round(bench.command("backup", str(bench.file.parent)), 2),
        "restore_command_s": round(
            bench.command("restore", f"latest:{bench.file.parent}", "--target", str(by_command)), 2
        ),
    }
    bench.check(by_command)
    memory = {"client_rss_mib": round(max(run.rss_bytes for run in (*into.runs, *out.runs)) / 2**20, 1)}
    return into.numbers() | out.numbers() | memory | commands


@click.command()
@click.option("--mib", default=256, show_default=True, help="Size of the file.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--nodes", default=6, show_default=True)
@click.option("--profile", default="4+2", show_default=True)
@json_option
@guarded
def bench(as_json: bool, mib: int, rounds: int, nodes: int, profile: str) -> None:
    """Back up and restore one big file; print rates, processor seconds and memory."""
    output = Output(as_json)
    shape = Profile.parse(profile)
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder,
        LocalCluster(nodes=nodes, profile=profile) as cluster,
    ):
        made = _Bench(cluster, Path(folder), mib * 2**20)
        made.command("init", "--recovery-file", f"{folder}/recovery.txt")
        output.say(f"{mib} MiB of random bytes, {nodes} nodes, {profile}, {os.cpu_count()} cores; MB/s:")
        output.say("  round      backup     restore")
        numbers: dict[str, Any] = _measure(made, rounds, shape, output)
    for name, value in numbers.items():
        output.say(f"{name:32} {value:>10}")
    output.summary(mib=mib, nodes=nodes, profile=profile, rounds=rounds, cores=os.cpu_count(), **numbers)


if __name__ == "__main__":
    if _AS_CLIENT in sys.argv:
        run(_client)
    else:
        bench()
