"""No safeguard can go unnoticed: each is taken away in turn, and the test that guards it must fail.

The source of one module is exchanged while it is imported, in processes that this test starts
(tests/support/sabotage); the product itself has no switch for it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.sabotage.safeguards import SAFEGUARDS, Safeguard

ROOT = Path(__file__).resolve().parents[3]
SITE = ROOT / "tests" / "support" / "sabotage" / "site"


def run_without(safeguard: Safeguard, tmp_path: Path) -> tuple[int, str, bool]:
    """Run the guarding test without the safeguard: (pytest's exit code, its words, was it taken away)."""
    order = {"module": safeguard.module, "before": safeguard.before, "after": safeguard.after}
    done = tmp_path / "done"
    (tmp_path / "order.json").write_text(json.dumps({**order, "done": str(done)}))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "SABOTAGE": str(tmp_path / "order.json"),
    }
    environment.pop("HYPOTHESIS_PROFILE", None)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", safeguard.caught_by],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr, done.exists()


@pytest.mark.parametrize("safeguard", SAFEGUARDS, ids=lambda one: re.sub(r"\W+", "-", one.name))
def test_a_safeguard_that_is_gone_is_missed(safeguard: Safeguard, tmp_path: Path) -> None:
    code, said, was_taken_away = run_without(safeguard, tmp_path)
    assert was_taken_away, said
    assert code == pytest.ExitCode.TESTS_FAILED, f"nobody noticed: {safeguard.name}\n{said[-3000:]}"


def test_the_list_of_safeguards_is_the_one_that_the_documentation_shows() -> None:
    shown = (ROOT / "docs" / "reliability.md").read_text()
    for safeguard in SAFEGUARDS:
        test = safeguard.caught_by.rpartition("/")[2]
        row = f"| {safeguard.name} | `{test}` | {safeguard.seed if safeguard.seed is not None else ''} |"
        assert row.replace("|  |", "| |") in shown, row
    assert len({safeguard.name for safeguard in SAFEGUARDS}) == len(SAFEGUARDS) >= 12
