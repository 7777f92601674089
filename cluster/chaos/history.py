"""What happened in a run: events, and the file they are kept in (``history.jsonl``).

One line of JSON per event, in the order of ``t``: seconds since the run began. The first line
is :class:`RunBegan` and carries the format's version; the last one of a run that was not cut
short is :class:`RunEnded`. Reading is strict: an unknown event or field is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any, Final, Literal, TypeVar

import msgspec

from holdfast.cluster.chaos.typed import Part
from holdfast.protocol.errors import BadRequest

__all__ = [
    "HISTORY_VERSION",
    "AnyEvent",
    "Event",
    "FaultBegan",
    "FaultEnded",
    "History",
    "InvariantJudged",
    "MemberChanged",
    "Note",
    "OperationEnded",
    "OperationStarted",
    "Outcome",
    "PhaseBegan",
    "RunBegan",
    "RunEnded",
    "Sampled",
    "Verdict",
    "read_history",
]

HISTORY_VERSION: Final = 1

E = TypeVar("E", bound="Event")

Outcome = Literal["ok", "failed", "unknown"]
"""What an operation came to. Unknown: its answer was lost, or its client was killed."""

Verdict = Literal["held", "violated", "not judged"]
"""Of an invariant. Not judged: the run gave no occasion to look."""

Phase = Literal["start", "calm", "chaos", "heal", "quiet", "verify"]

MemberState = Literal["running", "paused", "stopped", "up", "suspect", "down", "lost", "stopping", "failed"]


class Event(Part, tag_field="event"):
    """Something that happened ``t`` seconds after the run began."""

    t: float


class RunBegan(Event, tag="run began", kw_only=True):
    """The first line.

    Attributes:
        at: when, RFC 3339.
        members: "node-1" ... and "coordinator", in the order of a report's lanes.
        zones: each node's zone; empty when there is one for all.
    """

    version: int
    scenario: str
    seed: int
    at: str
    program: str
    k: int
    m: int
    members: list[str]
    zones: dict[str, str]


class PhaseBegan(Event, tag="phase began"):
    """From here on: start, calm (load alone), chaos (faults), heal, quiet (no load), verify."""

    phase: Phase


class OperationStarted(Event, tag="operation started"):
    """A client began something.

    Attributes:
        op: its number, unique in the run.
        kind: backup, stream, restore, delete, prune, undelete, check.
        about: of which snapshot ("op-17" is the one that operation 17 made), or "".
    """

    op: int
    client: str
    kind: str
    about: str = ""


class OperationEnded(Event, tag="operation ended"):
    """It ended.

    Attributes:
        code: the error's code ("too_few_shards"), or "".
        bytes: user bytes it moved.
    """

    op: int
    outcome: Outcome
    code: str = ""
    why: str = ""
    bytes: int = 0


class FaultBegan(Event, tag="fault began"):
    """Something was broken.

    Attributes:
        fault: its number, unique in the run; ``declared``: which of the scenario's faults, counted from 0.
        kind: as in scenario files ("kill", "partition", "bit-rot").
        targets: members, or clients.
        instant: it has no duration (a bit was flipped); its FaultEnded tells when that was mended.
    """

    fault: int
    declared: int
    kind: str
    targets: list[str]
    detail: str = ""
    instant: bool = False


class FaultEnded(Event, tag="fault ended"):
    """It was taken back."""

    fault: int
    detail: str = ""


class MemberChanged(Event, tag="member changed"):
    """A member is in another state.

    Attributes:
        seen_by: "machine" (its process: running, paused, stopped) or "coordinator" (up, suspect, down, ...).
    """

    member: str
    state: MemberState
    seen_by: Literal["machine", "coordinator"]
    pid: int = 0


class Sampled(Event, tag="sampled"):
    """How things stand: the catalogue joined with the stores of all nodes that no fault keeps away.

    Attributes:
        stripes: of live chunks.
        fewest: surviving shards of the stripe that has the fewest spare ones; None: there is no stripe.
        fewest_k, fewest_n: that stripe's k and n.
        short: stripes with fewer than n shards; ``unreadable``: with fewer than k.
        repaired_bytes: brought back since the run began.
        read_bytes, written_bytes: user bytes moved by the clients since the run began.
    """

    stripes: int
    fewest: int | None
    fewest_k: int = 0
    fewest_n: int = 0
    short: int = 0
    unreadable: int = 0
    repaired_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


class InvariantJudged(Event, tag="invariant judged"):
    """What the checker found.

    Attributes:
        letter: "a" ... "m"; see chaos.invariants.
        at: the moment of the (first) violation, seconds since the run began; None when there is none.
        looked: how many times there was something to look at.
    """

    letter: str
    title: str
    verdict: Verdict
    why: str = ""
    at: float | None = None
    looked: int = 0


class Note(Event, tag="note"):
    """Something worth knowing that is none of the above."""

    text: str


class RunEnded(Event, tag="run ended"):
    """The last line.

    Attributes:
        exit_code: 0 all held, 30 violated, 31 inconclusive, 32 the harness failed.
        sentence: what was survived, for people.
        replay: the command that runs the same again.
    """

    exit_code: int
    sentence: str
    replay: str


AnyEvent = (
    RunBegan
    | PhaseBegan
    | OperationStarted
    | OperationEnded
    | FaultBegan
    | FaultEnded
    | MemberChanged
    | Sampled
    | InvariantJudged
    | Note
    | RunEnded
)
_decoder: Final = msgspec.json.Decoder(AnyEvent)


class History:
    """The events of a run, written down as they come; any thread may add.

    Args:
        clock: seconds since the run began.
        path: where lines go, too.
    """

    def __init__(self, clock: Callable[[], float], path: Path | None = None) -> None:
        self.now = clock
        self.events: list[AnyEvent] = []
        self._lock = Lock()
        self._file = path.open("ab", buffering=0) if path is not None else None

    def add(self, kind: type[E], /, **fields: Any) -> E:
        """Note that something happened now."""
        with self._lock:
            # Under the lock: the order of lines is the order of their times.
            event = kind(t=round(self.now(), 3), **fields)
            self.events.append(event)  # type: ignore[arg-type]
            if self._file is not None:
                self._file.write(msgspec.json.encode(event) + b"\n")
        return event

    def of(self, kind: type[E]) -> list[E]:
        """All events of a kind so far."""
        with self._lock:
            return [event for event in self.events if isinstance(event, kind)]

    def close(self) -> None:
        """Nothing more comes."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def read_history(path: Path) -> Iterator[AnyEvent]:
    """The events of a ``history.jsonl``, in order. A last line that was cut off by a crash is left out.

    Raises:
        BadRequest: it is no history, or one of another version.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                event = _decoder.decode(line)
            except msgspec.DecodeError as error:
                raise BadRequest(f"{path}:{number} is no event of a run", why=str(error)) from error
            if number == 1 and not (isinstance(event, RunBegan) and event.version == HISTORY_VERSION):
                raise BadRequest(f"{path} is not a history of version {HISTORY_VERSION}")
            yield event
