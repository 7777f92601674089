"""What came of a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from holdfast.cluster.chaos.history import AnyEvent, InvariantJudged
from holdfast.cluster.chaos.scenario import Scenario

__all__ = ["HARNESS_FAILED", "HELD", "INCONCLUSIVE", "VIOLATED", "ChaosResult", "replay_command"]

HELD: Final = 0
VIOLATED: Final = 30
INCONCLUSIVE: Final = 31
HARNESS_FAILED: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosResult:
    """What a run showed. A report folder holds it as ``history.jsonl`` and ``scenario.toml``.

    Attributes:
        scenario: as it was run, with everything that the command line changed.
        inconclusive: why a run that violated nothing proves nothing, or "".
        folder: the report's folder; None when none was asked for.
    """

    scenario: Scenario
    seed: int
    events: Sequence[AnyEvent]
    invariants: Sequence[InvariantJudged]
    exit_code: int
    sentence: str
    inconclusive: str = ""
    folder: Path | None = None

    @property
    def ok(self) -> bool:
        """Did every invariant hold?"""
        return self.exit_code == HELD

    @property
    def violations(self) -> list[InvariantJudged]:
        """The invariants that did not hold."""
        return [judged for judged in self.invariants if judged.verdict == "violated"]

    @property
    def replay_command(self) -> str:
        """What runs the same again, to be copied into a shell."""
        return replay_command(self.scenario, self.seed, self.folder)


def replay_command(scenario: Scenario, seed: int, folder: Path | None) -> str:
    """By the report where there is one, else by the scenario's name and the seed."""
    if folder is not None:
        return f"holdfast chaos replay {shlex.quote(str(folder))}"
    return f"holdfast chaos run {shlex.quote(scenario.name)} --seed {seed}"
