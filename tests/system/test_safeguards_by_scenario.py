"""Safeguards whose absence only a broken cluster shows: a chaos run without one must be a violation."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.sabotage.safeguards import SAFEGUARDS, Safeguard, name_of, run_without

from holdfast.cluster.chaos.result import VIOLATED

SEEDS_MAX = 4
BY_SCENARIO = [safeguard for safeguard in SAFEGUARDS if safeguard.by_scenario]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("safeguard", BY_SCENARIO, ids=name_of)
def test_a_run_without_a_safeguard_is_a_violation(safeguard: Safeguard, tmp_path: Path) -> None:
    said = ""
    # A seed fixes what is drawn, not which request meets the fault: a few may be needed.
    for seed in range(safeguard.seed, safeguard.seed + SEEDS_MAX):
        command = ["-P", "-m", "holdfast.client.console", "chaos", "run", safeguard.caught_by]
        code, said, was_taken_away = run_without(safeguard, [*command, "--seed", str(seed)], tmp_path)
        assert was_taken_away, said
        if code == VIOLATED:
            return
    raise AssertionError(f"nobody noticed: {safeguard.name}\n{said[-3000:]}")
