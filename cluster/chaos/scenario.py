"""Scenarios: a cluster, a load, faults, and what is expected; read from TOML, strictly.

The file's form is documented in docs/chaos.md. What is out of bounds, unknown or contradictory
is refused with the place in the file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from holdfast.cluster.chaos.faults import AnyFault, Fault, OldCopy, kind_of
from holdfast.cluster.chaos.limits import (
    CHAOS_S_MAX,
    CLIENTS_MAX,
    DISK_MIB_MAX,
    DISK_MIB_MIN,
    FAULTS_MAX,
    FILE_BYTES_MAX,
    FILES_MAX,
    REPAIR_TIMES_MAX,
    SCENARIO_BYTES_MAX,
)
from holdfast.cluster.chaos.typed import Part, changed
from holdfast.cluster.limits import DOWN_AFTER_S, NODES_MAX
from holdfast.protocol.errors import BadRequest, HoldfastError, NotFound
from holdfast.protocol.failpoints import STEPS
from holdfast.protocol.profiles import Profile

__all__ = [
    "SCENARIO_VERSION",
    "ClusterShape",
    "Expectation",
    "Load",
    "Scenario",
    "builtin_names",
    "load_builtin",
    "load_scenario",
    "parse_scenario",
    "to_toml",
]

SCENARIO_VERSION: Final = 1
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_TARGET: Final = re.compile(
    r"[1-9][0-9]?|any(:([1-9][0-9]?|m|m\+1|m-1))?|all|zone:([1-9][0-9]?|any)|coordinator|clients|everybody"
)


class ClusterShape(Part):
    """The cluster that is broken.

    Attributes:
        zones: spread the nodes over so many; 0: one zone.
        lost_after_s: a node away for so long is given up, and its shards are rebuilt elsewhere.
        trash_hold_s: for how long swept chunks stay restorable.
        capacity_mib: of each node; 0: what the disk has.
        disk_mib: each node lies on a filesystem of its own of that size, which can run full; 0: none does.
            Where none can be mounted, each node gets a capacity of an eighth of it instead.
    """

    nodes: int = 6
    profile: str = "4+2"
    zones: int = 0
    lost_after_s: float = 8.0
    trash_hold_s: float = 3600.0
    capacity_mib: int = 0
    disk_mib: int = 0


class Load(Part):
    """What the clients do meanwhile: each does one thing after another, drawn by weight.

    Attributes:
        clients: processes, each with an account of its own.
        devices: of each account, working at the same time (several processes, one account).
        backup, restore, delete, prune, stream: weights; 0: never.
        cheat: weight of what no client does and servers must refuse (chaos.cheating).
        files: of each backup, fewest and most; ``file_kib``: their sizes.
        pause_s: between two things.
        again: the share of new files whose content the account has stored before, and may have forgotten.
    """

    clients: int = 2
    devices: int = 1
    backup: float = 4.0
    restore: float = 4.0
    delete: float = 1.0
    prune: float = 0.5
    stream: float = 1.0
    cheat: float = 0.0
    files: tuple[int, int] = (3, 12)
    file_kib: tuple[int, int] = (1, 3000)
    pause_s: float = 0.05
    again: float = 0.0


class Expectation(Part):
    """What must come of it.

    Attributes:
        availability: "kept": every operation that no fault explains succeeds; "lost and back": stripes
            become unreadable, are told of, and come back; "no room": as "kept", and some of what stores is
            refused for lack of room; "any": only safety is judged.
        back_within_s: after the heal every stripe has all its shards again within so long.
        operations_min: fewer finished operations prove nothing.
        repaired_factor_max: how often all that is stored may be read for repair, for each time that a node
            was taken away or lost its disk.
        skip: letters of invariants that this scenario says nothing about.
    """

    availability: Literal["kept", "lost and back", "no room", "any"] = "kept"
    back_within_s: float = 60.0
    operations_min: int = 10
    repaired_factor_max: float = REPAIR_TIMES_MAX
    skip: tuple[str, ...] = ()


class Scenario(Part, kw_only=True):
    """One scenario.

    Attributes:
        budget: "survivable": never more than m faults of a group at once, liveness is judged, too;
            "anything": safety only, then everything is healed and must converge.
        calm_s: load before the first fault; ``chaos_s``: with faults.
    """

    version: int
    name: str
    about: str
    budget: Literal["survivable", "anything"] = "survivable"
    calm_s: float = 2.0
    chaos_s: float = 20.0
    cluster: ClusterShape = ClusterShape()
    load: Load = Load()
    faults: tuple[AnyFault, ...]
    expect: Expectation = Expectation()

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ValueError(problem)

    def changed(
        self,
        *,
        nodes: int | None = None,
        profile: str | None = None,
        zones: int | None = None,
        chaos_s: float | None = None,
    ) -> Scenario:
        """The same with what the command line asks for.

        Raises:
            BadRequest: that does not fit.
        """
        shape = {"nodes": nodes, "profile": profile, "zones": zones}
        asked = {name: value for name, value in shape.items() if value is not None}
        try:
            return changed(
                self,
                cluster=changed(self.cluster, **asked),
                chaos_s=self.chaos_s if chaos_s is None else chaos_s,
            )
        except ValueError as error:
            raise BadRequest(f"scenario {self.name} cannot be run so: {error}") from error

    @property
    def redundancy(self) -> Profile:
        """The cluster's k and m."""
        return Profile.parse(self.cluster.profile)


def _problems(scenario: Scenario) -> list[str]:
    """Everything that is out of bounds or contradicts itself."""
    cluster, load, found = scenario.cluster, scenario.load, []

    def require(holds: bool, what: str) -> None:
        if not holds:
            found.append(what)

    require(scenario.version == SCENARIO_VERSION, f"version must be {SCENARIO_VERSION}")
    require(_NAME.fullmatch(scenario.name) is not None, "name: lower-case letters, digits and hyphens")
    require(0 <= scenario.calm_s <= CHAOS_S_MAX, "calm_s is out of bounds")
    require(0 < scenario.chaos_s <= CHAOS_S_MAX, "chaos_s is out of bounds")
    require(1 <= cluster.nodes <= NODES_MAX, f"cluster.nodes: 1 to {NODES_MAX}")
    require(0 <= cluster.zones <= cluster.nodes, "cluster.zones: at most one per node")
    require(cluster.lost_after_s > DOWN_AFTER_S, f"cluster.lost_after_s: more than {DOWN_AFTER_S}")
    disk = cluster.disk_mib
    require(disk == 0 or DISK_MIB_MIN <= disk <= DISK_MIB_MAX, f"cluster.disk_mib: at least {DISK_MIB_MIN}")
    require(cluster.trash_hold_s >= 0 and cluster.capacity_mib >= 0, "cluster: a negative number")
    try:
        needed = Profile.parse(cluster.profile).n
        require(needed <= cluster.nodes, f"cluster.profile {cluster.profile} needs {needed} nodes")
    except HoldfastError as error:
        found.append(f"cluster.profile: {error.what}")
    require(1 <= load.clients * load.devices <= CLIENTS_MAX, f"load: 1 to {CLIENTS_MAX} clients")
    weights = (load.backup, load.restore, load.delete, load.prune, load.stream, load.cheat)
    require(min(weights) >= 0 and load.backup + load.stream > 0, "load: something must be stored")
    require(0 <= load.again <= 1, "load.again: a share")
    require(1 <= load.files[0] <= load.files[1] <= FILES_MAX, f"load.files: 1 to {FILES_MAX}")
    sizes = load.file_kib
    require(0 <= sizes[0] <= sizes[1] <= FILE_BYTES_MAX // 1024, "load.file_kib is out of bounds")
    require(len(scenario.faults) <= FAULTS_MAX, f"at most {FAULTS_MAX} faults")
    require(set(scenario.expect.skip) <= set("abcdefghijklm"), "expect.skip: letters from a to m")
    for number, fault in enumerate(scenario.faults):
        found += [f"faults[{number}] ({kind_of(fault)}): {what}" for what in _problems_of(fault, scenario)]
    return found


def _problems_of(fault: Fault, scenario: Scenario) -> list[str]:
    found = []
    times = (fault.at_s, fault.jitter_s, fault.for_s, fault.stagger_s)
    if not all(0 <= value <= CHAOS_S_MAX for value in times):
        found.append("a time is out of bounds")
    if fault.every_s is not None and not 0.1 <= fault.every_s <= CHAOS_S_MAX:
        found.append("every_s: at least 0.1")
    if fault.at_s > scenario.chaos_s:
        found.append(f"at_s lies behind the end of chaos, {scenario.chaos_s:g} s")
    if fault.step is not None and fault.step != "any" and fault.step not in STEPS:
        found.append(f"there is no step {fault.step!r}; 'holdfast chaos explain steps' lists them")
    if fault.step is not None and kind_of(fault) not in ("kill", "pause", "power-cut"):
        found.append("only kill, pause and power-cut wait for a step")
    if not 1 <= fault.nth <= 1_000_000:
        found.append("nth: at least 1")
    if kind_of(fault) in ("amnesia", "comeback") and fault.targets != ("coordinator",):
        found.append('only the coordinator forgets: targets = ["coordinator"]')
    if kind_of(fault) == "full-disk" and not (scenario.cluster.disk_mib and scenario.budget == "anything"):
        found.append('it needs cluster.disk_mib, and budget = "anything": no quorum counts with a full disk')
    if isinstance(fault, OldCopy) and "coordinator" in fault.targets and len(fault.targets) > 1:
        found.append("an old copy is put back for nodes, or for the coordinator alone")
    if not fault.targets:
        found.append("it has no target")
    for target in (*fault.targets, *getattr(fault, "peers", ())):
        if not _TARGET.fullmatch(target):
            found.append(f"{target!r} is no target")
        elif target.isdecimal() and int(target) > scenario.cluster.nodes:
            found.append(f"there is no node {target}")
        elif target.startswith("zone:") and not scenario.cluster.zones:
            found.append("the cluster has no zones")
    return found


def parse_scenario(text: str, where: str) -> Scenario:
    """Read a scenario.

    Args:
        where: the file, for errors.

    Raises:
        BadRequest: it is not a valid scenario; the error names the place.
    """
    if len(text.encode()) > SCENARIO_BYTES_MAX:
        raise BadRequest(f"{where} is too long for a scenario")
    try:
        return msgspec.convert(tomllib.loads(text), Scenario)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadRequest(
            f"{where} is not a valid scenario",
            why=str(error),
            do="docs/chaos.md describes the file; 'holdfast chaos explain first-kill' shows one.",
        ) from error


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        BadRequest: see :func:`parse_scenario`. NotFound: there is no such file.
    """
    try:
        return parse_scenario(path.read_text(), str(path))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFound(f"there is no scenario file {path}") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not a valid scenario", why=str(error)) from error


def builtin_names() -> list[str]:
    """The scenarios that Holdfast brings along, in alphabetical order."""
    found = files("holdfast.cluster.chaos").joinpath("scenarios").iterdir()
    return sorted(entry.name.removesuffix(".toml") for entry in found if entry.name.endswith(".toml"))


def load_builtin(name: str) -> Scenario:
    """One of them.

    Raises:
        NotFound: there is none of that name.
    """
    if name not in builtin_names():
        raise NotFound(
            f"there is no scenario {name!r}",
            do="'holdfast chaos list' names them; a file of your own ends in .toml.",
        )
    path = files("holdfast.cluster.chaos").joinpath("scenarios", f"{name}.toml")
    return parse_scenario(path.read_text(), f"scenario {name}")


# Writing: only what differs from the defaults, so that a resolved scenario reads like one written by hand


def to_toml(scenario: Scenario) -> str:
    """The scenario as a file; :func:`parse_scenario` gives the same again."""
    plain = msgspec.to_builtins(scenario)
    faults = plain.pop("faults")
    tables = {name: plain.pop(name) for name in ("cluster", "load", "expect")}
    lines = _fields(plain)
    for name, values in tables.items():
        lines += ["", f"[{name}]", *_fields(values)]
    for fault in faults:
        lines += ["", "[[faults]]", *_fields({k: v for k, v in fault.items() if v is not None})]
    if not faults:
        lines.insert(0, "faults = []")
    return "\n".join(lines) + "\n"


def _fields(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {_toml(value)}" for name, value in values.items()]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()  # TOML's basic strings escape as JSON's do
    return "[" + ", ".join(map(_toml, value)) + "]"
