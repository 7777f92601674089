"""A small parent that restarts a node which was killed by its own disk, and tells the next one of which key.

The serving process is forked from the parent before anything heavy is imported.
It ends with its parent, even when that is killed (PR_SET_PDEATHSIG, prctl(2));
signals sent to the parent are passed on. Only deaths by SIGBUS and its like are
followed by a restart, a bounded number of times an hour; then the store counts as
damaged, and the node says so. Any other end is the parent's end, too.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Final, NoReturn

from holdfast.node.limits import CRASH_PAUSE_S, CRASH_RESTARTS_MAX, CRASH_WINDOW_S
from holdfast.protocol.clock import Source

__all__ = ["CRASHES", "may_restart", "supervised"]

CRASHES: Final = (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
"""What a process dies of when the pages under it are not what they should be."""
_PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG: Final = 1


def may_restart(crashes_s: Sequence[float], now_s: float) -> bool:
    """After this crash (the last of these times), is another start worth it, or is the store damaged?"""
    return sum(at > now_s - CRASH_WINDOW_S for at in crashes_s) <= CRASH_RESTARTS_MAX


def supervised(folder: Path, source: Source) -> int:
    """Fork, and return in the child alone, with the parent's pid: the one that others know this node by.

    The parent stays in here and leaves with the child's exit code. Where a process cannot be tied to its
    parent's life (not Linux) nothing is forked.
    """
    if sys.platform != "linux":
        return os.getpid()
    parent = _Parent(folder / "store", source)
    return parent.watch()


class _Parent:
    def __init__(self, store: Path, source: Source) -> None:
        self._store = store
        self._source = source
        self._child = 0
        self._asked_to_end = False
        self._crashes: list[float] = []
        self._before: dict[int, object] = {}

    def watch(self) -> int:
        """Start children until one ends by itself."""
        for number in _PASSED_ON:
            self._before[number] = signal.signal(number, self._pass_on)
        while True:
            parent = os.getpid()
            if self._fork(parent) == 0:
                return parent
            _, status = os.waitpid(self._child, 0)
            self._child = 0
            if not self._crashed(status):
                self._leave(status)

    def _fork(self, parent: int) -> int:
        # Held back meanwhile: a signal must find either the parent's handler or the child's own.
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
        try:
            sys.stdout.flush()
            sys.stderr.flush()
            self._child = os.fork()
            if self._child == 0:
                _end_with_parent(parent)
                for number, before in self._before.items():
                    signal.signal(number, before)  # type: ignore[arg-type]
            return self._child
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)

    def _pass_on(self, number: int, _frame: object) -> None:
        self._asked_to_end |= number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        if self._child:
            os.kill(self._child, number)

    def _crashed(self, status: int) -> bool:
        """Note what it died of; True when another start may help."""
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) not in CRASHES or self._asked_to_end:
            return False
        from holdfast.node.store_folder import add_suspects, damage_of, declare_damaged
        from holdfast.node.watching import take_keys_at_death

        name = signal.Signals(os.WTERMSIG(status)).name
        keys = take_keys_at_death(self._store)
        now = self._source.monotonic()
        self._crashes.append(now)
        said = f"the node was killed by {name}" + (f" while reading {keys[0].hex()}" if keys else "")
        print(said, file=sys.stderr, flush=True)
        if damage_of(self._store) is not None or not self._store.is_dir():
            return False  # it died without touching a store: nothing here can help it
        if keys:
            add_suspects(self._store, keys)
        if not may_restart(self._crashes, now):
            times = len(self._crashes)
            declare_damaged(self._store, f"reading it killed the node {times} times, the last time by {name}")
        Event().wait(CRASH_PAUSE_S)
        return True

    def _leave(self, status: int) -> NoReturn:
        if os.WIFSIGNALED(status):
            sys.stderr.flush()
            os._exit(128 + os.WTERMSIG(status))
        os._exit(os.waitstatus_to_exitcode(status))


def _end_with_parent(parent: int) -> None:
    """Die when the parent does. Raises SystemExit when it is gone already."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
