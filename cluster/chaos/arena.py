"""What a run works on: the cluster, its clients, and what is broken right now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import RLock
from typing import Any

from holdfast.cluster.chaos.clients import ChaosClient
from holdfast.cluster.chaos.history import History
from holdfast.cluster.chaos.sampling import Sampler
from holdfast.cluster.chaos.scenario import Scenario
from holdfast.cluster.chaos.wiring import COORDINATOR, ChaosCluster, node_name

__all__ = ["Arena"]


@dataclass(slots=True)
class Arena:
    """Shared by everything that breaks, loads, looks and mends.

    Attributes:
        away: member -> how many faults keep it from the others now.
        hurt: nodes whose disks lost or changed something, until everything is whole again.
        broken_stores: of them, those that must be replaced to go on.
        reserved: members that a fault waits for at a step.
        excuses: faults so far that explain failing operations (they hit the coordinator or the clients);
            excuses_over: how many of them have ended.
        up: nodes that the coordinator sees up; verdicts: what its status has said so far.
        mending: of the hurt ones, those that are being mended: whole again means mended.
        disrupted: how many times a node lost its place or its disk; bounds what may be repaired.
        former_reigns: a coordinator whose term is over is in the place of its successor.
        rebuilding: the coordinator's folder is being made again; what it says meanwhile means nothing.
        changing: held while a member is started or ended: two faults that start one member at the same time
            would leave one process that nobody knows of.
        explained: members that a fault ended: their end is no surprise.
        scratch: for copies of stores, logs of tracers.
    """

    scenario: Scenario
    seed: int
    cluster: ChaosCluster
    history: History
    sampler: Sampler
    scratch: Path
    clients: dict[str, ChaosClient] = field(default_factory=dict)
    away: Counter[str] = field(default_factory=Counter)
    reserved: Counter[str] = field(default_factory=Counter)
    excuses: int = 0
    excuses_over: int = 0
    up: set[int] = field(default_factory=set)
    verdicts: set[str] = field(default_factory=set)
    hurt: set[int] = field(default_factory=set)
    broken_stores: set[int] = field(default_factory=set)
    mending: set[int] = field(default_factory=set)
    explained: set[str] = field(default_factory=set)
    rebuilding: bool = False
    former_reigns: bool = False
    changing: Any = field(default_factory=RLock)
    faults: int = 0
    disrupted: int = 0

    @property
    def numbers(self) -> range:
        """The nodes."""
        return range(1, self.cluster.node_count + 1)

    @property
    def node_names(self) -> list[str]:
        """Their names."""
        return [node_name(number) for number in self.numbers]

    @property
    def members(self) -> list[str]:
        """Everybody but the clients."""
        return [*self.node_names, COORDINATOR]

    def away_numbers(self) -> set[int]:
        """Nodes that a fault keeps away now."""
        return {number for number in self.numbers if self.away[node_name(number)] > 0}

    def next_fault(self) -> int:
        """A number for a fault."""
        self.faults += 1
        return self.faults

    # Whom a scenario means

    def targets(self, wanted: Iterable[str], random: Random, free_only: bool = True) -> list[str]:
        """The members that a scenario's targets name; drawn where it leaves that open.

        Args:
            free_only: of nodes drawn, none that another fault keeps away already, where that is possible.
        """
        found: list[str] = []
        for target in wanted:
            found += [name for name in self._named(target, random, free_only) if name not in found]
        return found

    def _named(self, target: str, random: Random, free_only: bool) -> list[str]:
        if target == "everybody":
            return [*self.members, *self.clients]
        if target == "clients":
            return list(self.clients)
        if target == COORDINATOR:
            return [COORDINATOR]
        if target == "all":
            return self.node_names
        if target.isdecimal():
            return [node_name(int(target))]
        if target.startswith("zone:"):
            return self._zone(target.removeprefix("zone:"), random)
        free = [name for name in self.node_names if not self.away[name]] if free_only else self.node_names
        return sorted(random.sample(free, min(self._count(target), len(free))))

    def _count(self, target: str) -> int:
        m = self.scenario.redundancy.m
        counts = {"any": 1, "any:m": m, "any:m+1": m + 1, "any:m-1": max(1, m - 1)}
        return counts[target] if target in counts else int(target.removeprefix("any:"))

    def _zone(self, which: str, random: Random) -> list[str]:
        zones = self.scenario.cluster.zones
        zone = random.randint(1, zones) if which == "any" else int(which)
        return [node_name(number) for number in self.numbers if (number - 1) % zones + 1 == zone]

    def number_of(self, name: str) -> int:
        """A node's number."""
        return int(name.removeprefix("node-"))

    def nodes_among(self, names: Collection[str]) -> set[int]:
        """The numbers of the nodes among members."""
        return {self.number_of(name) for name in names if name.startswith("node-")}
