"""Safeguards whose absence a broken cluster must show: a chaos run without one is a violation.

``make chaos-soak`` tries all of them; without CHAOS_SOAK those are left out that take a minute or more.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.sabotage.by_scenario import EXPOSED, SEEDS_MAX, Exposed
from support.sabotage.taking_away import id_of, run_with

from holdfast.cluster.chaos.judging import INVARIANTS
from holdfast.cluster.chaos.result import VIOLATED

ROOT = Path(__file__).resolve().parents[2]
CHAOS = ["-P", "-m", "holdfast.client.console", "chaos", "run"]
TRIED = [one for one in EXPOSED if one.is_quick or "CHAOS_SOAK" in os.environ]


def broken(said: str) -> set[str]:
    """Letters of the invariants that did not hold, by what "--json" says."""
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return {line["letter"] for line in lines if line.get("verdict") == "violated"}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("exposed", TRIED, ids=lambda one: id_of(one.name))
def test_a_run_without_a_safeguard_is_a_violation(exposed: Exposed, tmp_path: Path) -> None:
    said = ""
    # A seed fixes what is drawn, not which request meets the fault: a few may be needed.
    for seed in range(exposed.seed, exposed.seed + SEEDS_MAX):
        command = [*CHAOS, exposed.scenario, "--seed", str(seed), "--json", "--fail-fast"]
        code, said, was_taken_away = run_with(
            exposed.edits, command, tmp_path, only=exposed.only, within_s=220
        )
        assert was_taken_away, said
        if code == VIOLATED and broken(said) & set(exposed.letters):
            return
    raise AssertionError(f"nobody noticed: {exposed.name}\n{said[-3000:]}")


def test_the_list_is_the_one_that_the_documentation_shows() -> None:
    shown = (ROOT / "docs" / "reliability.md").read_text()
    for one in EXPOSED:
        title = INVARIANTS[one.letters[0]]
        row = f"| {one.name} | `{one.scenario}` | {one.seed} | ({one.letters[0]}) {title} |"
        assert row + (" |" if one.is_quick else " soak |") in shown, row
    assert len({one.name for one in EXPOSED}) == len(EXPOSED)
    assert sum(one.is_quick for one in EXPOSED) >= 12
