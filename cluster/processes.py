"""Detached processes, each known by more than its number.

A pid is reused sooner or later. So a process is ours only if its pid, its start
time (/proc/<pid>/stat, field 22; proc(5)), the machine's boot id and a random
marker in its environment are those written into ``process.json`` when it was
started. A signal goes through a pidfd that was opened *before* these were
compared, so that the process cannot be exchanged in between (pidfd_open(2)).

    <folder>/process.json   version, pid, started, boot, marker
    <folder>/output.log     what it prints; output.log.1 is the one before
    <folder>/ready.json     written by the process itself when it serves
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any, Literal

from holdfast.cluster.limits import (
    EXEC_DEADLINE_S,
    LOG_BYTES_MAX,
    LOG_READ_BYTES_MAX,
    LOG_TAIL_LINES,
    MARKER_BYTES,
    POLL_S,
    SIGNAL_DEADLINE_S,
)
from holdfast.protocol.clock import Source
from holdfast.protocol.directory import read_json, remove_file, write_json
from holdfast.protocol.errors import HoldfastError, WrongDirectory

__all__ = ["MARKER_VARIABLE", "ProcessState", "Processes", "Running", "log_tail"]

MARKER_VARIABLE = "HOLDFAST_LOCAL_MARKER"
_VERSION = 1
_PROC = Path("/proc")

ProcessState = Literal["running", "paused", "stopped"]


@dataclass(frozen=True, slots=True)
class Running:
    """A process that was proven to be ours when this value was made. ``started``: clock ticks since boot."""

    pid: int
    started: int
    boot: str
    marker: str


def _boot_id() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text().strip()


def _stat(pid: int) -> tuple[str, int] | None:
    """(state letter, start time in ticks) of a process, None when there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, field 2, may hold anything, ')' too: fields count from the last one.
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])


def _environment(pid: int) -> bytes | None:
    """A process's environment; None when it is gone or not ours to look at."""
    try:
        return (_PROC / str(pid) / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


class Processes:
    """Starts, finds and signals the processes of one cluster."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    # ----------------------------------------------------------------- starting

    def spawn(self, arguments: Sequence[str], folder: Path) -> Running:
        """Start ``holdfast <arguments>`` detached: own session, no terminal, output into the log.

        Nothing of this process's ``HOLDFAST_*`` environment reaches it: each such variable is an option.
        """
        marker = self._source.random_bytes(MARKER_BYTES).hex()
        record = {"version": _VERSION, "pid": 0, "started": 0, "boot": _boot_id(), "marker": marker}
        # First the marker alone: should we die before the pid is known, the process can still be found.
        write_json(folder / "process.json", record)
        _turn_log(folder / "output.log")
        with open(folder / "output.log", "ab", buffering=0) as log:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "holdfast.client.console", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env=_clean_environment(marker),
                start_new_session=True,
            )
        self._children[child.pid] = child
        found = _stat(child.pid)
        record.update(pid=child.pid, started=found[1] if found else 0)
        write_json(folder / "process.json", record)
        return Running(child.pid, found[1] if found else 0, str(record["boot"]), marker)

    def wait_ready(self, folder: Path, running: Running, name: str, deadline: float) -> dict[str, Any]:
        """Wait until the process says in ready.json that it serves; gives that file's content.

        Args:
            deadline: on the source's monotonic clock.

        Raises:
            HoldfastError: it ended, or is not ready in time; with the last lines of its log.
        """
        while True:
            ready = _ready(folder)
            if ready is not None and ready.get("pid") == running.pid:
                return ready
            ended = self.state(running) == "stopped"
            if ended or self._source.monotonic() > deadline:
                tail = log_tail(folder, LOG_TAIL_LINES)
                raise HoldfastError(
                    f"{name} {'ended while starting' if ended else 'did not get ready in time'}",
                    why="its log ends with:\n" + "\n".join(f"    {line}" for line in tail) if tail else "",
                    do=f"See the whole log: {folder / 'output.log'}",
                )
            sleep(POLL_S)

    # ------------------------------------------------------------------ finding

    def find(self, folder: Path) -> Running | None:
        """The process started for a folder, if it still runs; a stale process.json is removed."""
        record = _read_record(folder)
        if record is None:
            return None
        running = record if record.pid else self._find_by_marker(record)
        if running is not None and self.state(running) != "stopped":
            return running
        remove_file(folder / "process.json")
        return None

    def _find_by_marker(self, record: Running) -> Running | None:
        """A process whose start was cut short before its pid was written down."""
        for entry in _PROC.iterdir():
            if entry.name.isdecimal() and _carries(_environment(int(entry.name)), record.marker):
                found = _stat(int(entry.name))
                if found is not None:
                    return Running(int(entry.name), found[1], record.boot, record.marker)
        return None

    def state(self, running: Running) -> ProcessState:
        """What the process is doing; "stopped" also for a zombie and for a stranger with its pid."""
        child = self._children.get(running.pid)
        if child is not None and child.poll() is not None:
            del self._children[running.pid]
            return "stopped"
        found = _stat(running.pid)
        if found is None or found[0] in "ZX" or not self._is_ours(running):
            return "stopped"
        return "paused" if found[0] in "Tt" else "running"

    def _is_ours(self, running: Running) -> bool:
        deadline = self._source.monotonic() + EXEC_DEADLINE_S
        while True:
            found = _stat(running.pid)
            if found is None or found[0] in "ZX":
                return False
            if found[1] != running.started or _boot_id() != running.boot:
                return False
            environment = _environment(running.pid)
            if environment != b"" or self._source.monotonic() > deadline:
                return _carries(environment, running.marker)
            sleep(POLL_S / 10)  # between fork and exec there is nothing to read yet

    # --------------------------------------------------------------- signalling

    def signal(self, running: Running, number: signal.Signals) -> bool:
        """Send a signal; False (and none sent) when the process is gone or is not ours."""
        try:
            handle = os.pidfd_open(running.pid)
        except ProcessLookupError:
            return False
        except OSError as error:
            raise HoldfastError(
                "this system cannot signal processes safely",
                why=f"pidfd_open: {error.strerror}",
                do="Local clusters need Linux 5.3 or newer.",
            ) from error
        try:
            if not self._is_ours(running):
                return False
            signal.pidfd_send_signal(handle, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)

    def wait_gone(self, running: Running, seconds: float) -> bool:
        """Wait until the process has ended (and reap it when it is our child); False when time is up."""
        return self._wait(lambda: self.state(running) == "stopped", seconds, running.pid)

    def wait_state(self, running: Running, wanted: ProcessState) -> bool:
        """Wait for a signal's effect; False when it does not show in time."""
        return self._wait(lambda: self.state(running) == wanted, SIGNAL_DEADLINE_S, None)

    def _wait(self, reached: Callable[[], bool], seconds: float, ending: int | None) -> bool:
        deadline = self._source.monotonic() + seconds
        while not reached():
            left = deadline - self._source.monotonic()
            if left <= 0:
                return False
            if ending is None or not _sleep_until_end(ending, min(left, 1.0)):
                sleep(POLL_S)
        return True


def _sleep_until_end(pid: int, seconds: float) -> bool:
    """Wait on a pidfd, which becomes readable when the process ends; False when that cannot be done."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        # An unreaped child stays readable: do not spin on it.
        return not poll.poll(seconds * 1000)
    finally:
        os.close(handle)


def _read_record(folder: Path) -> Running | None:
    values = read_json(folder / "process.json", _VERSION)
    if values is None:
        return None
    try:
        made = Running(int(values["pid"]), int(values["started"]), str(values["boot"]), str(values["marker"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WrongDirectory(f"{folder / 'process.json'} is damaged", why=str(error)) from error
    if made.pid < 0 or len(made.marker) != 2 * MARKER_BYTES:
        raise WrongDirectory(f"{folder / 'process.json'} is damaged", why="a value is out of bounds")
    return made


def _ready(folder: Path) -> dict[str, Any] | None:
    try:
        return read_json(folder / "ready.json", 1)
    except WrongDirectory:
        return None  # being looked at is no reason to fail: the process decides what is wrong


def _carries(environment: bytes | None, marker: str) -> bool:
    return environment is not None and f"{MARKER_VARIABLE}={marker}".encode() in environment.split(b"\0")


def _clean_environment(marker: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HOLDFAST_")}
    if paths := kept.get("PYTHONPATH"):
        kept["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in paths.split(os.pathsep) if path)
    kept["PYTHONUNBUFFERED"] = "1"
    kept[MARKER_VARIABLE] = marker
    return kept


def _turn_log(path: Path) -> None:
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        os.replace(path, path.with_name(path.name + ".1"))


def log_tail(folder: Path, lines: int) -> list[str]:
    """The last lines of a member's log."""
    try:
        with open(folder / "output.log", "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_READ_BYTES_MAX))
            return log.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []
