"""Safeguards whose absence only a broken cluster shows: a chaos run without one must be a violation."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.sabotage.safeguards import SAFEGUARDS, Safeguard, name_of, run_without

from holdfast.cluster.chaos.result import VIOLATED

BY_SCENARIO = [safeguard for safeguard in SAFEGUARDS if safeguard.by_scenario]


@pytest.mark.parametrize("safeguard", BY_SCENARIO, ids=name_of)
def test_a_run_without_a_safeguard_is_a_violation(safeguard: Safeguard, tmp_path: Path) -> None:
    command = ["-P", "-m", "holdfast.client.console", "chaos", "run", safeguard.caught_by]
    command += ["--seed", str(safeguard.seed)]
    code, said, was_taken_away = run_without(safeguard, command, tmp_path)
    assert was_taken_away, said
    assert code == VIOLATED, f"nobody noticed: {safeguard.name}\n{said[-3000:]}"
