"""Scenario files: read strictly, written so that they read back the same, refused with the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.cluster.chaos.faults import KINDS, summary_of
from holdfast.cluster.chaos.scenario import (
    builtin_names,
    load_builtin,
    load_scenario,
    parse_scenario,
    to_toml,
)
from holdfast.protocol.errors import BadRequest, NotFound

WANTED = [
    "first-kill",
    "exactly-m",
    "m-plus-one-and-back",
    "zone-loss",
    "bit-rot",
    "full-disk",
    "slow-node",
    "pause",
    "flapping",
    "swizzle",
    "split-brain",
    "one-way-partition",
    "reset-mid-body",
    "coordinator-crash",
    "coordinator-amnesia",
    "clock-drift",
    "liar-node",
    "power-cut",
    "rolling-restart",
    "disk-swap",
    "thundering-herd",
    "everything",
    "garbled-wire",
    "liar-client",
    "lying-sources",
    "old-catalogue",
    "sweeping",
    "two-coordinators",
]
SMALLEST = 'version = 1\nname = "x"\nabout = "y"\n'


@pytest.mark.parametrize("name", WANTED)
def test_every_promised_scenario_comes_along_and_reads_back_the_same(name: str) -> None:
    scenario = load_builtin(name)
    assert scenario.name == name and scenario.about.endswith(".")
    assert parse_scenario(to_toml(scenario), "again") == scenario


def test_all_that_come_along_are_promised_ones() -> None:
    assert set(builtin_names()) >= set(WANTED)


def test_every_kind_of_fault_is_used_by_some_scenario() -> None:
    used = {type(fault) for name in builtin_names() for fault in load_builtin(name).faults}
    assert {kind for kind, struct in KINDS.items() if struct not in used} == set()


@pytest.mark.parametrize(
    ("faults", "place"),
    [
        ('[[faults]]\nkind = "kil"\n', "$.faults[0].kind"),
        ('[[faults]]\nkind = "kill"\ntargts = ["1"]\n', "targts"),
        ('[[faults]]\nkind = "kill"\ntargets = ["7"]\n', "no node 7"),
        ('[[faults]]\nkind = "kill"\ntargets = ["sideways"]\n', "'sideways'"),
        ('[[faults]]\nkind = "kill"\ntargets = []\n', "no target"),
        ('[[faults]]\nkind = "kill"\nat_s = -1.0\n', "a time"),
        ('[[faults]]\nkind = "kill"\nat_s = 99.0\n', "behind the end"),
        ('[[faults]]\nkind = "kill"\nevery_s = 0.0\n', "every_s"),
        ('[[faults]]\nkind = "kill"\nstep = "node.put.nowhere"\n', "node.put.nowhere"),
        ('[[faults]]\nkind = "latency"\nlatency_ms = 1.0\nstep = "any"\n', "wait for a step"),
        ('[[faults]]\nkind = "latency"\n', "latency_ms"),
        ('[[faults]]\nkind = "kill"\ntargets = ["zone:1"]\n', "no zones"),
        ('faults = []\n[cluster]\nprofile = "9+9"\n', "needs 18 nodes"),
        ("faults = []\n[cluster]\nnodes = 0\n", "cluster.nodes"),
        ("faults = []\n[load]\nbackup = 0\nstream = 0\n", "something must be stored"),
        ("faults = []\n[load]\nfiles = [5, 2]\n", "load.files"),
        ('faults = []\n[expect]\nskip = ["z"]\n', "from a to m"),
        ("faults = []\n[cluster]\ndisk_mib = 64\n", "cluster.disk_mib"),
        ('[[faults]]\nkind = "full-disk"\n', "cluster.disk_mib"),
        ('[cluster]\ndisk_mib = 200\n[[faults]]\nkind = "full-disk"\n', "budget"),
        ('[[faults]]\nkind = "partition"\nby = "magic"\n', "by"),
        ("", "faults"),
        ("faults = 3\n", "$.faults"),
        ("faults = [\n", "TOML"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(faults: str, place: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_scenario(SMALLEST + faults, "file.toml")
    assert "file.toml" in caught.value.what
    assert place in caught.value.why or place == "TOML"
    assert caught.value.do


def test_versions_and_sizes_are_bounded() -> None:
    with pytest.raises(BadRequest):
        parse_scenario('version = 2\nname = "x"\nabout = "y"\nfaults = []\n', "f")
    with pytest.raises(BadRequest):
        parse_scenario("#" * 70_000, "f")


def test_the_command_line_s_changes_must_fit_too() -> None:
    scenario = load_builtin("first-kill")
    assert scenario.changed(nodes=9, profile="4+2", chaos_s=60).cluster.nodes == 9
    assert scenario.changed() == scenario
    with pytest.raises(BadRequest):
        scenario.changed(nodes=3)
    with pytest.raises(BadRequest):
        scenario.changed(chaos_s=0.5)  # its fault comes later


def test_unknown_scenarios_and_files_are_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_builtin("no-such-thing")
    with pytest.raises(NotFound):
        load_scenario(tmp_path / "none.toml")


@pytest.mark.parametrize("name", WANTED)
def test_every_fault_is_told_in_one_line(name: str) -> None:
    for fault in load_builtin(name).faults:
        line = summary_of(fault)
        assert "\n" not in line and len(line) > 10
