"""What was found when an open cluster was verified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from holdfast.cluster.chaos.history import AnyEvent, InvariantJudged
from holdfast.cluster.chaos.report import report_html
from holdfast.cluster.chaos.result import HELD

__all__ = ["Verified"]


@dataclass(frozen=True, slots=True)
class Verified:
    """What :meth:`OpenCluster.verify` found.

    Attributes:
        exit_code: as of 'holdfast chaos run': 0 held, 30 violated, 31 inconclusive.
        sentence: what was survived, or the first violation.
        replay_command: what runs the same again, to be copied into a shell.
        scenario: as a file.
    """

    exit_code: int
    sentence: str
    replay_command: str
    invariants: Sequence[InvariantJudged]
    events: Sequence[AnyEvent]
    scenario: str

    @property
    def ok(self) -> bool:
        """Did every invariant hold?"""
        return self.exit_code == HELD

    def html(self) -> str:
        """The page that shows it."""
        return report_html(self.events, self.scenario)

    def write(self, folder: Path) -> Path:
        """Write the page, the history and the scenario into a folder; gives the page."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = b"".join(msgspec.json.encode(event) + b"\n" for event in self.events)
        (folder / "history.jsonl").write_bytes(lines)
        (folder / "scenario.toml").write_text(self.scenario)
        page = folder / "index.html"
        page.write_text(self.html())
        return page

    def __str__(self) -> str:
        broken = [f"({j.letter}) {j.title}: {j.why}" for j in self.invariants if j.verdict == "violated"]
        return "\n".join([self.sentence, *broken, f"To see it again: {self.replay_command}"])
