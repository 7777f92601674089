"""Benchmark: one big file in and out of a local cluster, beside what the machine itself can do.

    python -m holdfast.cluster.bench [--mib 256] [--rounds 3] [--nodes 6] [--profile 4+2] [--json]

Each backup and restore is a ``holdfast`` process of its own, as a person would run it, so
that its memory and processor time are its own. Machines are noisy: compare ratios within one
run, not figures of two runs. The floor is what the same bytes cost without Holdfast, in the
same minute: written and fsynced once (restore), and n/k times (backup).
"""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click

from holdfast.cluster.local import LocalCluster
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.profiles import Profile
from holdfast.protocol.terminal import Output, guarded, json_option

__all__ = ["bench"]

_MB = 1e6
_PORTION = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Run:
    """One command, measured.

    Attributes:
        seconds: as the command itself counted: from its connection to its result.
        wall_s: the whole process, with Python's start.
        cpu_s, servers_cpu_s: processor seconds of the client, and of coordinator and nodes meanwhile.
        rss_bytes: the client's peak of resident memory.
    """

    bytes: int
    seconds: float
    wall_s: float
    cpu_s: float
    servers_cpu_s: float
    rss_bytes: int

    @property
    def mb_per_s(self) -> float:
        """Megabytes (10^6) of user data a second."""
        return self.bytes / _MB / self.seconds


class _Bench:
    def __init__(self, cluster: LocalCluster, folder: Path, size: int) -> None:
        self.cluster = cluster
        self.folder = folder
        self.size = size
        self.file = folder / "source" / "file"
        self.file.parent.mkdir()
        self.environment = {
            **os.environ,
            **cluster.env(),
            "HOLDFAST_HOME": str(folder / "home"),
        }

    def command(self, *arguments: str) -> tuple[dict[str, object], float, float, int]:
        """Run ``holdfast``: its summary, wall seconds, processor seconds, peak bytes."""
        started = SYSTEM.monotonic()
        with tempfile.TemporaryFile() as told:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "holdfast.client.console", *arguments, "--json"],
                env=self.environment,
                stdout=told,
            )
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            wall = SYSTEM.monotonic() - started
            told.seek(0)
            lines = told.read().decode().splitlines()
        if process.returncode:
            raise click.ClickException(
                f"'holdfast {arguments[0]}' ended with {process.returncode}: {lines[-1:]}"
            )
        return json.loads(lines[-1]), wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024

    def servers_cpu_s(self) -> float:
        """Processor seconds that coordinator and nodes have used so far."""
        ticks = 0
        for member in [self.cluster.coordinator, *self.cluster.nodes()]:
            fields = Path(f"/proc/{member.pid()}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def measured(self, *arguments: str) -> Run:
        """One command as a Run."""
        before = self.servers_cpu_s()
        summary, wall, cpu, rss = self.command(*arguments)
        servers = self.servers_cpu_s() - before
        return Run(self.size, float(str(summary["seconds"])), wall, cpu, servers, rss)

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


def _measure(
    bench: _Bench, rounds: int, profile: Profile, say: Callable[[str], None]
) -> tuple[list[Run], list[Run], list[float], list[float]]:
    backups, restores, floors_in, floors_out = [], [], [], []
    for number in range(1, rounds + 1):
        bench.fresh_file()
        floors_in.append(bench.floor_s(profile.n / profile.k))
        backups.append(bench.measured("backup", str(bench.file.parent)))
        target = bench.folder / f"back-{number}"
        floors_out.append(bench.floor_s(1.0))
        restores.append(bench.measured("restore", f"latest:{bench.file.parent}", "--target", str(target)))
        if not filecmp.cmp(target / "file", bench.file, shallow=False):
            raise click.ClickException("the restored file differs")
        (target / "file").unlink()
        say(
            f"  {number}   {backups[-1].mb_per_s:6.0f}   {restores[-1].mb_per_s:7.0f}   "
            f"{bench.size / _MB / floors_in[-1]:8.0f}   {bench.size / _MB / floors_out[-1]:9.0f}"
        )
    return backups, restores, floors_in, floors_out


def _told(name: str, runs: list[Run], floors: list[float]) -> dict[str, float]:
    gb = runs[0].bytes / 1e9
    ratios = [floor / one.seconds for one, floor in zip(runs, floors, strict=True)]
    return {
        f"{name}_mb_per_s": round(median(one.mb_per_s for one in runs), 1),
        f"{name}_best_mb_per_s": round(max(one.mb_per_s for one in runs), 1),
        f"{name}_of_floor": round(median(ratios), 3),
        f"{name}_client_cpu_s_per_gb": round(median(one.cpu_s for one in runs) / gb, 2),
        f"{name}_servers_cpu_s_per_gb": round(median(one.servers_cpu_s for one in runs) / gb, 2),
        f"{name}_client_rss_mib": round(max(one.rss_bytes for one in runs) / 2**20, 1),
        f"{name}_wall_s": round(median(one.wall_s for one in runs), 3),
    }


@click.command()
@click.option("--mib", default=256, show_default=True, help="Size of the file.")
@click.option("--rounds", default=3, show_default=True)
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
        output.say("      backup   restore   floor in   floor out")
        backups, restores, floors_in, floors_out = _measure(made, rounds, shape, output.say)
    numbers = _told("backup", backups, floors_in) | _told("restore", restores, floors_out)
    for name, value in numbers.items():
        output.say(f"{name:32} {value:>10}")
    output.summary(mib=mib, nodes=nodes, profile=profile, rounds=rounds, cores=os.cpu_count(), **numbers)


if __name__ == "__main__":
    bench()
