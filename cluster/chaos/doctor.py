"""Which ways of breaking things work on this machine, and why others do not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from holdfast.cluster.chaos.syscalls import why_unavailable

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
        Injector("clocks", "clock", ""),
        Injector("lies", "lie", ""),
        Injector("strace", "disk-errors", why_unavailable()),
        Injector("namespaces", "none yet: proxies do the same", _tried(_namespaces), is_needed=False),
        Injector("nft", "none yet: proxies do the same", _nft(), is_needed=False),
        Injector("tmpfs", "none yet: --capacity fills nodes", _tried(_tmpfs), is_needed=False),
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


def _namespaces() -> str:
    return _of(["unshare", "-n", "true"], "util-linux")


def _nft() -> str:
    return "" if shutil.which("nft") else "nft is not installed (Debian: apt install nftables)"


def _tmpfs() -> str:
    with tempfile.TemporaryDirectory(prefix="holdfast-doctor-") as folder:
        script = f"mount -t tmpfs -o size=1m none '{folder}' && umount '{folder}'"
        # In a namespace of its own: whatever happens, nothing stays mounted.
        return _of(["unshare", "-m", "sh", "-c", script], "util-linux")


def _of(command: list[str], package: str) -> str:
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed (Debian: apt install {package})"
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return "" if done.returncode == 0 else (done.stderr.strip() or "it is not allowed here")[:200]
