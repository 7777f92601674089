"""Detached member processes: started, found again, signalled, ended; never anybody else's.

A process is known by its pid, its start time (field 22 of /proc/<pid>/stat, proc(5)) AND the
machine's boot: a pid that the kernel has given to another program since is never touched.
Signals go through a pidfd opened before these are compared, so that the process cannot be
exchanged in between (pidfd_open(2)).
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Literal

from holdfast.cluster.limits import (
    KILL_WITHIN_S,
    LOG_BYTES_MAX,
    LOG_TAIL_LINES,
    POLL_S,
    READY_WITHIN_S,
    STOP_WITHIN_S,
)
from holdfast.protocol.clock import SYSTEM, Source
from holdfast.protocol.directory import Lock, write_json
from holdfast.protocol.errors import Conflict, HoldfastError, Locked
from holdfast.protocol.ports import PORTS_VARIABLE

__all__ = [
    "Member",
    "ProcessState",
    "boot_id",
    "clean_environment",
    "end_strays",
    "last_words",
    "start_time",
    "wait_until",
]

_TELLING = 4
"""How many arguments say which folder is served: ``node run --dir FOLDER``."""
ProcessState = Literal["running", "paused", "stopped"]


def wait_until(
    condition: Callable[[], bool], within_s: float, *, every_s: float = POLL_S, source: Source = SYSTEM
) -> bool:
    """Wait for a condition, looked at so often; False when it did not come true in time."""
    until = source.monotonic() + within_s
    pause = Event()
    while not condition():
        if source.monotonic() > until:
            return False
        pause.wait(every_s)
    return True


def _stat_fields(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rsplit(")", 1)[1].split()


def boot_id() -> str:
    """Which boot of the machine this is: start times count from it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _children_of(pid: int) -> dict[int, int]:
    """Its children that live (pid -> start time): a node's supervisor has one."""
    try:
        numbers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return {}
    return {int(number): at for number in numbers if (at := start_time(int(number))) is not None}


def _our_pids() -> list[int]:
    """Every other process of this user whose pid counts here, and not in a container's namespace below."""
    uid, me = os.geteuid(), os.getpid()

    def is_ours(entry: os.DirEntry[str]) -> bool:
        try:
            return entry.stat().st_uid == uid and _pids_of(int(entry.name)) == 1
        except OSError:  # it has ended
            return False

    found = [entry for entry in os.scandir("/proc") if entry.name.isdecimal() and int(entry.name) != me]
    return [int(entry.name) for entry in found if is_ours(entry)]


def _pids_of(pid: int) -> int:
    """In how many namespaces of pids, from ours downwards, a process has one (proc(5), NSpid).

    (Its link to its own namespace would tell more, and is refused across user namespaces.)
    """
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return len(line.split()) - 1
    return 1


def _arguments(pid: int) -> list[str]:
    """What follows the module of ours that it runs; nothing where it runs something else."""
    try:
        told = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).removesuffix("\0").split("\0")
    except OSError:
        return []
    return told[4:] if told[2:3] == ["-m"] and told[3].startswith("holdfast.") else []


def _sees(pid: int, folder: Path) -> bool:
    """Is the folder of this name the same one for that process? In a container it may be another.

    Where nobody can tell, because the folder is gone or another user namespace forbids it, the name decides.
    """
    ours = os.path.realpath(folder)
    if not os.path.exists(ours):
        return True
    try:
        return os.path.samefile(f"/proc/{pid}/root{ours}", ours)
    except PermissionError:
        return True
    except OSError:
        return False


def _end(pids: Callable[[], list[int]], what: str) -> None:
    """Kill them, whoever started them, and wait until they are gone with all that they held."""
    killed: dict[int, int] = {}

    def none_left() -> bool:
        for pid in set(pids()) - killed.keys():
            with suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                if pid not in pids():  # the handle cannot come to mean another process any more
                    os.close(handle)
                    continue
                killed[pid] = handle
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        # Readable when its last thread is gone, and with it every lock and file. (select(2) ends at fd 1023.)
        gone = select.poll()
        for handle in killed.values():
            gone.register(handle, select.POLLIN)
        return len(gone.poll(0)) == len(killed) and not pids()

    try:
        if not wait_until(none_left, KILL_WITHIN_S):
            raise HoldfastError(f"{what} does not end, even when killed")
    finally:
        for handle in killed.values():
            os.close(handle)


def end_strays(folder: Path) -> None:
    """Kill every process of ours that was told to work in a folder; for folders that are one run's alone."""
    below = f"{folder}/"

    def strays() -> list[int]:
        named = [pid for pid in _our_pids() if any(given.startswith(below) for given in _arguments(pid))]
        return [pid for pid in named if _sees(pid, folder)]

    _end(strays, f"what works in {folder}")


def _send(pid: int, number: signal.Signals, is_meant: Callable[[], bool]) -> bool:
    """Signal exactly the process that is meant; False when there is none (any more)."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_meant():
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is none (or a zombie)."""
    fields = _stat_fields(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return int(fields[19])


@dataclass(slots=True)
class Member:
    """One process of a cluster, with a folder of its own.

    Attributes:
        name: "coordinator" or "node-3".
        arguments: what follows ``holdfast`` on its command line.
        environment: added to its environment, which has no ``HOLDFAST_*`` of ours: each of those
            is an option, and meant for somebody else.
        module: what Python runs.
    """

    name: str
    folder: Path
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    module: str = "holdfast.client.console"

    @property
    def log(self) -> Path:
        """Where it logs to."""
        return self.folder.parent / f"{self.name}.log"

    @property
    def _note(self) -> Path:
        return self.folder.parent / f"{self.name}.process.json"

    def pid(self) -> int | None:
        """Its pid, if it runs and is really ours."""
        try:
            noted = json.loads(self._note.read_bytes())
            pid, started = int(noted["pid"]), int(noted["started"])
            same_boot = noted["boot"] == boot_id()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return pid if same_boot and pid > 0 and start_time(pid) == started else None

    def pids(self) -> list[int]:
        """It and what it supervises, while it runs."""
        pid = self.pid()
        return [] if pid is None else [pid, *_children_of(pid)]

    def state(self) -> ProcessState:
        """Running, paused (SIGSTOP) or stopped."""
        pid = self.pid()
        if pid is None:
            return "stopped"
        fields = _stat_fields(pid)
        return "paused" if fields is not None and fields[0] in ("T", "t") else "running"

    def ready(self) -> dict[str, Any] | None:
        """What it says of itself once it serves (ready.json), if that is this very process."""
        try:
            told = json.loads((self.folder / "ready.json").read_bytes())
        except (OSError, ValueError):
            return None
        return told if isinstance(told, dict) and told.get("pid") == self.pid() else None

    def start(self) -> None:
        """Start it detached; fine when it runs.

        Raises:
            Conflict: it is paused.
        """
        if self.state() == "paused":
            number = self.name.removeprefix("node-")
            raise Conflict(
                f"{self.name} is paused", do=f"Let it go on with 'holdfast cluster resume {number}'."
            )
        if self.pid() is not None:
            return
        self._end_unnoted()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES_MAX:
            self.log.replace(self.log.with_suffix(".log.1"))
        (self.folder / "ready.json").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", self.module, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
                env=clean_environment() | dict(self.environment),
            )
        _children[process.pid] = process
        noted = {"pid": process.pid, "started": start_time(process.pid) or 0, "boot": boot_id()}
        write_json(self._note, noted)

    def _end_unnoted(self) -> None:
        """Kill what serves its folder and has no note: who started that died before it could write one."""
        known, telling = self.pids(), list(self.arguments[:_TELLING])

        def unnoted() -> list[int]:
            serving = [pid for pid in _our_pids() if _arguments(pid)[:_TELLING] == telling]
            return [pid for pid in serving if pid not in known and _sees(pid, self.folder)]

        _end(unnoted, self.name)

    def wait_ready(self, within_s: float = READY_WITHIN_S) -> dict[str, Any]:
        """Wait until it serves.

        Raises:
            HoldfastError: it ended, or took too long; the error shows the end of its log.
        """
        wait_until(lambda: self.ready() is not None or self._reaped() is None, within_s)
        told = self.ready()
        if told is None:
            gone = self.pid() is None
            why, do = last_words(self.tail())
            raise HoldfastError(
                f"{self.name} {'ended' if gone else 'did not get ready'} (see {self.log})", why=why, do=do
            )
        return told

    def _reaped(self) -> int | None:
        """Its pid while it lives; collects our own child's exit."""
        pid = self.pid()
        if pid is None:
            for child in list(_children.values()):
                if child.poll() is not None:
                    _children.pop(child.pid, None)
        return pid

    def tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The end of its log."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(0, self.log.stat().st_size - 64 * 1024))
                found = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(found[-lines:])

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; False when it does not run.

        A supervisor passes on what it can catch; stopping and going on it cannot, so its child gets that too.
        """
        pid = self.pid()
        if pid is None:
            return False
        if number in (signal.SIGSTOP, signal.SIGCONT):
            for child, started in _children_of(pid).items():
                _send(child, number, lambda c=child, s=started: start_time(c) == s)  # type: ignore[misc]
        # Looked at again once the handle cannot come to mean another process.
        return _send(pid, number, lambda: self.pid() == pid)

    def _ended_within(self, within_s: float) -> bool:
        return wait_until(lambda: self._reaped() is None and not self._is_in_use(), within_s)

    def _is_in_use(self) -> bool:
        """Does a process hold its folder? What a killed supervisor leaves behind may take a moment to end."""
        if not (self.folder / "lock").exists():
            return False
        try:
            Lock(self.folder, self.name).release()
        except Locked:
            return True
        return False

    def kill(self) -> None:
        """End it at once (SIGKILL) and wait until it, and what it supervised, is gone."""
        signalled = self.signal(signal.SIGKILL)
        if not self._ended_within(KILL_WITHIN_S) and signalled:
            raise HoldfastError(f"{self.name} does not end, even when killed")

    def stop(self) -> None:
        """End it cleanly (SIGTERM); killed when it takes too long."""
        asked = self.ask_to_stop()
        if asked and not self._ended_within(STOP_WITHIN_S):
            self.kill()
        self._end_unnoted()

    def ask_to_stop(self) -> bool:
        """SIGTERM, also to a paused process, without waiting for the end; False when it does not run."""
        asked = self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # a paused process could not obey
        return asked

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
        if self.signal(signal.SIGSTOP):
            wait_until(lambda: self.state() != "running", KILL_WITHIN_S)

    def resume(self) -> None:
        """SIGCONT."""
        if self.signal(signal.SIGCONT):
            wait_until(lambda: self.state() != "paused", KILL_WITHIN_S)


def last_words(log: str) -> tuple[str, str]:
    """Why a process ended, and what to do, where its log ends with an error of ours; else all of the log."""
    lines = log.splitlines()
    for at, line in enumerate(lines[-2:], max(0, len(lines) - 2)):
        if line.startswith("Error: "):
            following = lines[at + 1 :]
            is_next = bool(following) and following[0].startswith("  Next: ")
            return line.removeprefix("Error: "), following[0].removeprefix("  Next: ") if is_next else ""
    return log or "it wrote no log", ""


def clean_environment() -> dict[str, str]:
    """Our environment without Holdfast's variables, good in any working directory.

    Which ports may be chosen is a matter of this machine, and stays.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HOLDFAST_") or name == PORTS_VARIABLE
    }
    if paths := kept.get("PYTHONPATH"):
        kept["PYTHONPATH"] = os.pathsep.join(
            os.path.abspath(path) for path in paths.split(os.pathsep) if path
        )
    return kept


_children: dict[int, subprocess.Popen[bytes]] = {}
"""Processes this very process has started: they become zombies unless waited for."""
