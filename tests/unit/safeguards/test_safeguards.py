"""No safeguard can go unnoticed: each is taken away in turn, and the test that guards it must fail.

The source of one module is exchanged while it is imported, in processes that this test starts
(tests/support/sabotage); the product itself has no switch for it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from support.sabotage.by_scenario import EXPOSED, Exposed
from support.sabotage.safeguards import SAFEGUARDS, Safeguard
from support.sabotage.taking_away import Edit, id_of, run_with

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("safeguard", SAFEGUARDS, ids=lambda one: id_of(one.name))
def test_a_safeguard_that_is_gone_is_missed(safeguard: Safeguard, tmp_path: Path) -> None:
    command = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", safeguard.caught_by]
    edit = Edit(safeguard.module, safeguard.before, safeguard.after)
    code, said, was_taken_away = run_with([edit], command, tmp_path, within_s=170)
    assert was_taken_away, said
    assert code == pytest.ExitCode.TESTS_FAILED, f"nobody noticed: {safeguard.name}\n{said[-3000:]}"


@pytest.mark.parametrize("exposed", EXPOSED, ids=lambda one: id_of(one.name))
def test_what_a_scenario_must_miss_stands_where_the_list_says(exposed: Exposed) -> None:
    """Not all of them are tried by every run of the tests; the list must follow the code all the same."""
    for edit in exposed.edits:
        source = importlib.util.find_spec(edit.module)
        assert source is not None and source.origin is not None
        assert Path(source.origin).read_text().count(edit.before) == 1, edit


def test_the_list_of_safeguards_is_the_one_that_the_documentation_shows() -> None:
    shown = (ROOT / "docs" / "reliability.md").read_text()
    for safeguard in SAFEGUARDS:
        test = safeguard.caught_by.rpartition("/")[2]
        row = f"| {safeguard.name} | `{test}` | {safeguard.seed if safeguard.seed is not None else ''} |"
        assert row.replace("|  |", "| |") in shown, row
    assert len({safeguard.name for safeguard in SAFEGUARDS}) == len(SAFEGUARDS) >= 12
