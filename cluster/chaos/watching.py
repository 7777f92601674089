"""Looking while everything happens: processes, what the coordinator says, and the stores themselves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.cluster.chaos.arena import Arena
from holdfast.cluster.chaos.history import MemberChanged, Sampled
from holdfast.cluster.chaos.judging import Judge
from holdfast.cluster.chaos.limits import SAMPLE_EVERY_S, STATUS_EVERY_S, WATCH_EVERY_S
from holdfast.cluster.chaos.loading import Load
from holdfast.cluster.chaos.sampling import Look
from holdfast.cluster.chaos.wiring import COORDINATOR, node_name
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.messages.admin import ClusterStatus

__all__ = ["Resources", "Watch", "resources_of"]

_AWAY_STATES = ("paused", "stopped")


@dataclass(frozen=True, slots=True)
class Resources:
    """What a member holds: resident bytes and open descriptors of its processes together."""

    rss_bytes: int
    descriptors: int


def resources_of(pids: Iterable[int]) -> Resources:
    """From /proc (proc(5)); processes that have ended count nothing."""
    rss = descriptors = 0
    for pid in pids:
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            shared = int(Path(f"/proc/{pid}/statm").read_text().split()[2])
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
        except (OSError, IndexError):
            continue
        # Not what is mapped from files: the kernel takes a store's pages back when it needs them.
        rss += (pages - shared) * os.sysconf("SC_PAGE_SIZE")
    return Resources(rss, descriptors)


@dataclass(slots=True)
class Watch:
    """Three loops: see :meth:`processes`, :meth:`status` and :meth:`stores`.

    Attributes:
        look: the last look at the stores; status: what the coordinator said last.
        repaired_bytes: since the run began, over all of the coordinator's lives: for each shard that was
            brought back the sealed bytes of its stripe, which is what was read for it.
        sealed_bytes_most: of all that was stored at any one time.
    """

    arena: Arena
    judge: Judge
    load: Load
    stopping: bool = False
    look: Look | None = None
    told: ClusterStatus | None = None
    repaired_bytes: int = 0
    sealed_bytes_most: int = 0
    was_unreadable: bool = False
    _before: dict[str, str] = field(default_factory=dict)
    _seen: dict[str, str] = field(default_factory=dict)
    _hits: dict[str, int] = field(default_factory=dict)
    _repaired_last: int = 0

    async def processes(self) -> None:
        """Note every change of a process; one that ends unasked is a defect."""
        while not self.stopping:
            await asyncio.to_thread(self._look_at_processes)
            await asyncio.sleep(WATCH_EVERY_S)

    def _look_at_processes(self) -> None:
        arena = self.arena
        for name in arena.members:
            member = arena.cluster.member(COORDINATOR if name == COORDINATOR else arena.number_of(name))
            state = member.state()
            before = self._before.get(name)
            if state == before:
                continue
            self._before[name] = state
            arena.history.add(
                MemberChanged, member=name, state=state, seen_by="machine", pid=member.pid() or 0
            )
            # Who comes to an armed step has gone before the fault that armed it knows.
            hits = len(arena.cluster.hits(name))
            hit, self._hits[name] = hits > self._hits.get(name, 0), hits
            is_hurt = bool(arena.nodes_among([name]) & arena.hurt)
            excused = hit or name in arena.explained or is_hurt or arena.away[name] > 0
            if before is not None and state == "stopped":
                self.judge.require("l", excused, f"{name} ended, and nobody had asked it to")

    async def status(self) -> None:
        """Note how the coordinator sees its nodes."""
        numbers: dict[str, int] = {}
        while not self.stopping:
            try:
                told = await asyncio.to_thread(self.arena.cluster.status)
            except HoldfastError:
                self.arena.up = set()
                await asyncio.sleep(STATUS_EVERY_S)
                continue
            if len(numbers) < self.arena.cluster.node_count:
                numbers = self.arena.cluster.numbers()
            self.take(told, numbers)
            await asyncio.sleep(STATUS_EVERY_S)

    def take(self, told: ClusterStatus, numbers: dict[str, int]) -> None:
        """What the coordinator said."""
        arena = self.arena
        self.told = told
        arena.verdicts.add(told.verdict)
        up = set()
        for node in told.nodes:
            number = numbers.get(node.id.hex())
            if number is None:
                continue
            name = node_name(number)
            state = node.standing if node.standing == "lost" else node.state
            state = "failed" if state == "up" and node.store_state == "failed" else state
            if state == "up" and arena.cluster.node(number).ready() is not None:
                up.add(number)
            if self._seen.get(name) != state:
                self._seen[name] = state
                arena.history.add(MemberChanged, member=name, state=state, seen_by="coordinator")
        arena.up = up
        done = told.repair.done_bytes
        self.repaired_bytes += done - self._repaired_last if done >= self._repaired_last else done
        self._repaired_last = done

    async def stores(self) -> None:
        """Join catalogue and stores, again and again."""
        while not self.stopping:
            await self.sample()
            await asyncio.sleep(SAMPLE_EVERY_S)

    async def sample(self) -> Look:
        """One look, noted and judged."""
        arena = self.arena
        stopped = {
            arena.number_of(name)
            for name, state in self._before.items()
            if state in _AWAY_STATES and name != COORDINATOR
        }
        if arena.rebuilding:
            return Look(trouble="the coordinator is being rebuilt")
        look = await asyncio.to_thread(
            arena.sampler.take,
            arena.numbers,
            away=arena.away_numbers() | stopped,
            excused=frozenset(arena.hurt),
        )
        if look.trouble or arena.rebuilding:
            return look
        self.look = look
        self.was_unreadable |= look.unreadable > 0
        self.sealed_bytes_most = max(self.sealed_bytes_most, look.sealed_bytes)
        arena.history.add(
            Sampled,
            stripes=look.stripes,
            fewest=look.fewest,
            fewest_k=look.fewest_k,
            fewest_n=look.fewest_n,
            short=look.short,
            unreadable=look.unreadable,
            repaired_bytes=self.repaired_bytes,
            read_bytes=self.load.read_bytes,
            written_bytes=self.load.written_bytes,
        )
        self._judge(look)
        if arena.mending and look.short == look.unnoted == 0 and not look.unread and look.stripes:
            arena.hurt -= arena.mending
            arena.mending.clear()
        return look

    def _judge(self, look: Look) -> None:
        judge = self.judge
        if look.committed:
            judge.looked("d", look.committed - len(look.below_quorum))
        for text in look.below_quorum:
            judge.violated("d", text)
        judge.require("e", not look.crowded, "; ".join(look.crowded[:3]))
        if look.heads:
            judge.require("j", not look.head_trouble, "; ".join(look.head_trouble[:3]))
