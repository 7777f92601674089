"""Which ways of breaking things work on this machine, and why others do not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast.cluster.chaos.calls import why_unavailable as calls_why
from holdfast.cluster.chaos.namespaces import why_unavailable as namespaces_why
from holdfast.cluster.chaos.small_disks import why_unavailable as disks_why
from holdfast.cluster.chaos.syscalls import why_unavailable as syscalls_why

__all__ = ["Injector", "examine"]


@dataclass(frozen=True, slots=True)
class Injector:
    """One way of breaking things.

    Attributes:
        faults: kinds of faults that need it.
        why_not: why it does not work here; empty when it does.
        is_needed: built-in scenarios use it; the others only widen what can be tried by hand.
    """

    name: str
    faults: str
    why_not: str
    is_needed: bool = True


def examine() -> list[Injector]:
    """Try each of them, on processes and folders made for that alone."""
    return [
        Injector("signals", "kill, pause, restart, power-cut", _tried(_signals)),
        Injector("steps", "faults at a step of the protocol", ""),
        Injector("proxies", "network faults", _tried(_loopback_addresses)),
        Injector("disks", "bit-rot, truncate, swap-values, old-copy, disk-swap", _tried(_sparse_writes)),
        Injector("disk caches", "power-cut: what was not synced", calls_why(), is_needed=False),
        Injector("clocks", "clock", ""),
        Injector("lies", "lie", ""),
        Injector("strace", "disk-errors", syscalls_why()),
        Injector(
            "namespaces",
            'partition by = "namespace"; elsewhere proxies do it',
            namespaces_why(),
            is_needed=False,
        ),
        Injector("filesystems", "full-disk; elsewhere nodes get a capacity", disks_why(), is_needed=False),
    ]


def _tried(probe: Callable[[], str]) -> str:
    try:
        return probe()
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)


def _signals() -> str:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        handle = os.pidfd_open(child.pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGSTOP)
            signal.pidfd_send_signal(handle, signal.SIGCONT)
        finally:
            os.close(handle)
        return "" if Path(f"/proc/{child.pid}/stat").exists() else "/proc does not show processes"
    finally:
        child.kill()
        child.wait()
        if child.stdin is not None:
            child.stdin.close()


def _loopback_addresses() -> str:
    import socket

    with socket.socket() as probe:
        try:
            probe.bind(("127.0.72.1", 0))
        except OSError as error:
            return f"the whole of 127/8 should be loopback, as on Linux: {error.strerror}"
    return ""


def _sparse_writes() -> str:
    with tempfile.TemporaryDirectory(prefix="holdfast-doctor-") as folder:
        file = Path(folder) / "file"
        file.write_bytes(bytes(8192))
        os.truncate(file, 4096)
        return "" if file.stat().st_size == 4096 else "files cannot be cut off here"
