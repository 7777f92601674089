"""What lies in a local cluster's folder.

    cluster.json      version, nodes and their zones, profile, times
    lock              held while a verb changes something
    coordinator/      the coordinator's own folder
    node-1/ ...       each node's own folder

Only folders and files that a cluster made are ever deleted, and a folder that
holds anything else is refused in the first place.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from holdfast.cluster.limits import (
    DOWN_AFTER_S,
    HEARTBEAT_MS,
    LOST_AFTER_S,
    NODES_MAX,
    SUSPECT_AFTER_S,
    ZONES_MAX,
)
from holdfast.protocol.clock import Source
from holdfast.protocol.directory import make_private, read_json, write_json
from holdfast.protocol.errors import BadRequest, NotFound, WrongDirectory
from holdfast.protocol.profiles import Profile, default_profile

__all__ = ["COORDINATOR", "Layout", "Plan", "Times", "default_folder", "zone_names"]

COORDINATOR = "coordinator"
_VERSION = 1
_SETTINGS = "cluster.json"


@dataclass(frozen=True, slots=True)
class Times:
    """How soon the coordinator gives a silent node up."""

    heartbeat_ms: int = HEARTBEAT_MS
    suspect_after_s: float = SUSPECT_AFTER_S
    down_after_s: float = DOWN_AFTER_S
    lost_after_s: float = LOST_AFTER_S


@dataclass(frozen=True, slots=True)
class Plan:
    """The shape of a cluster: one zone name for each node, in order.

    Raises:
        BadRequest: a shape that cannot store anything safely.
    """

    zones: tuple[str, ...]
    profile: Profile | None = None
    capacity_bytes: int | None = None
    times: Times = field(default_factory=Times)

    def __post_init__(self) -> None:
        if not 2 <= len(self.zones) <= NODES_MAX:
            raise BadRequest(
                f"a local cluster of {len(self.zones)} nodes is out of bounds",
                why=f"it has 2 to {NODES_MAX} nodes: one copy on one node is not a backup",
            )
        if self.profile is not None and self.profile.n > len(self.zones):
            raise BadRequest(
                f"{self.profile} needs {self.profile.n} nodes, and there are {len(self.zones)}",
                do=f"Use --nodes {self.profile.n} or more, or a smaller --profile.",
            )

    @property
    def nodes(self) -> int:
        """How many nodes."""
        return len(self.zones)

    @property
    def usual_profile(self) -> Profile:
        """The profile in use: as asked, or by the number of nodes."""
        usual = self.profile or default_profile(self.nodes)
        assert usual is not None, "two nodes or more have a default profile"
        return usual

    def with_nodes(self, zones: tuple[str, ...]) -> Plan:
        """The same plan with more nodes at its end."""
        return replace(self, zones=self.zones + zones)


def zone_names(nodes: int, zones: int | None) -> tuple[str, ...]:
    """A zone for each node, in turn; no zones: one shared default zone.

    Raises:
        BadRequest: more zones than nodes, or none.
    """
    if zones is None:
        return ("",) * nodes
    if not 1 <= zones <= min(nodes, ZONES_MAX):
        raise BadRequest(f"{nodes} nodes cannot stand in {zones} zones", do="Use at most as many zones as nodes.")
    return tuple(f"zone-{1 + number % zones}" for number in range(nodes))


def default_folder() -> Path:
    """Where ``holdfast cluster`` works unless told otherwise."""
    from platformdirs import user_state_path

    return user_state_path("holdfast") / "local-cluster"


class Layout:
    """One cluster's folder."""

    def __init__(self, folder: Path, plan: Plan, created: str) -> None:
        self.folder = folder
        self.plan = plan
        self.created = created

    @classmethod
    def open(cls, folder: Path) -> Layout:
        """A cluster that exists.

        Raises:
            NotFound: there is none.
            WrongDirectory: of another version, or damaged.
        """
        folder = Path(os.path.abspath(folder))
        values = read_json(folder / _SETTINGS, _VERSION)
        if values is None:
            raise NotFound(f"there is no local cluster in {folder}", do="Make one with 'holdfast cluster up'.")
        try:
            profile = values["profile"]
            plan = Plan(
                zones=tuple(str(node["zone"]) for node in values["nodes"]),
                profile=Profile.parse(profile) if profile is not None else None,
                capacity_bytes=values["capacity_bytes"],
                times=Times(**values["times"]),
            )
            return cls(folder, plan, str(values["created"]))
        except (KeyError, TypeError, ValueError, BadRequest) as error:
            raise WrongDirectory(f"{folder / _SETTINGS} is damaged", why=str(error)) from error

    @classmethod
    def make(cls, folder: Path, plan: Plan, source: Source) -> Layout:
        """A new cluster's folder.

        Raises:
            WrongDirectory: the folder holds something else.
        """
        folder = Path(os.path.abspath(folder))
        check_free(folder)
        make_private(folder)
        created = datetime.fromtimestamp(source.now_ms() / 1000, UTC).isoformat(timespec="seconds")
        made = cls(folder, plan, created)
        made.save()
        return made

    def save(self) -> None:
        """Write cluster.json."""
        write_json(
            self.folder / _SETTINGS,
            {
                "version": _VERSION,
                "created": self.created,
                "nodes": [{"number": n + 1, "zone": zone} for n, zone in enumerate(self.plan.zones)],
                "profile": str(self.plan.profile) if self.plan.profile else None,
                "capacity_bytes": self.plan.capacity_bytes,
                "times": asdict(self.plan.times),
            },
        )

    def grow(self, zones: tuple[str, ...]) -> None:
        """Note more nodes."""
        self.plan = self.plan.with_nodes(zones)
        self.save()

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder."""
        return self.folder / COORDINATOR

    def node(self, number: int) -> Path:
        """Node 1..n's folder."""
        return self.folder / f"node-{number}"

    @property
    def numbers(self) -> range:
        """The nodes' numbers."""
        return range(1, self.plan.nodes + 1)

    def members(self) -> dict[str, Path]:
        """Every member's name and folder, the coordinator first."""
        return {COORDINATOR: self.coordinator, **{f"node-{n}": self.node(n) for n in self.numbers}}

    def delete(self) -> bool:
        """Delete what the cluster made; False when the folder stays because it holds something else, too."""
        for folder in self.members().values():
            if folder.exists():
                shutil.rmtree(folder)
        for name in (_SETTINGS, "lock"):
            (self.folder / name).unlink(missing_ok=True)
        try:
            self.folder.rmdir()
        except OSError:
            return False
        return True


def check_free(folder: Path) -> None:
    """Refuse a folder that is in other use; a lock alone is left over from a start cut short."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise WrongDirectory(f"{folder} is not a folder", do="Choose another with --dir.")
    strangers = sorted(entry.name for entry in folder.iterdir() if entry.name != "lock")
    if strangers:
        raise WrongDirectory(
            f"{folder} is not a local cluster's folder",
            why=f"it holds {strangers[0]!r}" + (f" and {len(strangers) - 1} more" if strangers[1:] else ""),
            do="Choose an empty or a new folder with --dir.",
        )
