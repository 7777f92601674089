"""Repair: how fast the stripes of one node that is gone for good are whole again.

A cluster of its own, on which nodes are given up after a few seconds, and repair goes as fast
as it can: by default it leaves room to clients. Each round adds an empty node, kills one
for good, and times from the moment it is given up until every stripe is whole. The rate
counts bytes of the chunks made whole.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from holdfast.cluster.benchmark.corpora import CORPORA, bytes_of, files_of
from holdfast.cluster.benchmark.holdfast_subject import HoldfastSubject
from holdfast.cluster.benchmark.measuring import Cost
from holdfast.cluster.benchmark.samples import Sample
from holdfast.cluster.limits import DOWN_AFTER_S
from holdfast.cluster.local import LocalCluster
from holdfast.protocol.clock import SYSTEM
from holdfast.protocol.errors import HoldfastError
from holdfast.protocol.messages.admin import ClusterStatus

__all__ = ["measure_repair"]

_LOST_AFTER_S = DOWN_AFTER_S + 2.0
_REPAIRED_WITHIN_S = 300.0
_NO_BOUND = {"HOLDFAST_REPAIR_RATE": "0", "HOLDFAST_REPAIR_NODE_RATE": "0"}
_LOOK_S = 0.1
"""How often it is asked: whoever asks takes processor time from those that repair."""


def measure_repair(folder: Path, rounds: int, profile: str, tell: Callable[[str], None]) -> list[Sample]:
    """One sample a round, of the corpus "big".

    Raises:
        HoldfastError: the stripes did not become whole in time.
    """
    corpus, tree = CORPORA["big"], folder / "repaired"
    tree.mkdir()
    samples = []
    with LocalCluster(6, profile, lost_after_s=_LOST_AFTER_S, environment=_NO_BOUND) as cluster:
        subject = HoldfastSubject(cluster, folder / "holdfast-repair")
        for number in range(1, rounds + 1):
            corpus.make(tree, f"repair round {number}")
            subject.backup(corpus.name, tree)
            cluster.add_node()
            _wait_up(cluster, cluster.node_count - number + 1)
            before = cluster.status().repair.done_bytes
            _give_up(cluster, number)
            cost = subject.servers.beside(lambda: _repaired(cluster, before))  # noqa: B023 - runs at once
            done = cluster.status().repair.done_bytes - before
            samples.append(Sample(corpus.name, "repair", "holdfast", number, files_of(tree), done, cost))
            tell(f"round {number}  big      repair     holdfast  {done / 1e6 / cost.seconds:>11,.0f} MB/s")
    assert bytes_of(tree)
    return samples


def _wait_up(cluster: LocalCluster, count: int) -> None:
    if not cluster.wait_until(lambda told: sum(node.state == "up" for node in told.nodes) >= count):
        raise HoldfastError("a new node did not come up in time")


def _give_up(cluster: LocalCluster, number: int) -> None:
    """Kill a node for good, and wait until the cluster counts it as lost."""
    gone = {node for node, its in cluster.numbers().items() if its == number}
    cluster.kill(number)

    def given_up(told: ClusterStatus) -> bool:
        return any(node.standing == "lost" for node in told.nodes if node.id.hex() in gone)

    if not cluster.wait_until(given_up):
        raise HoldfastError(f"node {number} was not given up in time")


def _repaired(cluster: LocalCluster, done_before: int) -> Cost:
    def whole(told: ClusterStatus) -> bool:
        repair = told.repair
        # Right after a node is given up its slots are not assigned anew yet: something must have been done.
        return repair.done_bytes > done_before and not (repair.queued or repair.moves or repair.running)

    started = SYSTEM.monotonic()
    if not cluster.wait_until(whole, _REPAIRED_WITHIN_S, every_s=_LOOK_S):
        raise HoldfastError("the stripes of a lost node did not become whole", why=cluster.status().sentence)
    return Cost(SYSTEM.monotonic() - started)
