"""A process is killed at every named step of the protocol, one after the other: made from the table of steps.

After each: what was acknowledged restores byte for byte, what was not is not there, trying again
succeeds, and in the end catalogue and stores agree. The victim is always node 2, the coordinator, or
the client, so that no more than m nodes are ever away.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from holdfast.client import Client
from holdfast.cluster.chaos.disks import flip_values, wipe
from holdfast.cluster.chaos.sampling import Sampler
from holdfast.cluster.chaos.wiring import COORDINATOR, ChaosCluster
from holdfast.cluster.processes import Member, clean_environment, wait_until
from holdfast.coordinator.asking import compact_node, scrub_node, set_standing
from holdfast.node.store_lmdb_looking import look_at_store
from holdfast.protocol.errors import HoldfastError, Unreachable
from holdfast.protocol.failpoints import STEPS
from holdfast.protocol.messages.admin import ClusterStatus

pytestmark = pytest.mark.timeout(300)

VICTIM = 2
WITHIN_S = 60.0


class Household:
    """Somebody with an account on a cluster of three nodes, and what they must be able to get back."""

    def __init__(self, cluster: ChaosCluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder
        self.sampler = Sampler(cluster.folder)
        self.source = folder / "source"
        self.source.mkdir()
        self.random = Random(1)
        self.turn = 0
        environment = cluster.client_environment("client-1")
        self.environment = {**environment, "HOLDFAST_HOME": str(folder / "home")}
        address, invite = environment["HOLDFAST_COORDINATOR"], environment["HOLDFAST_INVITE"]
        self.client = Client(folder / "home", coordinator=address)
        self.client.init(invite)
        self.change()
        self.client.backup(self.source)

    def change(self, size: int = 300_000) -> None:
        """The folder holds something that nothing has stored yet."""
        self.turn += 1
        for number in range(3):
            (self.source / f"{number}").write_bytes(self.random.randbytes(size))

    def command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Run ``holdfast`` as a process of its own, whose steps are armed as client-1's are."""
        kept = clean_environment()
        return subprocess.Popen(
            [sys.executable, "-m", "holdfast.client.console", *arguments],
            env={**kept, **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def backed_up(self) -> int:
        """Back up; gives the exit code, negative when it was killed."""
        return self.command("backup", str(self.source)).wait(WITHIN_S * 2)

    def restores(self) -> None:
        """The newest snapshot gives exactly what the folder holds."""
        back = self.folder / "back"
        report = self.client.restore("latest", back, path=os.fsencode(self.source).lstrip(b"/"))
        assert report.complete, report.failed
        for path in self.source.iterdir():
            assert (back / path.name).read_bytes() == path.read_bytes()
        shutil.rmtree(back)

    def process(self, name: str) -> Member:
        """A server's process."""
        return self.cluster.member(COORDINATOR if name == COORDINATOR else name.removeprefix("node-"))

    def up(self) -> None:
        """Everybody runs again."""
        self.cluster.heal()


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Household]:
    folder = tmp_path_factory.mktemp("steps")
    with ChaosCluster(nodes=3, profile="2+1", folder=folder / "cluster", trash_hold_s=0.5) as cluster:
        home = Household(cluster, folder)
        yield home
        home.client.close()
        home.sampler.close()


def member_of(step: str) -> str:
    part = step.split(".", 1)[0]
    return {"node": f"node-{VICTIM}", "coordinator": COORDINATOR, "client": "client-1"}[part]


# What brings a process to a step


def storing(home: Household, arm: Callable[[], None], hit: Callable[[], bool], size: int = 300_000) -> None:
    """A backup."""
    home.change(size)
    before = len(home.client.snapshots())
    arm()
    running = home.command("backup", str(home.source))
    assert wait_until(hit, WITHIN_S)
    home.up()
    code = running.wait(WITHIN_S * 2)
    if code < 0:
        made = len(home.client.snapshots()) - before
        assert made == (1 if home.cluster.hits("client-1")[-1] == "client.head.answered" else 0)
        code = home.backed_up()
    assert code == 0
    assert len(home.client.snapshots()) > before


def storing_little(home: Household, arm: Callable[[], None], hit: Callable[[], bool]) -> None:
    """A backup so small that its chunks come with its head."""
    storing(home, arm, hit, 3_000)


def forgetting(home: Household, arm: Callable[[], None], hit: Callable[[], bool]) -> None:
    """A snapshot leaves the list."""
    home.change()
    assert home.backed_up() == 0
    old = home.client.snapshots()[-1]
    home.change()
    assert home.backed_up() == 0
    arm()
    running = home.command("forget", str(old.id))
    assert wait_until(hit, WITHIN_S)
    home.up()
    assert running.wait(WITHIN_S * 2) == 0
    assert old.id not in {snapshot.id for snapshot in home.client.snapshots()}


def sweeping(home: Household, arm: Callable[[], None], hit: Callable[[], bool]) -> None:
    """Something is forgotten, pruned, kept for a moment, and erased."""
    assert home.backed_up() == 0
    old = home.client.snapshots()[-1]
    home.change()
    assert home.backed_up() == 0
    home.client.forget(old)
    arm()
    running = home.command("prune")
    assert wait_until(hit, WITHIN_S)
    home.up()
    if running.wait(WITHIN_S * 2) < 0:
        assert home.command("prune").wait(WITHIN_S * 2) == 0
    assert old.id not in {snapshot.id for snapshot in home.client.snapshots()}


def refilling(home: Household, arm: Callable[[], None], hit: Callable[[], bool]) -> None:
    """A node starts on an empty disk, and is filled by the others."""
    victim = home.cluster.member(VICTIM)
    victim.kill()
    wipe(victim.folder / "store")
    arm()
    victim.start()
    assert wait_until(hit, WITHIN_S)
    home.up()


def patiently(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """The coordinator may still hold a connection to the process that died, and tells so once."""

    def done() -> bool:
        try:
            asyncio.run(work())
        except Unreachable:
            return False
        return True

    assert wait_until(done, WITHIN_S)


async def scrubbed(home: Household, *, wait: bool) -> None:
    ids = {number: node for node, number in home.cluster.numbers().items()}
    await scrub_node(home.cluster.operator_key, node=ids[VICTIM], wait=wait)


def rotting(home: Household, arm: Callable[[], None], hit: Callable[[], bool]) -> None:
    """Bits flip, and the node finds it when it rereads its shards."""
    store = home.cluster.member(VICTIM).folder / "store"
    assert flip_values(store, look_at_store(store).shards, 3, Random(1)) == 3
    arm()
    with suppress(HoldfastError):  # it may be gone before it has answered
        asyncio.run(scrubbed(home, wait=False))
    assert wait_until(hit, WITHIN_S)
    home.up()
    patiently(lambda: scrubbed(home, wait=True))


async def compacted(home: Household, *, wait: bool) -> None:
    ids = {number: node for node, number in home.cluster.numbers().items()}
    await compact_node(home.cluster.operator_key, node=ids[VICTIM], wait=wait)


def compacting(home: Household, arm: Callable[[], None], hit: Callable[[], bool]) -> None:
    """A node copies its store without what is free in it."""
    arm()
    with suppress(HoldfastError):  # it may be gone before it has answered
        asyncio.run(compacted(home, wait=False))
    assert wait_until(hit, WITHIN_S)
    home.up()
    patiently(lambda: compacted(home, wait=True))


OCCASIONS: dict[str, Callable[[Household, Callable[[], None], Callable[[], bool]], None]] = {
    "node.put": storing,
    "node.head": storing,
    "node.mark": sweeping,
    "node.erase": sweeping,
    "node.quarantine": rotting,
    "node.compact": compacting,
    "node.rebuild": refilling,
    "coordinator.backup": storing,
    "coordinator.upload": forgetting,
    "coordinator.claim": storing,
    "coordinator.commit": storing,
    "coordinator.snapshot": storing_little,
    "coordinator.head": storing,
    "coordinator.move": refilling,
    "coordinator.repair": refilling,
    "coordinator.sweep": sweeping,
    "coordinator.trash": sweeping,
    "coordinator.order": sweeping,
    "client.upload": storing,
    "client.put": storing,
    "client.commit": storing,
    "client.head": storing,
    "client.sweep": sweeping,
}
JOINING = "node.join.joined"
ASSIGNED = "coordinator.move.assigned"


def whole(home: Household) -> bool:
    """Has every stripe all its shards, and does the catalogue say so?"""
    look = home.sampler.take(range(1, home.cluster.node_count + 1))
    return not (
        look.trouble or look.unread or look.unnoted or look.short or look.crowded or look.head_trouble
    )


@pytest.mark.parametrize("step", [step for step in STEPS if step not in (JOINING, ASSIGNED)])
def test_killed_at_this_step_nothing_is_lost_and_trying_again_succeeds(
    household: Household, step: str
) -> None:
    home, member = household, member_of(step)
    home.up()
    assert wait_until(lambda: whole(home), WITHIN_S), "the step before left something behind"
    before = len(home.cluster.hits(member))

    def arm() -> None:
        home.cluster.arm(member, step, "kill")

    def hit() -> bool:
        if home.cluster.hits(member)[before:] != [step]:
            return False
        home.cluster.disarm(member)  # or whoever is started next would die of it, too
        return member == "client-1" or home.process(member).state() == "stopped"

    OCCASIONS[step.rpartition(".")[0]](home, arm, hit)
    assert home.cluster.hits(member)[before:] == [step]
    home.up()
    home.restores()


def test_killed_between_joining_and_noting_so_a_node_joins_as_the_same_one(household: Household) -> None:
    home = household
    home.up()
    number = home.cluster.node_count + 1
    home.cluster.arm(f"node-{number}", JOINING, "kill")
    with pytest.raises(Exception, match=f"node-{number} ended"):
        home.cluster.add_node()
    assert home.cluster.hits(f"node-{number}") == [JOINING]
    home.cluster.disarm(f"node-{number}")
    known = {node.id for node in home.cluster.status().nodes}
    home.up()
    assert {node.id for node in home.cluster.status().nodes} == known and len(known) == number
    assert home.backed_up() == 0
    home.restores()


def test_killed_when_a_slot_has_a_new_holder_a_node_is_emptied_all_the_same(household: Household) -> None:
    home = household
    home.up()
    ids = {number: node for node, number in home.cluster.numbers().items()}
    before = len(home.cluster.hits(COORDINATOR))
    home.cluster.arm(COORDINATOR, ASSIGNED, "kill")
    asyncio.run(set_standing(home.cluster.operator_key, node=ids[VICTIM], standing="draining"))
    assert wait_until(lambda: home.cluster.hits(COORDINATOR)[before:] == [ASSIGNED], WITHIN_S)
    home.cluster.disarm(COORDINATOR)
    assert wait_until(lambda: home.cluster.coordinator.state() == "stopped", WITHIN_S)
    home.up()

    def emptied(told: ClusterStatus) -> bool:
        return next(node.slots for node in told.nodes if node.id.hex() == ids[VICTIM]) == 0

    assert home.cluster.wait_until(emptied, WITHIN_S)
    home.restores()
    asyncio.run(set_standing(home.cluster.operator_key, node=ids[VICTIM], standing="joined"))


def test_after_all_these_deaths_catalogue_and_stores_agree(household: Household) -> None:
    household.up()
    assert wait_until(lambda: whole(household), WITHIN_S)
    household.restores()
