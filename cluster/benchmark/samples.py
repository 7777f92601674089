"""What was measured, and what it amounts to: medians, spreads, ratios. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from holdfast.cluster.benchmark.measuring import Cost

__all__ = ["PHASES", "Figure", "Sample", "Samples"]

MB = 1e6
GB = 1e9
PHASES = {
    "backup": "backup",
    "unchanged": "backup again, unchanged",
    "changed": "backup after a change",
    "restore": "restore",
    "degraded": "restore, 2 nodes dead",
    "repair": "repair of one lost node",
}
_OUT = ("restore", "degraded")


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one phase by one subject."""

    corpus: str
    phase: str
    subject: str
    round: int
    files: int
    bytes: int
    cost: Cost


@dataclass(frozen=True, slots=True)
class Figure:
    """A median and its spread."""

    middle: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Of at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(slots=True)
class Samples:
    """All samples of one run of the benchmark, and the floors measured in between.

    Attributes:
        floors: (seconds in, seconds out) per byte, by round.
    """

    all: list[Sample] = field(default_factory=list)
    floors: dict[int, tuple[float, float]] = field(default_factory=dict)

    def add_floor(self, number: int, in_s_per_byte: float, out_s_per_byte: float) -> None:
        """The floor of a round: the best of what was measured in it, for noise only ever adds."""
        before = self.floors.get(number, (in_s_per_byte, out_s_per_byte))
        self.floors[number] = (min(before[0], in_s_per_byte), min(before[1], out_s_per_byte))

    def of(self, corpus: str, phase: str, subject: str) -> list[Sample]:
        """The rounds of one thing."""
        return [s for s in self.all if (s.corpus, s.phase, s.subject) == (corpus, phase, subject)]

    def corpora(self) -> list[str]:
        """In the order measured."""
        return list(dict.fromkeys(sample.corpus for sample in self.all))

    def subjects(self) -> list[str]:
        """In the order measured, Holdfast first."""
        return sorted(
            dict.fromkeys(sample.subject for sample in self.all), key=lambda name: name != "holdfast"
        )

    def floor_mb_per_s(self, out: bool) -> Figure:
        """What one process does with the same primitives."""
        return Figure.of([1 / MB / pair[out] for pair in self.floors.values()])

    def mb_per_s(self, found: Sequence[Sample]) -> Figure:
        """User data per second."""
        return Figure.of([sample.bytes / MB / sample.cost.seconds for sample in found])

    def files_per_s(self, found: Sequence[Sample]) -> Figure:
        """Files per second."""
        return Figure.of([sample.files / sample.cost.seconds for sample in found])

    def of_floor(self, found: Sequence[Sample]) -> Figure:
        """As a part of the floor of the same round: 1 is as fast."""
        return Figure.of(
            [
                sample.bytes * self.floors[sample.round][sample.phase in _OUT] / sample.cost.seconds
                for sample in found
            ]
        )

    def cpu_s_per_gb(self, found: Sequence[Sample]) -> Figure:
        """Processor seconds of all processes per 10^9 bytes of user data."""
        return Figure.of([sample.cost.all_cpu_s / (sample.bytes / GB) for sample in found])

    def rows(self) -> list[dict[str, Any]]:
        """Everything, one flat row for each thing: for programs, and for the reports."""
        made = []
        for corpus in self.corpora():
            for phase in PHASES:
                for subject in self.subjects():
                    found = self.of(corpus, phase, subject)
                    if found:
                        made.append(self._row(found))
        return made

    def _row(self, found: Sequence[Sample]) -> dict[str, Any]:
        first, rate, files = found[0], self.mb_per_s(found), self.files_per_s(found)
        roles = sorted({role for sample in found for role in sample.cost.cpu_s})
        row: dict[str, Any] = {
            "corpus": first.corpus,
            "phase": first.phase,
            "subject": first.subject,
            "rounds": len(found),
            "seconds": round(median(sample.cost.seconds for sample in found), 3),
            "mb_per_s": round(rate.middle, 1),
            "mb_per_s_least": round(rate.least, 1),
            "mb_per_s_most": round(rate.most, 1),
            "files_per_s": round(files.middle, 1),
            "files_per_s_least": round(files.least, 1),
            "files_per_s_most": round(files.most, 1),
            "of_floor": round(self.of_floor(found).middle, 3),
            "cpu_s_per_gb": round(self.cpu_s_per_gb(found).middle, 2),
        }
        for role in roles:
            gb = first.bytes / GB
            row[f"cpu_s_per_gb_{role}"] = round(median(s.cost.cpu_s.get(role, 0.0) for s in found) / gb, 2)
        for role in sorted({role for sample in found for role in sample.cost.rss_bytes}):
            row[f"rss_mib_{role}"] = round(max(s.cost.rss_bytes.get(role, 0) for s in found) / 2**20, 1)
        for name in ("wire_bytes", "disk_bytes"):
            values = [getattr(sample.cost, name) for sample in found]
            if any(values):
                row[f"{name}_per_byte"] = round(median(values) / first.bytes, 3)
        return row
