"""A local cluster to break from a program: ``async with LocalCluster(nodes=6, seed=7) as c``.

What watches, breaks and judges runs on an event loop in a thread of its own, so that it goes on
whatever the caller's loop does, and so that blocking callers can use it, too (:attr:`OpenCluster.blocking`).
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar

from holdfast.client.sdk import AsyncClient
from holdfast.cluster.chaos.arena import Arena
from holdfast.cluster.chaos.by_hand import Chaos
from holdfast.cluster.chaos.clients import Account, ChaosClient
from holdfast.cluster.chaos.history import (
    HISTORY_VERSION,
    FaultBegan,
    History,
    Note,
    Phase,
    PhaseBegan,
    RunBegan,
    RunEnded,
)
from holdfast.cluster.chaos.judging import Judge
from holdfast.cluster.chaos.leftovers import run_folder
from holdfast.cluster.chaos.limits import WATCH_EVERY_S
from holdfast.cluster.chaos.loading import Load
from holdfast.cluster.chaos.mending import converge, heal
from holdfast.cluster.chaos.noting import NotedClient, Noting
from holdfast.cluster.chaos.own_loop import OwnLoop
from holdfast.cluster.chaos.result import HELD, INCONCLUSIVE, VIOLATED
from holdfast.cluster.chaos.sampling import Sampler
from holdfast.cluster.chaos.scenario import SCENARIO_VERSION, ClusterShape, Expectation, Scenario, to_toml
from holdfast.cluster.chaos.striking import Striker
from holdfast.cluster.chaos.typed import changed
from holdfast.cluster.chaos.verified import Verified
from holdfast.cluster.chaos.verifying import baseline, compare, join_deeply
from holdfast.cluster.chaos.watching import Watch
from holdfast.cluster.chaos.wiring import ChaosCluster, client_name
from holdfast.cluster.limits import NODES_DEFAULT
from holdfast.protocol.address import Address, Token
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.profiles import Profile, default_profile
from holdfast.protocol.program import program_version
from holdfast.protocol.terminal import human_count

__all__ = ["BreakableCluster", "OpenCluster", "Verified"]

P = ParamSpec("P")
T = TypeVar("T")

_FIRST_STRIKE_WITHIN_S = 30.0


class BreakableCluster(ChaosCluster):
    """What ``LocalCluster(..., seed=N)`` makes. Entered asynchronously it gives an :class:`OpenCluster`.

    Args:
        seed: of everything that is drawn.
        scenario: whose faults strike while the cluster is open; None: only what is done by hand.
        replay_command: what runs the same again; default: this program's own command line.
        said: what of the scenario is done otherwise on this machine, for the report.
        shape: as LocalCluster takes it.
    """

    def __init__(
        self,
        nodes: int | None = None,
        profile: str | None = None,
        zones: int | None = None,
        folder: Path | str | None = None,
        *,
        seed: int = 0,
        scenario: Scenario | None = None,
        replay_command: str | None = None,
        said: Sequence[str] = (),
        **shape: Any,
    ) -> None:
        self.said = tuple(said)
        self._made = ExitStack()
        if folder is None:
            # Found and removed by the next run if this process is killed.
            folder = self._made.enter_context(run_folder()) / "cluster"
        super().__init__(seed, nodes=nodes, profile=profile, zones=zones, folder=folder, **shape)
        self.seed = seed
        self.scenario = scenario or _by_hand(nodes or NODES_DEFAULT, profile, zones, shape)
        self.replay_command = replay_command or shlex.join(sys.orig_argv)
        self._open: OpenCluster | None = None

    def opened(self) -> OpenCluster:
        """Start it, blocking; :meth:`closed` ends it."""
        self._closing.clear()
        self._entered()
        try:
            self._open = OpenCluster(self)
        except BaseException:
            self.closed()
            raise
        return self._open

    def closed(self) -> None:
        """Stop watching, and end the cluster."""
        try:
            if self._open is not None:
                self._open.close()
        finally:
            self._open = None
            self._end()
            self._made.close()

    async def __aenter__(self) -> OpenCluster:  # type: ignore[override]
        try:
            return await asyncio.to_thread(self.opened)
        except asyncio.CancelledError:
            await asyncio.shield(asyncio.to_thread(self.closed))
            raise

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(asyncio.to_thread(self.closed))


def _by_hand(nodes: int, profile: str | None, zones: int | None, shape: dict[str, Any]) -> Scenario:
    cluster = ClusterShape(
        nodes=nodes,
        profile=profile or str(default_profile(nodes) or Profile(1, 1)),
        zones=zones or 0,
        lost_after_s=shape.get("lost_after_s") or ClusterShape().lost_after_s,
    )
    return Scenario(
        version=SCENARIO_VERSION,
        name="by-hand",
        about="What a program does to a cluster.",
        budget="anything",
        cluster=cluster,
        faults=(),
        expect=Expectation(availability="any", operations_min=0),
    )


@dataclass(slots=True)
class _Parts:
    """Everything that watches and judges."""

    arena: Arena
    judge: Judge
    watch: Watch
    chaos: Chaos
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    strikes: list[asyncio.Task[None]] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    striker: Striker | None = None


class OpenCluster:
    """A running cluster, to be used, broken, healed and verified.

    Attributes:
        cluster: its blocking verbs (:class:`holdfast.cluster.local.LocalCluster`).
        chaos: verbs that break it.
        operation: ``with c.operation("backup"):`` puts what happens inside into the report, as one operation.
    """

    def __init__(self, cluster: BreakableCluster) -> None:
        self.cluster = cluster
        self._loop = OwnLoop()
        began = SYSTEM.monotonic()
        self._history = History(lambda: SYSTEM.monotonic() - began)
        self._stack = ExitStack()
        sampler = Sampler(cluster.folder)
        self._stack.callback(sampler.close)
        scratch = Path(self._stack.enter_context(TemporaryDirectory(prefix="holdfast-chaos-scratch-")))
        arena = Arena(cluster.scenario, cluster.seed, cluster, self._history, sampler, scratch)
        self._began(arena)
        self.env(0, invite=False)  # whoever calls without the wiring of env()
        self._parts = self._loop.wait(self._start(arena))
        self._before = baseline(arena)
        self.chaos = self._parts.chaos
        self._noting = Noting(self._history, self._parts.watch.load)
        self.operation = self._noting.operation

    def _began(self, arena: Arena) -> None:
        scenario = arena.scenario
        zones = scenario.cluster.zones
        names = arena.node_names
        self._history.add(
            RunBegan,
            version=HISTORY_VERSION,
            scenario=scenario.name,
            seed=arena.seed,
            at=datetime.fromtimestamp(SYSTEM.now_ms() / 1000, UTC).isoformat(timespec="seconds"),
            program=program_version(),
            k=scenario.redundancy.k,
            m=scenario.redundancy.m,
            members=arena.members,
            zones={name: f"zone-{at % zones + 1}" for at, name in enumerate(names)} if zones else {},
        )
        for text in self.cluster.said:
            self._history.add(Note, text=text)
        self._arena = arena

    async def _start(self, arena: Arena) -> _Parts:
        judge = Judge(arena.scenario, self._history.now)
        watch = Watch(arena, judge, Load(arena, judge, ""))
        parts = _Parts(arena, judge, watch, Chaos(arena, self._loop.off))
        parts.tasks = [asyncio.create_task(work()) for work in (watch.processes, watch.status, watch.stores)]
        self._phase("chaos")
        if arena.scenario.faults:
            parts.striker = Striker(arena, parts.over)
            parts.strikes = [
                asyncio.create_task(parts.striker.carry_out(number, fault))
                for number, fault in enumerate(arena.scenario.faults)
            ]
            await self._first_strike(parts.striker)
        return parts

    async def _first_strike(self, striker: Striker) -> None:
        """Work that is handed the cluster before anything was broken might be done before anything is."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _FIRST_STRIKE_WITHIN_S
        while not striker.tried.total() and loop.time() < until:  # noqa: ASYNC110 - counted, not told
            await asyncio.sleep(WATCH_EVERY_S / 4)

    def _phase(self, phase: Phase) -> None:
        self._history.add(PhaseBegan, phase=phase)

    # For whoever uses the cluster

    @property
    def address(self) -> str:
        """The coordinator's address, through the network that can be broken."""
        address = Address.parse(self.cluster.address)
        return str(Address(self.cluster.proxied_url("coordinator"), address.cluster))

    def invite(self) -> str:
        """A fresh invite: one account may be made with it."""
        address = Address.parse(self.address)
        return Token(address, Token.parse(self.cluster.invite()).secret).text()

    def env(self, client: int = 1, *, invite: bool = True) -> dict[str, str]:
        """The environment for a client: of its process, or of this one. Each number is another client."""
        name = client_name(client)
        made = dict(self.cluster.client_environment(name, invite=invite))
        if name not in self._arena.clients:
            folder = self._arena.scratch / name
            self._arena.clients[name] = ChaosClient(name, folder, "", made, Account())
        return made

    def client(self, home: Path | str, number: int = 0) -> AsyncClient:
        """A client of this process, whose operations are in the report; a context manager. Blocking ones and
        processes of others are noted with :attr:`operation`.

        Args:
            home: a folder of its own; an account is made with :meth:`invite`.
            number: which client it counts as in the report.
        """
        return NotedClient(home, coordinator=self.address, name=client_name(number), noting=self._noting)

    async def run(self, verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run any blocking verb of :attr:`cluster` in a thread."""
        return await asyncio.to_thread(verb, *args, **kwargs)

    async def heal(self) -> None:
        """Take back everything that was broken, start what does not run, wait until all nodes are up."""
        await self._loop.off(self._heal())

    async def verify(self, within_s: float = Expectation().back_within_s) -> Verified:
        """Heal, wait until every stripe is whole again (so long at most), and judge.

        What is judged: every stripe of every account is whole and readable (each shard is reread), and as
        the catalogue says; each was at its write quorum when it was committed; slots lie as placement
        demands; heads only grew; nobody died unasked, and memory came back; every fault had an effect.
        """
        self._arena.scenario = changed(
            self._arena.scenario, expect=changed(self._arena.scenario.expect, back_within_s=within_s)
        )
        return await self._loop.off(self._verify())

    @property
    def blocking(self) -> Blocking:
        """The same for callers without an event loop."""
        return Blocking(self, self._loop)

    def close(self) -> None:
        """Stop watching; blocking."""
        try:
            self._loop.wait(self._stop())
        finally:
            self._stack.close()
            self._loop.close()

    # In the loop of its own

    async def _stop(self) -> None:
        parts = self._parts
        parts.over.set()
        for task in (*parts.tasks, *parts.strikes):
            task.cancel()
        await asyncio.gather(*parts.tasks, *parts.strikes, return_exceptions=True)
        await parts.chaos.take_all_back()
        self.cluster.network.remove_all()

    async def _heal(self) -> None:
        parts = self._parts
        parts.over.set()
        await asyncio.gather(*parts.strikes)
        await parts.chaos.take_all_back()
        await heal(parts.arena)

    async def _verify(self) -> Verified:
        parts = self._parts
        self._phase("heal")
        try:
            await self._heal()
        except HoldfastError as error:
            parts.judge.violated("h", f"the cluster does not come up again: {error}")
        else:
            self._phase("quiet")
            # The caller's clients may still be storing: what they leave has no grace that is known.
            await converge(parts.arena, parts.watch, parts.judge, orphans=False)
        self._phase("verify")
        await join_deeply(parts.arena, parts.judge)
        compare(parts.judge, self._before, await asyncio.to_thread(baseline, parts.arena))
        self._judge_faults()
        return self._concluded()

    def _judge_faults(self) -> None:
        parts = self._parts
        for one in parts.chaos.begun:
            parts.judge.require("m", one.had_effect, f"{one} had no effect")
        if parts.striker is not None:
            # The caller's own work may end before a scenario's last fault is due: one that struck is enough.
            struck = parts.striker.fired.total() > 0
            parts.judge.require("m", struck, f"no fault of {parts.arena.scenario.name} had any effect yet")

    def _concluded(self) -> Verified:
        verdicts = self._parts.judge.judge(self._history)
        violated = [judged for judged in verdicts if judged.verdict == "violated"]
        serious = [judged for judged in violated if judged.letter != "m"]
        faults = Counter(event.kind for event in self._history.of(FaultBegan))
        told = ", ".join(human_count(count, kind) for kind, count in sorted(faults.items()))
        if serious:
            code, sentence = VIOLATED, f"Violated: {serious[0].title}: {serious[0].why}"
        elif violated:
            code, sentence = INCONCLUSIVE, f"Inconclusive: {violated[0].why}."
        else:
            code, sentence = HELD, f"Survived {told or 'no fault at all'}; nothing was lost."
        replay = self.cluster.replay_command
        self._history.add(RunEnded, exit_code=code, sentence=sentence, replay=replay)
        scenario = to_toml(self.cluster.scenario)
        return Verified(code, sentence, replay, verdicts, tuple(self._history.events), scenario)


class Blocking:
    """An :class:`OpenCluster` for callers without an event loop."""

    def __init__(self, opened: OpenCluster, loop: OwnLoop) -> None:
        self._opened = opened
        self._loop = loop

    def heal(self) -> None:
        """See :meth:`OpenCluster.heal`."""
        self._loop.wait(self._opened.heal())

    def verify(self, within_s: float = Expectation().back_within_s) -> Verified:
        """See :meth:`OpenCluster.verify`."""
        return self._loop.wait(self._opened.verify(within_s))
