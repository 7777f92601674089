"""A local cluster's folder: what was made in it, and the members it holds.

cluster.json                 how many nodes, which profile, zones, capacity
coordinator/  node-1/ ...    each member's own folder
node-1.log, node-1.process.json, node-1.token    beside them: log, pid, join token until it is used
lock                         held while something changes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.cluster.limits import DOWN_AFTER_S, HEARTBEAT_MS, LOST_AFTER_S, SUSPECT_AFTER_S
from holdfast.cluster.processes import Member, ProcessState
from holdfast.protocol.directory import read_json
from holdfast.protocol.errors import NotFound

__all__ = ["LAYOUT_VERSION", "ClusterFolder", "MemberStatus", "Target", "default_folder"]

Target = int | str
"""A node's number (1..n) or "coordinator"."""

LAYOUT_VERSION = 1


def default_folder() -> Path:
    """Where ``holdfast cluster`` keeps its cluster: the platform's place for state."""
    from platformdirs import user_state_path

    return user_state_path("holdfast", appauthor=False) / "local-cluster"


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One process of the cluster as the machine sees it."""

    name: str
    state: ProcessState
    url: str
    node: str
    pid: int


class ClusterFolder:
    """What a folder says of its cluster. Looks only; :class:`LocalCluster` changes things.

    Args:
        environment: added to the environment of every member.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self._environment = dict(environment)

    @property
    def coordinator(self) -> Member:
        """The coordinator's process."""
        arguments = ["coordinator", "run", "--dir", str(self.folder / "coordinator")]
        arguments += ["--heartbeat-ms", str(HEARTBEAT_MS), "--suspect-after-s", str(SUSPECT_AFTER_S)]
        made = self._layout()
        lost_after_s = made.get("lost_after_s") or LOST_AFTER_S
        arguments += ["--down-after-s", str(DOWN_AFTER_S), "--lost-after-s", str(lost_after_s)]
        if made.get("trash_hold_s") is not None:
            arguments += ["--trash-hold-s", str(made["trash_hold_s"])]
        if made.get("compare_every_s") is not None:
            arguments += ["--compare-every-s", str(made["compare_every_s"])]
        if made["profile"]:
            arguments += ["--profile", made["profile"]]
        return Member("coordinator", self.folder / "coordinator", arguments, self._environment)

    def node(self, number: int) -> Member:
        """The process of node ``number`` (1..n).

        Raises:
            NotFound: there is no such node.
        """
        made = self._layout()
        if not 1 <= number <= made["nodes"]:
            raise NotFound(
                f"there is no node {number}: this cluster has nodes 1 to {made['nodes']}",
                do="'holdfast cluster status' shows them.",
            )
        name = f"node-{number}"
        # Where the coordinator's folder is gone, its nodes are there all the same.
        url = self.url if (self.folder / "coordinator" / "coordinator.json").exists() else ""
        arguments = ["node", "run", "--dir", str(self.folder / name), "--coordinator", url]
        arguments += ["--join-token-file", str(self.folder / f"{name}.token")]
        if made["zones"]:
            arguments += ["--zone", f"zone-{(number - 1) % made['zones'] + 1}"]
        if made["capacity_bytes"]:
            arguments += ["--capacity", str(made["capacity_bytes"])]
        return Member(name, self.folder / name, arguments, self._environment)

    @property
    def node_count(self) -> int:
        """How many nodes the cluster has."""
        return int(self._layout()["nodes"])

    def nodes(self) -> list[Member]:
        """All nodes, in order."""
        return [self.node(number) for number in range(1, self.node_count + 1)]

    def member(self, target: Target) -> Member:
        """A node by number, or the coordinator.

        Raises:
            NotFound: there is none of that name.
        """
        if target == "coordinator":
            return self.coordinator
        text = str(target)
        if not text.isdecimal():
            raise NotFound(
                f"{target!r} is no member of the cluster", do="Name a node by its number, or 'coordinator'."
            )
        return self.node(int(text))

    def _layout(self) -> dict[str, Any]:
        made = read_json(self.folder / "cluster.json", LAYOUT_VERSION)
        if made is None:
            raise NotFound(
                f"there is no local cluster in {self.folder}",
                do="Start one with 'holdfast cluster up' (and the same --dir).",
            )
        return made

    @property
    def exists(self) -> bool:
        """Has a cluster been made in the folder?"""
        return (self.folder / "cluster.json").exists()

    @property
    def url(self) -> str:
        """The coordinator's URL, kept since its first start."""
        return f"http://{self._kept()['listen']}"

    @property
    def address(self) -> str:
        """URL#<cluster id>: what HOLDFAST_COORDINATOR wants."""
        kept = self._kept()
        return f"http://{kept['listen']}#{kept['cluster']}"

    def _kept(self) -> dict[str, Any]:
        """What the coordinator wrote down at its first start."""
        self._layout()
        kept = read_json(self.folder / "coordinator" / "coordinator.json", 1)
        if kept is None:
            raise NotFound(
                f"the coordinator of {self.folder} has never run", do="Start it with 'holdfast cluster up'."
            )
        return kept

    @property
    def operator_key(self) -> Path:
        """The operator key file."""
        return self.folder / "coordinator" / "operator.key"

    def members(self) -> list[MemberStatus]:
        """Every process as the machine sees it."""
        found = []
        for member in (self.coordinator, *(self.nodes() if self.exists else ())):
            told = member.ready() or {}
            found.append(
                MemberStatus(
                    member.name,
                    member.state(),
                    str(told.get("url", "")),
                    str(told.get("node", "")),
                    member.pid() or 0,
                )
            )
        return found

    def numbers(self) -> dict[str, int]:
        """Node id (hex) -> number, of the nodes that have joined."""
        found = {}
        for number in range(1, self.node_count + 1):
            known = read_json(self.folder / f"node-{number}" / "node.json", 1)
            if known is not None:
                found[str(known["node"])] = number
        return found
