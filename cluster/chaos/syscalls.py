"""System calls that fail or are late, in a running node: ``strace -e inject`` (strace(1))."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from holdfast.cluster.processes import wait_until
from holdfast.protocol.errors import HoldfastError

__all__ = ["SyscallFault", "why_unavailable"]

_ATTACHED_WITHIN_S = 10.0


def why_unavailable() -> str:
    """Why it does not work on this machine; empty when it does."""
    if shutil.which("strace") is None:
        return "strace is not installed (Debian: apt install strace)"
    probe = subprocess.run(
        ["strace", "-qq", "-o", os.devnull, "-e", "inject=getppid:error=EIO", "true"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return "" if probe.returncode == 0 else f"strace may not trace here: {probe.stderr.strip()[:200]}"


class SyscallFault:
    """Processes whose system calls are tampered with until :meth:`end`.

    Args:
        pids: a member's processes, all threads of each.
        call: the system call; ``error``: what it gives instead of being done, or "" for nothing.
        times: how many of them; 0: all. delay_ms: how late each is.
        log: what strace writes; tells how often it happened.

    Raises:
        HoldfastError: strace did not attach.
    """

    def __init__(
        self, pids: Sequence[int], *, call: str, error: str, times: int, delay_ms: float, log: Path
    ) -> None:
        inject = f"inject={call}"
        if error:
            inject += f":error={error}"
        if delay_ms:
            inject += f":delay_enter={int(delay_ms * 1000)}"
        if times:
            inject += f":when=1..{times}"
        self._log = log
        attach = [argument for pid in pids for argument in ("-p", str(pid))]
        tamper = ["-f", "-o", str(log), "-e", f"trace={call}", "-e", inject, *attach]
        # Ends with us, however we end: a tracer left behind would tamper on.
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "strace", *tamper],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        traced = [Path(f"/proc/{pid}/status") for pid in pids]
        if not wait_until(lambda: all(map(self._is_traced, traced)), _ATTACHED_WITHIN_S):
            self.end()
            raise HoldfastError("strace did not attach", why=why_unavailable() or "the processes ended")

    def _is_traced(self, status: Path) -> bool:
        try:
            return f"TracerPid:\t{self._process.pid}" in status.read_text()
        except OSError:
            return False

    def end(self) -> int:
        """Let go; gives how many calls were tampered with."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        try:
            told = self._log.read_text(errors="replace")
        except OSError:
            return 0
        return told.count("(INJECTED)") + told.count("(DELAYED)")
