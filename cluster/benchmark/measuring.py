"""What a run costs: wall time, processor seconds of every process, memory, bytes.

Commands are measured as whole processes, from their start to their end, by
wait4(2), which also counts what their own children used. Servers run on; theirs is
the difference of /proc/<pid>/stat, and their memory is sampled (RssAnon of
/proc/<pid>/status: LMDB's map is the kernel's cache, and can be taken at any time).
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import HoldfastError

__all__ = ["Cost", "Running", "Servers", "disk_bytes", "measure"]

T = TypeVar("T")
_SAMPLE_S = 0.05
_PEAK_SAMPLE_S = 0.01
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_TAIL_CHARS = 600


@dataclass(slots=True)
class Cost:
    """One run of one thing.

    Attributes:
        cpu_s: processor seconds by role ("client", "nodes", "coordinator").
        rss_bytes: peak of resident memory by role, of one process of that role.
        wire_bytes: sent and received by the client; 0 when not known.
        disk_bytes: what the stores grew by.
        output: what the command wrote to stdout.
    """

    seconds: float
    cpu_s: dict[str, float] = field(default_factory=dict)
    rss_bytes: dict[str, int] = field(default_factory=dict)
    wire_bytes: int = 0
    disk_bytes: int = 0
    output: str = ""

    @property
    def all_cpu_s(self) -> float:
        """Of all processes together."""
        return sum(self.cpu_s.values())


def measure(
    arguments: Sequence[str | Path], *, environment: Mapping[str, str], folder: Path, cwd: Path | None = None
) -> Cost:
    """Run a command to its end.

    Args:
        folder: where its output is kept while it runs.

    Raises:
        HoldfastError: it failed; the error shows the end of what it said.
    """
    out, err = folder / "stdout", folder / "stderr"
    with out.open("wb") as to_out, err.open("wb") as to_err:
        started = SYSTEM.monotonic()
        process = subprocess.Popen(
            [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL,
            stdout=to_out,
            stderr=to_err,
            env=dict(environment),
            cwd=cwd,
        )
        with _Peak(process.pid) as peak:
            _, status, used = os.wait4(process.pid, 0)
        seconds = SYSTEM.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        said = (err.read_text(errors="replace") + out.read_text(errors="replace"))[-_TAIL_CHARS:]
        raise HoldfastError(f"{arguments[0]} ended with code {process.returncode}", why=said.strip())
    return Cost(
        seconds,
        {"client": used.ru_utime + used.ru_stime},
        {"client": peak.bytes},
        output=out.read_text(errors="replace"),
    )


class _Peak:
    """A command's peak of resident memory in bytes, by VmHWM; at most the last moment is missed.

    ru_maxrss of wait4 would not do: it begins with the size of whoever started the process, this benchmark.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.bytes = 0
        self._done = threading.Event()
        self._watching = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._watching.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(_PEAK_SAMPLE_S):
            self.bytes = max(self.bytes, _status(self._pid).get("VmHWM", 0))

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watching.join()


def disk_bytes(folders: Iterable[Path]) -> int:
    """Allocated on disk by everything below these folders."""
    total = 0
    for top in folders:
        for folder, _, names in os.walk(top):
            for name in names:
                with suppress(FileNotFoundError):
                    total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total


class Running(Protocol):
    """Something of one or more processes."""

    def pids(self) -> list[int]:
        """Those that run now."""
        ...


class Servers:
    """The cluster's own processes, by role."""

    def __init__(self, members: Callable[[], Mapping[str, Sequence[Running]]]) -> None:
        self._members = members

    def cpu_s(self) -> dict[str, float]:
        """Processor seconds used so far, by role."""
        return {
            role: sum(_cpu_s(pid) for member in members for pid in member.pids())
            for role, members in self._members().items()
        }

    def beside(self, work: Callable[[], Cost]) -> Cost:
        """Do some work, and count in what the servers used meanwhile."""
        pids = {role: [pid for m in members for pid in m.pids()] for role, members in self._members().items()}
        peaks = dict.fromkeys(pids, 0)
        done = threading.Event()

        def sample() -> None:
            while True:
                for role, running in pids.items():
                    peaks[role] = max([peaks[role], *(own_bytes(pid) for pid in running)])
                if done.wait(_SAMPLE_S):
                    return

        watching = threading.Thread(target=sample)
        before = self.cpu_s()
        watching.start()
        try:
            cost = work()
        finally:
            done.set()
            watching.join()
        for role, used in self.cpu_s().items():
            cost.cpu_s[role] = max(0.0, used - before.get(role, 0.0))
            cost.rss_bytes[role] = peaks[role]
        return cost


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def own_bytes(pid: int) -> int:
    """Resident memory that is a process's own (RssAnon), in bytes; 0 when it is gone."""
    return _status(pid).get("RssAnon", 0)


def resident_bytes(pid: int) -> int:
    """All resident memory of a process, with libraries and mapped files, in bytes."""
    return _status(pid).get("VmRSS", 0)


def _status(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    split: list[Any] = [line.split() for line in lines if line.endswith(" kB")]
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, _ in split}
