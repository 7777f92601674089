"""No safeguard can go unnoticed: each is taken away in turn, and the test that guards it must fail.

The source of one module is exchanged while it is imported, in processes that this test starts
(tests/support/sabotage); the product itself has no switch for it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.sabotage.safeguards import SAFEGUARDS, Safeguard, name_of, run_without

ROOT = Path(__file__).resolve().parents[3]
TESTED = [safeguard for safeguard in SAFEGUARDS if not safeguard.by_scenario]


@pytest.mark.parametrize("safeguard", TESTED, ids=name_of)
def test_a_safeguard_that_is_gone_is_missed(safeguard: Safeguard, tmp_path: Path) -> None:
    command = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", safeguard.caught_by]
    code, said, was_taken_away = run_without(safeguard, command, tmp_path)
    assert was_taken_away, said
    assert code == pytest.ExitCode.TESTS_FAILED, f"nobody noticed: {safeguard.name}\n{said[-3000:]}"


def test_the_list_of_safeguards_is_the_one_that_the_documentation_shows() -> None:
    shown = (ROOT / "docs" / "reliability.md").read_text()
    for safeguard in SAFEGUARDS:
        test = safeguard.caught_by.rpartition("/")[2]
        row = f"| {safeguard.name} | `{test}` | {safeguard.seed if safeguard.seed is not None else ''} |"
        assert row.replace("|  |", "| |") in shown, row
    assert len({safeguard.name for safeguard in SAFEGUARDS}) == len(SAFEGUARDS) >= 12
