"""The checker's book: what must hold, what was looked at, what did not hold, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from holdfast.cluster.chaos.history import History, InvariantJudged
from holdfast.cluster.chaos.scenario import Scenario

__all__ = ["INVARIANTS", "Judge"]

INVARIANTS: Final[dict[str, str]] = {
    "a": "what was acknowledged restores byte for byte while k good shards are in reach",
    "b": "reads give exact bytes or a typed error, never wrong, foreign or stale ones",
    "c": "failed means never visible, unknown settles, retries change nothing, and cheats are refused",
    "d": "every chunk of a visible snapshot was at its write quorum when it was committed",
    "e": "no two slots of a stripe on one node, no zone above its share",
    "f": "catalogue and nodes agree in the end, orphans are collected, and nothing needed is swept",
    "g": "a forgotten snapshot does not come back",
    "h": "after the faults every stripe has all its shards again in time, and repair comes to rest",
    "i": "beyond m: what cannot be read is named, nothing is thrown away, all comes back",
    "j": "heads only grow, none changes, and no coordinator makes one whose term is over",
    "k": "no plaintext, file name or key in files, logs or traffic of servers",
    "l": "memory, descriptors and disk come back to where they were, and nobody dies unasked",
    "m": "every declared fault had an effect",
}


@dataclass(slots=True)
class _Entry:
    looked: int = 0
    violations: int = 0
    at: float | None = None
    why: str = ""


@dataclass(slots=True)
class Judge:
    """Collects looks and violations. Any thread of the run's event loop may tell it.

    Args:
        now: seconds since the run began.
    """

    scenario: Scenario
    now: Callable[[], float]
    entries: dict[str, _Entry] = field(default_factory=lambda: {letter: _Entry() for letter in INVARIANTS})
    operations: Counter[str] = field(default_factory=Counter)

    def looked(self, letter: str, count: int = 1) -> None:
        """There was an occasion to look, and it held."""
        self.entries[letter].looked += count

    def violated(self, letter: str, why: str) -> None:
        """It did not hold. The first time is what is told."""
        entry = self.entries[letter]
        entry.looked += 1
        entry.violations += 1
        if entry.at is None:
            entry.at, entry.why = round(self.now(), 3), why

    @property
    def is_broken(self) -> bool:
        """Did anything but a fault's effect (m) not hold so far?"""
        looked_at = set(self.entries) - {"m", *self.scenario.expect.skip}
        return any(self.entries[letter].violations for letter in looked_at)

    def require(self, letter: str, holds: bool, why: str) -> None:
        """Look at one thing."""
        if holds:
            self.looked(letter)
        else:
            self.violated(letter, why)

    def judge(self, history: History) -> list[InvariantJudged]:
        """The verdict on every invariant, noted in the history."""
        verdicts = []
        for letter, title in INVARIANTS.items():
            entry = self.entries[letter]
            if letter in self.scenario.expect.skip or (entry.looked == 0 and entry.at is None):
                verdict, why = "not judged", ""
            elif entry.at is not None:
                more = f" (and {entry.violations - 1} more)" if entry.violations > 1 else ""
                verdict, why = "violated", entry.why + more
            else:
                verdict, why = "held", ""
            verdicts.append(
                history.add(
                    InvariantJudged,
                    letter=letter,
                    title=title,
                    verdict=verdict,
                    why=why,
                    at=entry.at if verdict == "violated" else None,
                    looked=entry.looked,
                )
            )
        return verdicts
