"""Cleaning up after a process that could not do it itself.

A temporary cluster must not outlive the program that made it, even if that was
killed. So a small process holds the reading end of a pipe whose writing end
only that program has: when it closes without a word, the cluster is stopped and
its folder deleted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["Lifeline"]

_LET_GO = b"let go\n"


class Lifeline:
    """Guards a temporary cluster's folder as long as this process lives."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "holdfast.cluster.lifeline", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def let_go(self) -> None:
        """Nothing is left to clean up."""
        self._end(_LET_GO)

    def fire(self) -> None:
        """Clean up now."""
        self._end(b"")

    def _end(self, word: bytes) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.write(word)
                self._process.stdin.close()
            except BrokenPipeError:
                pass  # it has ended already
        self._process.wait()


def watch(folder: Path) -> None:
    """Wait for the pipe's end; clean up unless told to let go."""
    if sys.stdin.buffer.read() == _LET_GO:
        return
    from holdfast.cluster.layout import Layout
    from holdfast.cluster.members import Members
    from holdfast.protocol.clock import SYSTEM
    from holdfast.protocol.errors import HoldfastError

    try:
        members = Members(Layout.open(folder), SYSTEM)
        members.kill(list(members.layout.members()))
    except HoldfastError:
        pass  # there is no cluster in it yet
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    os.umask(0o077)
    watch(Path(sys.argv[1]))
