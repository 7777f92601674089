"""A scenario, made to fit a machine that cannot break everything in the way the scenario asks for. Pure.

What is done instead is said, and is weaker: a capacity in the place of a disk that runs full, proxies in
the place of lost packets.
"""

from __future__ import annotations

import msgspec

from holdfast.cluster.chaos.faults import AnyFault, DiskErrors, FullDisk, Partition
from holdfast.cluster.chaos.scenario import Scenario
from holdfast.cluster.chaos.typed import changed

__all__ = ["fitted", "wants_namespace"]

_CAPACITY_SHARE = 8


def wants_namespace(scenario: Scenario) -> bool:
    """Is any fault to work by lost packets?"""
    return any(isinstance(fault, Partition) and fault.by == "namespace" for fault in scenario.faults)


def fitted(scenario: Scenario, *, no_disks: str = "", no_namespace: str = "") -> tuple[Scenario, list[str]]:
    """The scenario as it can be run here, and what was changed, in words.

    Args:
        no_disks: why no filesystem can be mounted here, or "".
        no_namespace: why no packet can be dropped, or "".
    """
    said = []
    if no_disks and scenario.cluster.disk_mib:
        scenario = _without_disks(scenario)
        capacity = scenario.cluster.capacity_mib
        said.append(
            f"nodes have a capacity of {capacity} MiB instead of disks that run full, and some commits of "
            f"those that would have run full fail: {no_disks}"
        )
    if no_namespace and wants_namespace(scenario):
        scenario = changed(scenario, faults=tuple(map(_by_proxies, scenario.faults)))
        said.append(f"partitions are made by proxies, not by lost packets: {no_namespace}")
    return scenario, said


def _without_disks(scenario: Scenario) -> Scenario:
    cluster = scenario.cluster
    capacity = cluster.capacity_mib or cluster.disk_mib // _CAPACITY_SHARE
    return changed(
        scenario,
        cluster=changed(cluster, disk_mib=0, capacity_mib=capacity),
        faults=tuple(map(_failing_commits, scenario.faults)),
        # A commit that fails is no answer of "no room": a node that has to prove itself stores nothing.
        expect=changed(scenario.expect, availability="any"),
    )


def _failing_commits(fault: AnyFault) -> AnyFault:
    if not isinstance(fault, FullDisk):
        return fault
    shared = msgspec.to_builtins(fault)
    del shared["leave_mib"]
    return msgspec.convert({**shared, "kind": "disk-errors", "error": "ENOSPC", "times": 2}, DiskErrors)


def _by_proxies(fault: AnyFault) -> AnyFault:
    return changed(fault, by="proxy") if isinstance(fault, Partition) else fault
