"""Scenarios on machines that cannot do all of it: what is done instead, and that it is said."""

from __future__ import annotations

from holdfast.cluster.chaos.faults import DiskErrors, FullDisk, Partition
from holdfast.cluster.chaos.fitting import fitted, wants_namespace
from holdfast.cluster.chaos.namespaces import Wire, rules
from holdfast.cluster.chaos.scenario import load_builtin, parse_scenario, to_toml


def test_where_all_can_be_done_nothing_is_changed() -> None:
    for name in ("full-disk", "one-way-partition"):
        scenario = load_builtin(name)
        assert fitted(scenario) == (scenario, [])


def test_without_filesystems_nodes_have_a_capacity_and_commits_fail() -> None:
    scenario = load_builtin("full-disk")
    fits, said = fitted(scenario, no_disks="only root may mount filesystems")
    assert fits.cluster.disk_mib == 0 and fits.cluster.capacity_mib == 48
    assert fits.expect.availability == "any"
    assert not any(isinstance(fault, FullDisk) for fault in fits.faults)
    for before, after in zip(scenario.faults, fits.faults, strict=True):
        assert isinstance(after, DiskErrors) and after.error == "ENOSPC"
        assert (after.at_s, after.for_s, after.targets) == (before.at_s, before.for_s, before.targets)
    assert len(said) == 1 and "only root" in said[0] and "48 MiB" in said[0]
    assert parse_scenario(to_toml(fits), "again") == fits


def test_without_namespaces_proxies_hold_bytes_back() -> None:
    scenario = load_builtin("one-way-partition")
    assert wants_namespace(scenario)
    fits, said = fitted(scenario, no_namespace="nft is not installed")
    assert not wants_namespace(fits) and "nft is not installed" in said[0]
    assert [fault.one_way for fault in fits.faults if isinstance(fault, Partition)] == [True] * 3


def test_what_is_dropped_goes_one_way_on_connections_that_either_side_began() -> None:
    node, other = Wire("127.0.72.1", 1001), Wire("127.0.72.2", 1002)
    client = Wire("127.0.73.1")
    assert rules([node], [other]) == [
        "ip saddr 127.0.72.1 tcp dport 1002 counter drop",
        "ip daddr 127.0.72.2 tcp sport 1001 counter drop",
    ]
    assert rules([node], [client]) == ["ip daddr 127.0.73.1 tcp sport 1001 counter drop"]
    assert rules([client], [node]) == ["ip saddr 127.0.73.1 tcp dport 1001 counter drop"]
