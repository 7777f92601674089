"""Holdfast itself: the command as users run it, against a local cluster of real processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from holdfast.cluster.benchmark.measuring import Cost, Servers, disk_bytes, measure
from holdfast.cluster.benchmark.subject import clean_environment
from holdfast.cluster.local import LocalCluster
from holdfast.cluster.processes import Member
from holdfast.protocol.program import program_version

__all__ = ["HoldfastSubject", "holdfast"]


def holdfast(*arguments: str | Path) -> list[str]:
    """The command line of this very installation."""
    return [sys.executable, "-P", "-m", "holdfast.client.console", *map(str, arguments)]


class HoldfastSubject:
    """One account on one cluster.

    Args:
        cluster: it runs.
        folder: for the device's home and logs; empty.
    """

    name = "holdfast"

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        folder.mkdir()
        self.cluster = cluster
        self._folder = folder
        self.environment = {
            **clean_environment(folder), **cluster.env(), "HOLDFAST_HOME": str(folder / "home"),
        }  # fmt: skip
        self.servers = Servers(self._members)
        recovery = folder / "recovery.txt"
        measure(holdfast("init", "--recovery-file", recovery), environment=self.environment, folder=folder)

    @property
    def version(self) -> str:
        """What it calls itself."""
        return f"holdfast {program_version()}"

    @property
    def notes(self) -> str:
        """What to know when comparing it."""
        made = self.cluster
        return f"encrypted, {made.profile} over {made.node_count} nodes, every byte fsynced before it counts"

    def _members(self) -> Mapping[str, Sequence[Member]]:
        return {"nodes": self.cluster.nodes(), "coordinator": [self.cluster.coordinator]}

    def _stores(self) -> list[Path]:
        return [member.folder for members in self._members().values() for member in members]

    def _run(self, *arguments: str | Path) -> Cost:
        command = [*holdfast(*arguments), "--json"]
        cost = self.servers.beside(
            lambda: measure(command, environment=self.environment, folder=self._folder)
        )
        told = json.loads(cost.output.splitlines()[-1])
        cost.wire_bytes = int(told["wire_bytes"])
        return cost

    def backup(self, corpus: str, tree: Path) -> Cost:
        """``holdfast backup TREE``; the parent is this tree's last snapshot."""
        before = disk_bytes(self._stores())
        cost = self._run("backup", tree, "--tag", corpus)
        cost.disk_bytes = disk_bytes(self._stores()) - before
        return cost

    def restore(self, corpus: str, tree: Path, target: Path) -> Cost:
        """``holdfast restore latest:TREE``."""
        return self._run("restore", f"latest:{tree}", "--path", tree, "--target", target)

    def found_at(self, tree: Path, target: Path) -> Path:
        """The tree's content is directly below the target."""
        return target

    def close(self) -> None:
        """Its cluster is ended by whoever made it."""

    def without(self, numbers: Sequence[int], work: Callable[[], Cost]) -> Cost:
        """Do some work while these nodes are dead; they run again afterwards."""
        self.cluster.kill(*numbers)
        try:
            self.cluster.wait_down(*numbers)
            return work()
        finally:
            self.cluster.start(*numbers)
            self.cluster.wait_healthy()
