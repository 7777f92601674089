"""A process that looks at stores, and is killed by those that have a file named "deadly" in them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from holdfast.cluster.chaos import sampling
from holdfast.node.store_lmdb_looking import look_at_store

__all__ = ["begin"]


def begin(folder: Path) -> None:
    """What such a process begins with."""
    sampling.look_at_store = _look_and_perhaps_die
    sampling._begin(folder)


def _look_and_perhaps_die(path: Path, **options: Any) -> Any:
    if (path / "deadly").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return look_at_store(path, **options)
