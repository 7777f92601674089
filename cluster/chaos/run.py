"""One run of a scenario: start, calm, chaos, heal, quiet, verify; and what it showed.

from holdfast.cluster.chaos.run import run_scenario

result = await run_scenario(load_builtin("first-kill"), seed=7)
assert result.ok, result.sentence
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast.cluster.chaos.amnesia import KIT, keep_kit
from holdfast.cluster.chaos.arena import Arena
from holdfast.cluster.chaos.calls import why_unavailable
from holdfast.cluster.chaos.clients import Account, ChaosClient
from holdfast.cluster.chaos.contents import canary_of
from holdfast.cluster.chaos.faults import Lie, PowerCut, kind_of
from holdfast.cluster.chaos.fitting import fitted, wants_namespace
from holdfast.cluster.chaos.history import (
    HISTORY_VERSION,
    FaultBegan,
    History,
    Note,
    OperationEnded,
    Phase,
    PhaseBegan,
    RunBegan,
    RunEnded,
    Sampled,
)
from holdfast.cluster.chaos.judging import Judge
from holdfast.cluster.chaos.leftovers import run_folder
from holdfast.cluster.chaos.limits import RUNNING_OPERATIONS_WITHIN_S, WATCH_EVERY_S
from holdfast.cluster.chaos.loading import FULL, Load
from holdfast.cluster.chaos.mending import converge, heal
from holdfast.cluster.chaos.namespaces import is_inside, raise_loopback
from holdfast.cluster.chaos.namespaces import why_unavailable as why_no_namespace
from holdfast.cluster.chaos.result import HARNESS_FAILED, HELD, INCONCLUSIVE, VIOLATED, ChaosResult
from holdfast.cluster.chaos.result import replay_command as replay_of
from holdfast.cluster.chaos.sampling import Sampler
from holdfast.cluster.chaos.scenario import Scenario, to_toml
from holdfast.cluster.chaos.small_disks import why_unavailable as why_no_disks
from holdfast.cluster.chaos.striking import Striker
from holdfast.cluster.chaos.verifying import baseline, verify
from holdfast.cluster.chaos.watching import Watch
from holdfast.cluster.chaos.wiring import COORDINATOR, ChaosCluster, client_name
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import BadRequest, HoldfastError
from holdfast.protocol.program import program_version
from holdfast.protocol.terminal import human_bytes, human_count

__all__ = ["OnPhase", "fitted_here", "run_scenario"]

OnPhase = Callable[[str], None]


async def run_scenario(
    scenario: Scenario,
    *,
    seed: int,
    report: Path | None = None,
    on_phase: OnPhase | None = None,
    fail_fast: bool = False,
) -> ChaosResult:
    """Run a scenario on a cluster of its own; everything it made is gone afterwards but the report.

    Args:
        seed: of everything that is drawn. What the machine does between is its own.
        report: a folder for ``history.jsonl``, ``scenario.toml`` and logs; made, must be empty.
        on_phase: told the name of each phase when it begins.
        fail_fast: end at the first violation, whatever else might come to light.

    Raises:
        BadRequest: the report's folder holds something.
    """
    if report is not None:
        report.mkdir(parents=True, exist_ok=True)
        if any(report.iterdir()):
            raise BadRequest(f"{report} is not empty", do="Name a folder that does not exist yet.")
        (report / "scenario.toml").write_text(to_toml(scenario))
    began = SYSTEM.monotonic()
    history = History(
        lambda: SYSTEM.monotonic() - began, report / "history.jsonl" if report is not None else None
    )
    fits, said = await asyncio.to_thread(fitted_here, scenario)
    try:
        on_phase = on_phase or (lambda name: None)
        return await _Run(fits, seed, report, history, on_phase, said, fail_fast).run()
    finally:
        history.close()


def fitted_here(scenario: Scenario) -> tuple[Scenario, list[str]]:
    """The scenario as this machine, and this process, can run it."""
    no_disks = why_no_disks() if scenario.cluster.disk_mib else ""
    no_namespace = ""
    if wants_namespace(scenario):
        if not is_inside():
            no_namespace = why_no_namespace() or "'holdfast chaos run' makes a namespace, a program does not"
        else:
            raise_loopback()
    return fitted(scenario, no_disks=no_disks, no_namespace=no_namespace)


class _Broken(Exception):
    """Something did not hold, and that is enough."""


class _Run:
    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        report: Path | None,
        history: History,
        on_phase: OnPhase,
        said: Sequence[str],
        fail_fast: bool,
    ) -> None:
        self._said = said
        self._scenario = scenario
        self._seed = seed
        self._report = report
        self._history = history
        self._on_phase = on_phase
        self._fail_fast = fail_fast
        self._judge = Judge(scenario, history.now)
        self._secrets: list[bytes] = []
        self._watched: list[asyncio.Task[None]] = []

    async def run(self) -> ChaosResult:
        try:
            with ExitStack() as stack:
                folder = stack.enter_context(run_folder())
                await self._in(folder, stack)
        except _Broken:
            self._history.add(Note, text="the run was ended at its first violation")
        except HoldfastError as error:
            self._history.add(Note, text=f"the harness failed: {error}")
            return self._result(HARNESS_FAILED, f"The run could not be made: {error}", "")
        return self._concluded()

    def _phase(self, phase: Phase) -> None:
        """Begin a phase; raises _Broken where the one before has shown enough."""
        if self._fail_fast and self._judge.is_broken:
            raise _Broken
        self._history.add(PhaseBegan, phase=phase)
        self._on_phase(phase)

    async def _in(self, folder: Path, stack: ExitStack) -> None:
        scenario = self._scenario
        canary = canary_of(self._seed)
        shape = scenario.cluster
        cluster = ChaosCluster(
            self._seed,
            nodes=shape.nodes,
            profile=shape.profile,
            zones=shape.zones or None,
            folder=folder / "cluster",
            disk_mib=shape.disk_mib,
            capacity_bytes=shape.capacity_mib * 1024 * 1024 or None,
            lost_after_s=shape.lost_after_s,
            trash_hold_s=shape.trash_hold_s,
        )
        if any(isinstance(fault, Lie) for fault in scenario.faults):
            # From the start: a node that was restarted to lie would not be asked for a while.
            cluster.lying = set(range(1, shape.nodes + 1))
        if not why_unavailable():
            cluster.is_forgetful = any(isinstance(fault, PowerCut) for fault in scenario.faults)
        self._began(cluster)
        for text in self._said:
            self._history.add(Note, text=text)
        self._phase("start")
        sampler = Sampler(cluster.folder)
        scratch = folder / "scratch"
        scratch.mkdir()
        arena = Arena(scenario, self._seed, cluster, self._history, sampler, scratch)
        load = Load(arena, self._judge, canary)
        try:
            async with cluster:
                try:
                    await self._with_cluster(arena, load, canary, folder / "clients")
                finally:
                    await self._let_go(arena, folder)
        finally:
            await asyncio.to_thread(sampler.close)

    async def _let_go(self, arena: Arena, folder: Path) -> None:
        for task in self._watched:
            task.cancel()
        await asyncio.gather(*self._watched, return_exceptions=True)
        for client in arena.clients.values():
            await client.kill()
        arena.cluster.network.remove_all()
        if self._report is not None:
            await asyncio.to_thread(_keep_logs, folder, self._report / "logs")

    def _began(self, cluster: ChaosCluster) -> None:
        scenario, profile = self._scenario, self._scenario.redundancy
        names = [f"node-{number}" for number in range(1, scenario.cluster.nodes + 1)]
        zones = scenario.cluster.zones
        self._history.add(
            RunBegan,
            version=HISTORY_VERSION,
            scenario=scenario.name,
            seed=self._seed,
            at=datetime.fromtimestamp(SYSTEM.now_ms() / 1000, UTC).isoformat(timespec="seconds"),
            program=program_version(),
            k=profile.k,
            m=profile.m,
            members=[*names, COORDINATOR],
            zones={name: f"zone-{at % zones + 1}" for at, name in enumerate(names)} if zones else {},
        )

    async def _with_cluster(self, arena: Arena, load: Load, canary: str, folder: Path) -> None:
        judge = self._judge
        watch = Watch(arena, judge, load)
        keep_kit(arena.cluster, arena.scratch / KIT)
        await self._make_clients(arena, load, canary, folder)
        arena.cluster.network.canaries = tuple(self._secrets)
        before = await asyncio.to_thread(baseline, arena)
        self._watched = [
            asyncio.create_task(work()) for work in (watch.processes, watch.status, watch.stores)
        ]
        working = [
            asyncio.create_task(load.work(client, f"{self._seed}/{client.name}"))
            for client in arena.clients.values()
        ]
        try:
            striker = await self._work_and_break(arena, load, working)
        finally:
            load.stopping = True
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)
        if striker is not None:
            self._phase("quiet")
            await converge(arena, watch, judge)
            self._phase("verify")
            await verify(arena, judge, load, watch, before, self._secrets)
            self._judge_faults(striker)

    async def _work_and_break(
        self, arena: Arena, load: Load, working: list[asyncio.Task[None]]
    ) -> Striker | None:
        """Everything until all faults are taken back; None: what is left is no cluster any more."""
        self._phase("calm")
        await self._alive(asyncio.sleep(self._scenario.calm_s), working)
        self._phase("chaos")
        striker = await self._chaos(arena, working)
        self._phase("heal")
        load.stopping = True
        try:
            await heal(arena)
        except HoldfastError as error:
            self._judge.violated("h", f"the cluster does not come up again: {error}")
            self._judge_faults(striker)
            return None
        await self._end_of_load(working)
        return striker

    async def _make_clients(self, arena: Arena, load: Load, canary: str, folder: Path) -> None:
        """Accounts and their devices, set up before anything is broken."""
        self._secrets = [canary.encode()]
        shape = self._scenario.load
        number = 0
        for _ in range(shape.clients):
            account = Account()
            for device in range(shape.devices):
                number += 1
                name = client_name(number)
                environment = await asyncio.to_thread(
                    arena.cluster.client_environment, name, invite=device == 0
                )
                client = ChaosClient(name, folder / name, canary, environment, account)
                arena.clients[name] = client
                verb: Any = "init" if device == 0 else "recover"
                answer = await load.ask(client, verb, code=account.code, must=True)
                if answer.outcome != "ok":
                    raise HoldfastError(f"{name} could not be set up", why=answer.why)
                account.code = answer.code or account.code
                for secret in answer.secrets:
                    self._secrets += [bytes.fromhex(secret), secret.encode()]
            self._secrets.append(account.code.encode())

    async def _alive(self, work: Any, working: list[asyncio.Task[None]]) -> None:
        """Do something while the load goes on; an error of the load ends both."""
        main: asyncio.Task[None] = asyncio.ensure_future(work)
        broken = [asyncio.create_task(self._until_broken())] if self._fail_fast else []
        try:
            done, _ = await asyncio.wait(
                {main, *working, *self._watched, *broken}, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in (main, *broken):
                task.cancel()
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _until_broken(self) -> None:
        """Raises _Broken at the first violation, whichever thread has found it."""
        while not self._judge.is_broken:  # noqa: ASYNC110 - whoever finds it may be a thread
            await asyncio.sleep(WATCH_EVERY_S)
        raise _Broken

    async def _chaos(self, arena: Arena, working: list[asyncio.Task[None]]) -> Striker:
        over = asyncio.Event()
        striker = Striker(arena, over)
        strikes = [
            asyncio.create_task(striker.carry_out(number, fault))
            for number, fault in enumerate(self._scenario.faults)
        ]
        try:
            await self._alive(asyncio.sleep(self._scenario.chaos_s), working)
            over.set()
            await asyncio.gather(*strikes)
        finally:
            over.set()
            for strike in strikes:
                strike.cancel()
            await asyncio.gather(*strikes, return_exceptions=True)
        return striker

    async def _end_of_load(self, working: list[asyncio.Task[None]]) -> None:
        async with asyncio.timeout(RUNNING_OPERATIONS_WITHIN_S):
            await asyncio.gather(*working)

    def _judge_faults(self, striker: Striker) -> None:
        if self._scenario.expect.availability == "no room":
            refused = any(event.code in FULL for event in self._history.of(OperationEnded))
            self._judge.require("m", refused, "disks were filled, and nothing was refused for lack of room")
        for number, fault in enumerate(self._scenario.faults):
            why = "had no effect" if striker.tried[number] else "never came to be"
            self._judge.require(
                "m",
                striker.fired[number] > 0,
                f"fault {number} ({kind_of(fault)} of {fault.targets[0]}) {why}",
            )

    # What came of it

    def _concluded(self) -> ChaosResult:
        verdicts = self._judge.judge(self._history)
        violated = [judged for judged in verdicts if judged.verdict == "violated"]
        serious = [judged for judged in violated if judged.letter != "m"]
        done = self._judge.operations["ok"]
        wanted = self._scenario.expect.operations_min
        if serious:
            first = min(serious, key=lambda judged: judged.at or 0.0)
            sentence = f"Violated: {first.title}: {first.why}"
            return self._result(VIOLATED, sentence, "", verdicts)
        if violated:
            return self._result(INCONCLUSIVE, f"Inconclusive: {violated[0].why}.", violated[0].why, verdicts)
        if done < wanted:
            why = f"only {human_count(done, 'operation')} succeeded, and {wanted} were wanted"
            return self._result(INCONCLUSIVE, f"Inconclusive: {why}.", why, verdicts)
        return self._result(HELD, self._survived(), "", verdicts)

    def _survived(self) -> str:
        faults = Counter(event.kind for event in self._history.of(FaultBegan))
        told = ", ".join(human_count(count, kind.replace("-", " ")) for kind, count in sorted(faults.items()))
        samples = [event for event in self._history.of(Sampled) if event.fewest is not None]
        worst = min(samples, key=lambda event: (event.fewest or 0) - event.fewest_k, default=None)
        last = samples[-1] if samples else None
        lowest = ""
        if worst is not None:
            lowest = (
                f" The worst stripe was down to {worst.fewest} of {worst.fewest_n} shards, "
                f"and needs {worst.fewest_k}."
            )
        moved = (
            f" {human_bytes(last.written_bytes)} went in and {human_bytes(last.read_bytes)} came back, "
            "every byte as it was."
            if last is not None
            else ""
        )
        operations = human_count(self._judge.operations.total(), "operation")
        return f"Survived {told or 'no fault at all'} during {operations}; nothing was lost.{lowest}{moved}"

    def _result(
        self, exit_code: int, sentence: str, inconclusive: str, verdicts: list[Any] | None = None
    ) -> ChaosResult:
        self._history.add(
            RunEnded,
            exit_code=exit_code,
            sentence=sentence,
            replay=replay_of(self._scenario, self._seed, self._report),
        )
        return ChaosResult(
            scenario=self._scenario,
            seed=self._seed,
            events=tuple(self._history.events),
            invariants=tuple(verdicts or ()),
            exit_code=exit_code,
            sentence=sentence,
            inconclusive=inconclusive,
            folder=self._report,
        )


def _keep_logs(folder: Path, to: Path) -> None:
    to.mkdir(exist_ok=True)
    for log in (folder / "cluster").glob("*.log*"):
        shutil.copy2(log, to / log.name)
    for log in (folder / "clients").glob("*/log"):
        shutil.copy2(log, to / f"{log.parent.name}.log")
