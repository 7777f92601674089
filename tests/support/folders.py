"""Folders that need more care than pytest's tmp_path gives."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def removed_afterwards(folder: Path) -> Iterator[Path]:
    """Remove the tree with rm(1): it may be deeper than shutil.rmtree, and so pytest, can recurse."""
    try:
        yield folder
    finally:
        subprocess.run(["rm", "-rf", "--", folder], check=True)
