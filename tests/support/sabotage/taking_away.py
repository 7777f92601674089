"""Running Python while passages of the product's source are others than they are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Edit", "id_of", "run_with"]

_ROOT: Final = Path(__file__).resolve().parents[3]
_SITE: Final = Path(__file__).resolve().parent / "site"


@dataclass(frozen=True, slots=True)
class Edit:
    """One passage of a module, as it stands there (exactly once), and what it becomes."""

    module: str
    before: str
    after: str


def id_of(name: str) -> str:
    """For a test's id."""
    return re.sub(r"\W+", "-", name)


def run_with(
    edits: Sequence[Edit], command: Sequence[str], folder: Path, *, only: Sequence[str] = (), within_s: float
) -> tuple[int, str, bool]:
    """Run Python with these arguments and edits: (exit code, its words, was anything exchanged).

    Args:
        only: exchange in processes whose command line has one of these words; none: in all.
        within_s: subprocess.TimeoutExpired after that.
    """
    by_module: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for edit in edits:
        by_module[edit.module].append((edit.before, edit.after))
    done = folder / "done"
    (folder / "order.json").write_text(
        json.dumps({"edits": by_module, "only": list(only), "done": str(done)})
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_SITE), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "SABOTAGE": str(folder / "order.json"),
    }
    environment.pop("HYPOTHESIS_PROFILE", None)
    ended = subprocess.run(
        [sys.executable, *command],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr, done.exists()
