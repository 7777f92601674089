"""A run as a report tells it: lanes, bands, marks, operations and samples, made from events alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Final

from holdfast.cluster.chaos.history import (
    AnyEvent,
    FaultBegan,
    FaultEnded,
    InvariantJudged,
    MemberChanged,
    Note,
    OperationEnded,
    OperationStarted,
    Outcome,
    PhaseBegan,
    RunBegan,
    RunEnded,
    Sampled,
)
from holdfast.protocol.errors import BadRequest

__all__ = ["Band", "Lane", "Mark", "Operation", "Span", "Story", "story_of"]

_SHORTEST_RUN_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Span:
    """Something that lasted, seconds since the run began."""

    begin: float
    end: float
    what: str


@dataclass(frozen=True, slots=True)
class Band:
    """One fault as it shows in the lane of one target.

    Attributes:
        end: where it was taken back; the run's end when it never was.
        row: bands of one lane that overlap have rows of their own, counted from 0.
    """

    number: int
    kind: str
    begin: float
    end: float
    instant: bool
    row: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment in a lane: "killed", "stopped", "started", "paused", "resumed"."""

    at: float
    what: str


@dataclass(frozen=True, slots=True)
class Lane:
    """One member (or "clients"): what its process did, and what was done to it.

    Attributes:
        process: spans of "running", "paused", "stopped".
        seen: spans in which the coordinator took it for something other than up.
    """

    name: str
    zone: str
    process: Sequence[Span]
    seen: Sequence[Span]
    bands: Sequence[Band]
    marks: Sequence[Mark]

    @property
    def rows(self) -> int:
        """How many rows its bands need."""
        return max((band.row + 1 for band in self.bands), default=0)


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that a client did; ``end`` and ``outcome`` are None for one that was under way at the end."""

    number: int
    kind: str
    client: str
    begin: float
    end: float | None
    outcome: Outcome | None
    code: str

    @property
    def took_s(self) -> float:
        """Seconds from start to end; 0 while it goes on."""
        return 0.0 if self.end is None else self.end - self.begin


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that a report shows.

    Attributes:
        length_s: from the run's begin to its last event, at least a second.
        ended: None when the run was cut short.
    """

    began: RunBegan
    ended: RunEnded | None
    length_s: float
    phases: Sequence[Span]
    lanes: Sequence[Lane]
    faults: Sequence[FaultBegan]
    fault_ends: dict[int, float]
    samples: Sequence[Sampled]
    operations: Sequence[Operation]
    invariants: Sequence[InvariantJudged]
    notes: Sequence[Note]

    @property
    def violations(self) -> list[InvariantJudged]:
        """Invariants that did not hold, the first violation first."""
        found = [judged for judged in self.invariants if judged.verdict == "violated"]
        return sorted(found, key=lambda judged: self.length_s if judged.at is None else judged.at)

    @property
    def lowest(self) -> Sampled | None:
        """The sample nearest to loss: the fewest spare shards; None when no stripe was ever seen."""
        seen = [sample for sample in self.samples if sample.fewest is not None]
        return min(seen, key=lambda sample: (sample.fewest or 0) - sample.fewest_k, default=None)

    def count(self, outcome: Outcome) -> int:
        """Operations that came to this."""
        return sum(operation.outcome == outcome for operation in self.operations)

    def phase_at(self, t: float) -> str:
        """In which phase a moment lies."""
        return next((span.what for span in reversed(self.phases) if span.begin <= t), "start")

    def typical_s(self) -> float | None:
        """Median seconds of the operations that succeeded."""
        took = [operation.took_s for operation in self.operations if operation.outcome == "ok"]
        return median(took) if took else None


@dataclass(slots=True)
class _Making:
    """What is known while events are read."""

    began: RunBegan
    ended: RunEnded | None = None
    phases: list[PhaseBegan] = field(default_factory=list)
    changes: dict[str, list[MemberChanged]] = field(default_factory=dict)
    faults: list[FaultBegan] = field(default_factory=list)
    fault_ends: dict[int, float] = field(default_factory=dict)
    samples: list[Sampled] = field(default_factory=list)
    started: list[OperationStarted] = field(default_factory=list)
    done: dict[int, OperationEnded] = field(default_factory=dict)
    invariants: list[InvariantJudged] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    last: float = 0.0

    def take(self, event: AnyEvent) -> None:
        self.last = max(self.last, event.t)
        match event:
            case PhaseBegan():
                self.phases.append(event)
            case MemberChanged():
                self.changes.setdefault(event.member, []).append(event)
            case FaultBegan():
                self.faults.append(event)
            case FaultEnded():
                self.fault_ends.setdefault(event.fault, event.t)
            case Sampled():
                self.samples.append(event)
            case OperationStarted():
                self.started.append(event)
            case OperationEnded():
                self.done[event.op] = event
            case InvariantJudged():
                self.invariants.append(event)
            case Note():
                self.notes.append(event)
            case RunEnded():
                self.ended = event
            case RunBegan():
                pass


def story_of(events: Iterable[AnyEvent]) -> Story:
    """Put a run's events in order for telling.

    Raises:
        BadRequest: there is no beginning.
    """
    stream = iter(events)
    first = next(stream, None)
    if not isinstance(first, RunBegan):
        raise BadRequest("this is no history of a run", why="it does not begin with one")
    making = _Making(first)
    for event in stream:
        making.take(event)
    length = max(making.last, _SHORTEST_RUN_S)
    return Story(
        began=first,
        ended=making.ended,
        length_s=length,
        phases=_phases(making.phases, length),
        lanes=[_lane(name, making, length) for name in _lane_names(making)],
        faults=making.faults,
        fault_ends=making.fault_ends,
        samples=making.samples,
        operations=[_operation(started, making.done.get(started.op)) for started in making.started],
        invariants=sorted(making.invariants, key=lambda judged: judged.letter),
        notes=making.notes,
    )


def _phases(begun: Sequence[PhaseBegan], length: float) -> list[Span]:
    ends = [phase.t for phase in begun[1:]] + [length]
    return [Span(phase.t, end, phase.phase) for phase, end in zip(begun, ends, strict=False)]


def _operation(started: OperationStarted, done: OperationEnded | None) -> Operation:
    return Operation(
        started.op,
        started.kind,
        started.client,
        started.t,
        done.t if done else None,
        done.outcome if done else None,
        done.code if done else "",
    )


def _lane_names(making: _Making) -> list[str]:
    """Members in their order, then whatever else was a target."""
    targets = [target for fault in making.faults for target in fault.targets]
    return list(dict.fromkeys([*making.began.members, *targets]))


def _lane(name: str, making: _Making, length: float) -> Lane:
    changes = making.changes.get(name, [])
    process = _spans([(change.t, change.state) for change in changes if change.seen_by == "machine"], length)
    seen = _spans([(change.t, change.state) for change in changes if change.seen_by == "coordinator"], length)
    kills = [fault.t for fault in making.faults if name in fault.targets and fault.kind in _KILLING]
    return Lane(
        name=name,
        zone=making.began.zones.get(name, ""),
        process=process,
        seen=[span for span in seen if span.what != "up"],
        bands=_in_rows(_bands(name, making, length)),
        marks=list(_marks(process, kills)),
    )


_KILLING: Final = ("kill", "power-cut")
_KILL_SHOWS_WITHIN_S: Final = 1.5
"""A process that stops so soon after it was to be killed was killed, and did not end by itself."""


def _spans(states: Sequence[tuple[float, str]], length: float) -> list[Span]:
    found: list[Span] = []
    for (begin, state), end in zip(states, [t for t, _ in states[1:]] + [length], strict=False):
        if found and found[-1].what == state:
            found[-1] = Span(found[-1].begin, end, state)
        else:
            found.append(Span(begin, end, state))
    return found


def _marks(process: Sequence[Span], kills: Sequence[float]) -> Iterator[Mark]:
    for before, span in pairwise(process):
        if span.what == "stopped":
            killed = any(-_KILL_SHOWS_WITHIN_S <= span.begin - at <= _KILL_SHOWS_WITHIN_S for at in kills)
            yield Mark(span.begin, "killed" if killed else "stopped")
        elif span.what == "paused":
            yield Mark(span.begin, "paused")
        else:
            yield Mark(span.begin, "resumed" if before.what == "paused" else "started")


def _bands(name: str, making: _Making, length: float) -> Iterator[Band]:
    for fault in making.faults:
        if name in fault.targets:
            end = fault.t if fault.instant else making.fault_ends.get(fault.fault, length)
            yield Band(fault.fault, fault.kind, fault.t, end, fault.instant, 0)


_ROWS_MAX: Final = 4
"""Where more faults than so overlap, the last row is shared."""


def _in_rows(bands: Iterable[Band]) -> list[Band]:
    ends: list[float] = []
    placed = []
    for band in sorted(bands, key=lambda band: band.begin):
        row = next((row for row, end in enumerate(ends) if end <= band.begin), len(ends))
        row = min(row, _ROWS_MAX - 1)
        if row == len(ends):
            ends.append(band.end)
        ends[row] = max(ends[row], band.end)
        placed.append(Band(band.number, band.kind, band.begin, band.end, band.instant, row))
    return placed
