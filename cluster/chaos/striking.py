"""Faults when their time comes: by the clock, again and again, or at a step of the protocol.

With the budget "survivable" a fault waits until every stripe would still be readable, and a write
quorum still there, with its targets gone, too.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from random import Random

from holdfast.cluster.chaos import faults as kinds
from holdfast.cluster.chaos.active import Active
from holdfast.cluster.chaos.arena import Arena
from holdfast.cluster.chaos.faults import AnyFault, kind_of
from holdfast.cluster.chaos.history import FaultBegan, FaultEnded, Note
from holdfast.cluster.chaos.injecting import begin, copy_for, keeps_away, works_on_disks
from holdfast.cluster.chaos.limits import PERMIT_EVERY_S, STEP_WAIT_S, WATCH_EVERY_S
from holdfast.cluster.chaos.mending import mend_disk
from holdfast.cluster.chaos.wiring import COORDINATOR
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.failpoints import STEPS

__all__ = ["Striker"]


class Striker:
    """Carries out a scenario's faults.

    Args:
        over: set when chaos is over: what lasts ends, what waits is given up.

    Attributes:
        fired: which declared faults had an effect, how often; tried: how often they were begun.
    """

    def __init__(self, arena: Arena, over: asyncio.Event) -> None:
        self._arena = arena
        self._over = over
        self._permitting = asyncio.Lock()
        self.fired: Counter[int] = Counter()
        self.tried: Counter[int] = Counter()

    async def carry_out(self, declared: int, fault: AnyFault) -> None:
        """Everything that one declared fault does, until chaos is over."""
        random = Random(f"{self._arena.seed}/{declared}")
        moment = fault.at_s
        tasks: list[asyncio.Task[None]] = []
        began = asyncio.get_running_loop().time()
        while not self._over.is_set():
            at = began + moment + random.uniform(0, fault.jitter_s)
            draw = Random(random.random())
            if isinstance(fault, kinds.OldCopy):
                await self._sleep(at - fault.age_s - asyncio.get_running_loop().time())
                await self._keep_copies(fault)
            if await self._sleep(at - asyncio.get_running_loop().time()):
                break
            tasks.append(asyncio.create_task(self._strike(declared, fault, draw)))
            if fault.every_s is None:
                break
            moment += fault.every_s
        await asyncio.gather(*tasks)

    async def _keep_copies(self, fault: AnyFault) -> None:
        # Of every node: which one it will be is drawn when the time comes.
        for name in [COORDINATOR] if COORDINATOR in fault.targets else self._arena.node_names:
            with suppress(HoldfastError):
                await asyncio.to_thread(copy_for, self._arena, name)

    async def _sleep(self, seconds: float) -> bool:
        """Sleep; True when chaos is over by then."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._over.wait()
        return self._over.is_set()

    # One strike

    async def _strike(self, declared: int, fault: AnyFault, random: Random) -> None:
        targets = self._arena.targets(fault.targets, random)
        if isinstance(fault, kinds.PowerCut):
            targets = self._arena.targets(("everybody",), random)
        if fault.step is not None:
            await self._at_step(declared, fault, targets, random)
        elif fault.stagger_s and fault.reopen == "same":
            running = []
            for number, name in enumerate(targets):
                if number and await self._sleep(fault.stagger_s):
                    break
                running.append(asyncio.create_task(self._hit(declared, fault, [name], random)))
            await asyncio.gather(*running)
        else:
            await self._hit(declared, fault, targets, random)

    async def _hit(self, declared: int, fault: AnyFault, targets: Sequence[str], random: Random) -> None:
        """Begin it, let it last, end it."""
        if not targets or not await self._permitted(fault, targets):
            return
        is_instant = works_on_disks(fault) and not isinstance(fault, kinds.DiskErrors)
        is_instant |= isinstance(fault, kinds.Amnesia)
        number = self._began(declared, fault, targets, instant=is_instant)
        try:
            actives = await self._begin(fault, targets, random)
            await self._last(fault, is_instant)
            await self._end(fault, actives, targets, random)
            if works_on_disks(fault):
                for node in sorted(self._arena.nodes_among(targets) & self._arena.hurt):
                    await mend_disk(self._arena, node)
        except HoldfastError as error:
            self._arena.history.add(Note, text=f"fault {number} ({kind_of(fault)}): {error}")
            actives = []
        self._ended(number, fault, targets, actives, declared)

    async def _last(self, fault: AnyFault, is_instant: bool = False) -> None:
        """Let a fault last as long as it says; without a length until chaos is over."""
        if fault.for_s or is_instant:
            await self._sleep(fault.for_s)
        else:
            await self._over.wait()

    async def _begin(self, fault: AnyFault, targets: Sequence[str], random: Random) -> list[Active]:
        await self._to_clients(fault, targets, begins=True)
        if fault.stagger_s and fault.reopen == "random":
            actives = []
            for name in targets:
                actives.append(await asyncio.to_thread(begin, self._arena, fault, [name], random))
                await self._sleep(fault.stagger_s)
            return actives
        return [await asyncio.to_thread(begin, self._arena, fault, targets, random)]

    async def _end(
        self, fault: AnyFault, actives: Sequence[Active], targets: Sequence[str], random: Random
    ) -> None:
        order = list(actives)
        if fault.reopen == "random":
            random.shuffle(order)
        for active in order:
            await asyncio.to_thread(active.end)
            if fault.stagger_s and len(order) > 1:
                await self._sleep(fault.stagger_s)
        await self._to_clients(fault, targets, begins=False)

    async def _to_clients(self, fault: AnyFault, targets: Sequence[str], *, begins: bool) -> None:
        """What happens to clients' processes: they belong to this event loop."""
        for name in targets:
            client = self._arena.clients.get(name)
            if client is None:
                continue
            if isinstance(fault, kinds.Kill | kinds.PowerCut | kinds.Restart):
                if begins:
                    client.hold()
                    await client.kill()
                else:
                    client.release()
            elif isinstance(fault, kinds.Pause):
                client.pause() if begins else client.resume()

    # Noting

    def _began(self, declared: int, fault: AnyFault, targets: Sequence[str], *, instant: bool = False) -> int:
        arena = self._arena
        number = arena.next_fault()
        self.tried[declared] += 1
        if keeps_away(fault):
            arena.away.update(targets)
        if keeps_away(fault) or works_on_disks(fault) or isinstance(fault, kinds.Lie):
            arena.disrupted += len(arena.nodes_among(targets))
        if self._is_excuse(fault, targets):
            arena.excuses += 1
        arena.history.add(
            FaultBegan,
            fault=number,
            declared=declared,
            kind=kind_of(fault),
            targets=list(targets),
            instant=instant,
        )
        return number

    def _is_excuse(self, fault: AnyFault, targets: Sequence[str]) -> bool:
        """Does it explain that operations fail, even those that n - m nodes could serve?"""
        if isinstance(fault, kinds.Clock | kinds.Lie):
            return False
        return any(name == COORDINATOR or name in self._arena.clients for name in targets)

    def _ended(
        self, number: int, fault: AnyFault, targets: Sequence[str], actives: Sequence[Active], declared: int
    ) -> None:
        arena = self._arena
        if keeps_away(fault):
            arena.away.subtract(targets)
        if self._is_excuse(fault, targets):
            arena.excuses_over += 1
        if any(active.fired() for active in actives):
            self.fired[declared] += 1
        detail = "; ".join(active.detail for active in actives if active.detail)
        arena.history.add(FaultEnded, fault=number, detail=detail)

    # The budget

    async def _permitted(self, fault: AnyFault, targets: Sequence[str], *, reserve: bool = False) -> bool:
        """Wait until the budget allows it; False when chaos is over before, or the next turn comes."""
        arena = self._arena
        if arena.scenario.budget == "anything" or not (keeps_away(fault) or works_on_disks(fault)):
            return not self._over.is_set()
        wanted = arena.nodes_among(targets)
        loop = asyncio.get_running_loop()
        until = loop.time() + (fault.every_s or 1e9)
        while loop.time() < until and not self._over.is_set():
            async with self._permitting:
                if await self._fits(wanted):
                    if reserve:
                        arena.reserved.update(targets)
                    return True
            await self._sleep(PERMIT_EVERY_S)
        return False

    async def _fits(self, wanted: set[int]) -> bool:
        arena = self._arena
        if not wanted:
            return True
        down = {number for number in arena.numbers if number not in arena.up}
        gone = arena.away_numbers() | arena.nodes_among(+arena.reserved) | arena.hurt | down | wanted
        if len(gone) > arena.scenario.redundancy.m:
            return False
        look = await asyncio.to_thread(
            arena.sampler.take, arena.numbers, away=arena.away_numbers(), excused=frozenset(arena.hurt)
        )
        return not look.trouble and look.survives(gone)

    # At a step

    async def _at_step(self, declared: int, fault: AnyFault, targets: Sequence[str], random: Random) -> None:
        """Arm a target, wait until it came to the step, and go on from there."""
        arena = self._arena
        able = [name for name in targets if self._steps_of(name, fault.step)]
        if not able or not await self._permitted(fault, able[:1], reserve=True):
            return
        name = random.choice(able) if isinstance(fault, kinds.PowerCut) else able[0]
        try:
            hit = await self._wait_for_step(fault, name, random)
        finally:
            arena.reserved.subtract(able[:1])
            arena.cluster.disarm(name)
        if hit is None:
            return
        arena.explained.add(name)
        whole = targets if isinstance(fault, kinds.PowerCut) else [name]
        number = self._began(declared, fault, whole)
        arena.history.add(Note, text=f"fault {number}: {name} came to {hit}")
        # It has ended or frozen itself; what follows is as if it had been done from outside.
        actives = await self._begin(fault, whole, random)
        await self._last(fault)
        await self._end(fault, actives, whole, random)
        self._ended(number, fault, whole, [*actives, Active()], declared)

    def _steps_of(self, name: str, step: str | None) -> list[str]:
        part = "coordinator" if name == COORDINATOR else name.partition("-")[0]
        return [known for known in STEPS if known.split(".")[0] == part and step in ("any", known)]

    async def _wait_for_step(self, fault: AnyFault, name: str, random: Random) -> str | None:
        cluster = self._arena.cluster
        action = "stop" if isinstance(fault, kinds.Pause) else "kill"
        loop = asyncio.get_running_loop()
        before = len(cluster.hits(name))  # counted once: it may come to one step while the next is armed
        while not self._over.is_set():
            cluster.arm(name, random.choice(self._steps_of(name, fault.step)), action, fault.nth)
            until = loop.time() + (STEP_WAIT_S if fault.step == "any" else 1e9)
            while loop.time() < until and not self._over.is_set():
                if len(hits := cluster.hits(name)) > before:
                    return hits[-1]
                await self._sleep(WATCH_EVERY_S / 4)
        return None
