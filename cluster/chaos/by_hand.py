"""Breaking a running cluster from a program: one verb for each kind of fault.

    async with cluster.chaos.partition({1}, {2, 3}, oneway=True):
        ...
    await cluster.chaos.kill(4, at="node.put.committed")

Every verb gives a :class:`Breaking`. Awaited, it begins and lasts until ``heal()``; as an async context
manager it ends with its block. Targets are nodes by number, "coordinator", or "clients".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Generator, Iterable, Sequence
from random import Random
from typing import Any, Literal, Self

from holdfast.cluster.chaos import faults as kinds
from holdfast.cluster.chaos.active import Active
from holdfast.cluster.chaos.arena import Arena
from holdfast.cluster.chaos.faults import AnyFault, kind_of
from holdfast.cluster.chaos.history import FaultBegan, FaultEnded
from holdfast.cluster.chaos.injecting import begin, keeps_away, works_on_disks
from holdfast.cluster.chaos.limits import WATCH_EVERY_S
from holdfast.protocol.errors import BadRequest, HoldfastError
from holdfast.protocol.failpoints import STEPS

__all__ = ["Breaking", "Chaos", "Target"]

Target = int | str
"""A node's number, "coordinator" or "clients"."""
OffLoop = Callable[[Coroutine[Any, Any, Any]], "asyncio.Future[Any]"]
"""Runs something where the cluster's own tasks run, and can be awaited anywhere."""

_STEP_WITHIN_S = 60.0


class Breaking:
    """One fault by hand. ``await`` it, or use it as an async context manager."""

    def __init__(
        self, chaos: Chaos, fault: AnyFault, names: Sequence[str], step: tuple[str, int] | None = None
    ) -> None:
        self._chaos = chaos
        self._fault = fault
        self._names = names
        self._step = step
        self._number: int | None = None
        self._active: Active | None = None
        self._hits = 0
        self._waiting: asyncio.Task[bool] | None = None
        self._struck = False

    def __await__(self) -> Generator[Any, None, Self]:
        return self._started().__await__()

    async def _started(self) -> Self:
        await self._chaos.off_loop(self._begin())
        return self

    async def __aenter__(self) -> Self:
        return await self._started()

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def end(self) -> None:
        """Take it back; again is fine."""
        await self._chaos.off_loop(self.take_back())

    async def happened(self, within_s: float = _STEP_WITHIN_S) -> bool:
        """Wait until a fault at a step struck; False when the target did not come there in time."""
        return bool(await self._chaos.off_loop(self._happened(within_s)))

    # In the loop of the cluster's own tasks

    async def _begin(self) -> None:
        if self._number is not None or self._waiting is not None:
            raise BadRequest("this fault was begun already", do="Ask for another one.")
        self._chaos.begun.append(self)
        if self._step is None:
            self._note()
            arena = self._chaos.arena
            random = Random(f"{arena.seed}/{self._number}")
            self._active = await asyncio.to_thread(begin, arena, self._fault, self._names, random)
            return
        (name,), (step, nth) = self._names, self._step
        cluster = self._chaos.arena.cluster
        self._hits = len(cluster.hits(name))
        self._chaos.arena.explained.add(name)
        action = "stop" if isinstance(self._fault, kinds.Pause) else "kill"
        await asyncio.to_thread(cluster.arm, name, step, action, nth)
        self._waiting = asyncio.create_task(self._wait_for_step(name))

    async def _wait_for_step(self, name: str) -> bool:
        cluster = self._chaos.arena.cluster
        # Another process tells by a file: there is no event to wait for.
        while len(await asyncio.to_thread(cluster.hits, name)) <= self._hits:  # noqa: ASYNC110
            await asyncio.sleep(WATCH_EVERY_S / 4)
        self._note()
        # It has ended or frozen itself; what follows is as if it had been done from outside.
        arena = self._chaos.arena
        self._active = await asyncio.to_thread(begin, arena, self._fault, self._names, Random(0))
        self._struck = True
        return True

    async def _happened(self, within_s: float) -> bool:
        if self._waiting is None:
            return self._number is not None
        done, _ = await asyncio.wait([self._waiting], timeout=within_s)
        return bool(done) and self._waiting.result()

    def _note(self) -> None:
        arena, fault = self._chaos.arena, self._fault
        self._number = arena.next_fault()
        if keeps_away(fault):
            arena.away.update(self._names)
        if keeps_away(fault) or works_on_disks(fault) or isinstance(fault, kinds.Lie):
            arena.disrupted += len(arena.nodes_among(self._names))
        instant = works_on_disks(fault) and not isinstance(fault, kinds.DiskErrors)
        detail = f"at {self._step[0]}" if self._step else ""
        arena.history.add(
            FaultBegan, fault=self._number, declared=0, kind=kind_of(fault), targets=list(self._names),
            detail=detail, instant=instant,
        )  # fmt: skip

    async def take_back(self) -> None:
        """End it, where the cluster's tasks run."""
        arena = self._chaos.arena
        if self._waiting is not None and not self._waiting.done():
            self._waiting.cancel()
            await asyncio.wait([self._waiting])
            await asyncio.to_thread(arena.cluster.disarm, self._names[0])
        active, self._active = self._active, None
        if active is None or self._number is None:
            return
        await asyncio.to_thread(active.end)
        if keeps_away(self._fault):
            arena.away.subtract(self._names)
        self._struck = self._struck or active.fired()
        arena.history.add(FaultEnded, fault=self._number, detail=active.detail)

    @property
    def had_effect(self) -> bool:
        """Did it break anything? Known once it has ended."""
        return self._struck

    def __str__(self) -> str:
        where = f" at {self._step[0]}" if self._step else ""
        return f"{kind_of(self._fault)} of {', '.join(self._names)}{where}"


class Chaos:
    """Verbs that break one cluster.

    Args:
        off_loop: runs a coroutine where the cluster's own tasks run.
    """

    def __init__(self, arena: Arena, off_loop: OffLoop) -> None:
        self.arena = arena
        self.off_loop = off_loop
        self.begun: list[Breaking] = []

    def _names(self, targets: Iterable[Target]) -> list[str]:
        wanted = [str(target) for target in targets]
        try:
            names = self.arena.targets(wanted, Random(0), free_only=False)
        except ValueError as error:
            raise BadRequest(f"no such target among {wanted}", do="Name nodes by number.") from error
        unknown = [name for name in names if name.startswith("node-") and name not in self.arena.node_names]
        if unknown or not names:
            raise BadRequest(f"there is no {', '.join(unknown) or 'target'} in this cluster")
        return names

    def fault(self, fault: AnyFault) -> Breaking:
        """Any fault of holdfast.cluster.chaos.faults, on the targets that it names."""
        return Breaking(self, fault, self._names(fault.targets))

    def _make(self, kind: type[Any], targets: Collection[Target], **fields: Any) -> Breaking:
        return self.fault(kind(targets=tuple(map(str, targets)), **fields))

    # Processes

    def kill(self, *targets: Target, at: str | None = None, nth: int = 1) -> Breaking:
        """SIGKILL: now, or when the one target comes to a step the nth time.

        'holdfast chaos explain steps' lists the steps. With ``at`` this returns once the step is armed.
        """
        return self._at(kinds.Kill, targets, at, nth)

    def pause(self, *targets: Target, at: str | None = None, nth: int = 1) -> Breaking:
        """SIGSTOP: now, or at a step."""
        return self._at(kinds.Pause, targets, at, nth)

    def stop(self, *targets: Target) -> Breaking:
        """SIGTERM."""
        return self._make(kinds.Restart, targets)

    def _at(self, kind: type[Any], targets: Collection[Target], at: str | None, nth: int) -> Breaking:
        if at is None:
            return self._make(kind, targets)
        names = self._names(targets)
        part = "coordinator" if names[0] == "coordinator" else names[0].partition("-")[0]
        if at not in STEPS or at.split(".")[0] != part or len(names) != 1:
            raise BadRequest(
                f"{', '.join(names)} cannot be caught at {at!r}",
                why="a step belongs to one part, and one member is caught at it",
                do="'holdfast chaos explain steps' lists the steps.",
            )
        return Breaking(self, kind(targets=tuple(map(str, targets))), names, (at, nth))

    # The network

    def partition(
        self, some: Collection[Target], others: Collection[Target] = (), *, oneway: bool = False
    ) -> Breaking:
        """These and the others do not hear each other; oneway: only the others hear nothing.

        Args:
            others: default: everybody else.
        """
        peers = tuple(map(str, others)) or ("everybody",)
        return self._make(kinds.Partition, some, peers=peers, one_way=oneway)

    def latency(self, *targets: Target, ms: float, jitter_ms: float = 0.0) -> Breaking:
        """Every byte to and from them arrives later."""
        return self._make(kinds.Latency, targets, latency_ms=ms, latency_jitter_ms=jitter_ms)

    def bandwidth(self, *targets: Target, kib_per_s: float) -> Breaking:
        """At most so much a second on each of their connections."""
        return self._make(kinds.Bandwidth, targets, kib_per_s=kib_per_s)

    def timeout(self, *targets: Target, after_ms: float = 0.0) -> Breaking:
        """Nothing comes through; connections are closed after so long (0: never)."""
        return self._make(kinds.Timeout, targets, timeout_ms=after_ms)

    def reset_peer(self, *targets: Target, after_bytes: int | None = None) -> Breaking:
        """Connections are reset, at once or after so many bytes."""
        return self._make(kinds.ResetPeer, targets, bytes=after_bytes)

    def slicer(self, *targets: Target, average_bytes: int, delay_us: float = 0.0) -> Breaking:
        """Bytes come in small portions."""
        return self._make(kinds.Slicer, targets, average_bytes=average_bytes, delay_us=delay_us)

    def limit_data(self, *targets: Target, after_bytes: int) -> Breaking:
        """Each connection is closed after so many bytes."""
        return self._make(kinds.LimitData, targets, bytes=after_bytes)

    def down(self, *targets: Target) -> Breaking:
        """Their connections are refused and cut."""
        return self._make(kinds.Down, targets)

    # Disks and lies

    def bit_rot(
        self, *targets: Target, count: int = 8, what: Literal["values", "pages"] = "values"
    ) -> Breaking:
        """Bits flip in stored values, or in pages of the tree."""
        return self._make(kinds.BitRot, targets, count=count, what=what)

    def disk_swap(self, *targets: Target) -> Breaking:
        """Their stores are gone; they start on empty disks."""
        return self._make(kinds.DiskSwap, targets)

    def fill_disk(self, *targets: Target, leave_mib: float = 0.0) -> Breaking:
        """Their disks run full; only where the cluster was made with ``disk_mib``."""
        return self._make(kinds.FullDisk, targets, leave_mib=leave_mib)

    def clock(self, *targets: Target, offset_s: float = 0.0, drift_ppm: float = 0.0) -> Breaking:
        """Their wall clocks are off, or run away."""
        return self._make(kinds.Clock, targets, offset_s=offset_s, drift_ppm=drift_ppm)

    def lie(self, *targets: Target, how: Literal["wrong", "old", "other"] = "wrong") -> Breaking:
        """They answer with wrong bytes, older ones, or another chunk's."""
        return self._make(kinds.Lie, targets, how=how)

    async def take_all_back(self) -> None:
        """End everything that was begun, where the cluster's tasks run."""
        for one in reversed(self.begun):
            try:
                await one.take_back()
            except HoldfastError:
                continue  # a process that cannot be started now is started by the heal that follows
