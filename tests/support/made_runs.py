"""Histories of chaos runs that never happened, for the reports' tests: each follows from its numbers."""

from __future__ import annotations

from random import Random
from typing import Any, TypeVar

from holdfast.cluster.chaos.history import (
    HISTORY_VERSION,
    AnyEvent,
    Event,
    FaultBegan,
    FaultEnded,
    InvariantJudged,
    MemberChanged,
    Note,
    OperationEnded,
    OperationStarted,
    PhaseBegan,
    RunBegan,
    RunEnded,
    Sampled,
)

__all__ = ["TITLES", "MadeRun", "made_run"]

E = TypeVar("E", bound=Event)

TITLES = {
    "a": "what was acknowledged restores byte for byte",
    "b": "reads give exact bytes or a typed error",
    "c": "failed means never visible; unknown settles; retries change nothing",
    "d": "every chunk of a visible snapshot was at write quorum",
    "f": "catalogue and nodes agree after convergence",
    "h": "with at most m faults all shards come back in time",
    "k": "servers learn nothing",
    "m": "every declared fault did fire",
}


class MadeRun:
    """Events, added at times that are given and put in order at the end."""

    def __init__(self, scenario: str = "first-kill", nodes: int = 6, k: int = 4, m: int = 2) -> None:
        self._events: list[Any] = []
        members = [*(f"node-{number}" for number in range(1, nodes + 1)), "coordinator"]
        self.add(
            RunBegan,
            0.0,
            version=HISTORY_VERSION,
            scenario=scenario,
            seed=7,
            at="2026-11-26T09:00:00Z",
            program="0.1.0",
            k=k,
            m=m,
            members=members,
            zones={name: f"zone-{(number % 3) + 1}" for number, name in enumerate(members[:-1])},
        )
        for name in members:
            self.add(MemberChanged, 0.4, member=name, state="running", seen_by="machine", pid=100)

    def add(self, kind: type[E], t: float, /, **fields: Any) -> None:
        """Something happened then."""
        self._events.append(kind(t=round(t, 3), **fields))

    def phases(self, *moments: float) -> None:
        """start at 0, then calm, chaos, heal, quiet, verify at these moments."""
        for name, t in zip(
            ("start", "calm", "chaos", "heal", "quiet", "verify"), (0.0, *moments), strict=True
        ):
            self.add(PhaseBegan, t, phase=name)

    def fault(
        self, number: int, kind: str, targets: list[str], begin: float, end: float | None, detail: str = ""
    ) -> None:
        """A fault; an instant one has no end."""
        fields = {"fault": number, "declared": 0, "kind": kind, "targets": targets, "detail": detail}
        self.add(FaultBegan, begin, instant=end is None, **fields)
        if end is not None:
            self.add(FaultEnded, end, fault=number)

    def killed(self, number: int, member: str, begin: float, end: float) -> None:
        """A node that was killed, noticed, and started again."""
        self.fault(number, "kill", [member], begin, end)
        self.add(MemberChanged, begin + 0.05, member=member, state="stopped", seen_by="machine")
        self.add(MemberChanged, begin + 1.5, member=member, state="suspect", seen_by="coordinator")
        self.add(MemberChanged, begin + 3.0, member=member, state="down", seen_by="coordinator")
        self.add(MemberChanged, end, member=member, state="running", seen_by="machine", pid=200)
        self.add(MemberChanged, end + 0.6, member=member, state="up", seen_by="coordinator")

    def operations(self, until: float, clients: int, random: Random, trouble: tuple[float, float]) -> None:
        """Clients at work; slow, failing or unanswered now and then while there is trouble."""
        number = 0
        for client in range(clients):
            t = 1.0
            while t < until:
                number += 1
                kind = random.choice(["backup", "restore", "restore", "stream", "delete"])
                took = random.lognormvariate(-1.6, 0.6)
                outcome, code = "ok", ""
                if trouble[0] < t < trouble[1]:
                    took *= 3
                    outcome = random.choices(["ok", "failed", "unknown"], [12, 2, 1])[0]
                    code = "" if outcome == "ok" else "unreachable"
                self.add(OperationStarted, t, op=number, client=f"client-{client + 1}", kind=kind)
                ended = {"op": number, "outcome": outcome, "code": code, "bytes": 2_000_000}
                self.add(OperationEnded, t + took, **ended)
                t += took + 0.05

    def samples(self, until: float, low: list[tuple[float, float, int]], random: Random) -> None:
        """Every half second; (begin, end, shards) where a stripe had fewer than all."""
        written = read = repaired = 0
        t = 0.5
        while t < until:
            fewest = min([shards for begin, end, shards in low if begin <= t < end], default=6)
            written += random.randint(200_000, 9_000_000)
            read += random.randint(400_000, 14_000_000)
            repaired += random.randint(100_000, 2_000_000) if fewest < 6 else 0
            self.add(
                Sampled,
                t,
                stripes=int(t * 12),
                fewest=fewest,
                fewest_k=4,
                fewest_n=6,
                short=int(12 * (6 - fewest)),
                unreadable=3 if fewest < 4 else 0,
                repaired_bytes=repaired,
                read_bytes=read,
                written_bytes=written,
            )
            t += 0.5

    def judged(self, t: float, *violated: tuple[str, str, float | None]) -> None:
        """The checker's word on all invariants."""
        for letter, title in TITLES.items():
            why, at = next(((why, at) for name, why, at in violated if name == letter), ("", None))
            verdict = "violated" if why else ("not judged" if letter == "k" else "held")
            fields = {"letter": letter, "title": title, "verdict": verdict, "why": why, "at": at}
            self.add(InvariantJudged, t, looked=0 if letter == "k" else 120, **fields)

    def end(self, t: float, exit_code: int, sentence: str) -> None:
        """The last line."""
        replay = "holdfast chaos run first-kill --seed 7"
        self.add(RunEnded, t, exit_code=exit_code, sentence=sentence, replay=replay)

    def events(self) -> list[AnyEvent]:
        """All of them, in order."""
        return sorted(self._events, key=lambda event: event.t)


def made_run(*, violated: bool = False, cut_short: bool = False) -> list[AnyEvent]:
    """Half a minute in which most things happen."""
    run, random = MadeRun(), Random(7)
    run.phases(1.0, 4.0, 24.0, 27.0, 30.0)
    run.killed(1, "node-2", 6.0, 13.0)
    run.killed(2, "node-5", 8.0, 16.0)
    run.fault(3, "partition", ["node-1", "node-3"], 14.0, 19.0, "one way: nobody hears them")
    run.fault(4, "latency", ["node-3"], 15.0, 22.0, "80 ms")
    run.fault(5, "bit-rot", ["node-4"], 9.5, None, "8 values")
    run.fault(6, "clock", ["node-6"], 10.0, 20.0, "+90 s")
    run.fault(7, "pause", ["coordinator"], 17.5, 18.5)
    run.add(MemberChanged, 17.5, member="coordinator", state="paused", seen_by="machine")
    run.add(MemberChanged, 18.5, member="coordinator", state="running", seen_by="machine")
    run.operations(24.0, 3, random, (6.0, 19.0))
    low = [(6.0, 13.0, 5), (8.0, 12.5, 4), (14.0, 19.0, 5)]
    run.samples(33.0, [*low, (15.0, 16.5, 3)] if violated else low, random)
    run.add(Note, 3.0, text="node-4's store holds 214 shards")
    if violated:
        run.judged(
            33.0,
            ("a", "photos/2019 <of> client-2 came back with 3 files missing", 16.2),
            ("f", "2 shards on node-4 belong to no row", None),
        )
        run.end(33.2, 30, "Two promises were broken: acknowledged files did not come back after node 2 & 5.")
    elif not cut_short:
        run.judged(33.0)
        run.end(
            33.2,
            0,
            "Survived 2 kills, a partition, a paused coordinator and rotten bits: "
            "all 214 snapshots came back byte for byte.",
        )
    return run.events()
