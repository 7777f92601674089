"""What is measured: something that backs up a tree and brings it back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from holdfast.cluster.benchmark.measuring import Cost

__all__ = ["Absent", "Subject", "clean_environment"]


class Absent(Exception):
    """A peer is not installed here; the reason is for people."""


class Subject(Protocol):
    """One program under measurement."""

    name: str

    @property
    def version(self) -> str:
        """What it calls itself."""
        ...

    @property
    def notes(self) -> str:
        """What to know when comparing it."""
        ...

    def backup(self, corpus: str, tree: Path) -> Cost:
        """Back up a tree; the one before of the same corpus is its parent."""
        ...

    def restore(self, corpus: str, tree: Path, target: Path) -> Cost:
        """Bring the newest backup of a tree back into an empty folder."""
        ...

    def found_at(self, tree: Path, target: Path) -> Path:
        """Where below the target the tree's content is."""
        ...

    def close(self) -> None:
        """End what it has running."""
        ...


def clean_environment(folder: Path) -> dict[str, str]:
    """An environment in which nobody's own settings and caches count."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
