"""Backups, losses, moves, comparisons, orders and their ends in whatever order: nothing needed ever goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from support.coordinator_service import upload_id
from support.stored_cluster import StoredCluster, chunk_of, stored_cluster

from holdfast.coordinator.catalogue.moves import assign_slot
from holdfast.coordinator.erasing import send_orders
from holdfast.coordinator.limits import COMPARE_AGAIN_S
from holdfast.coordinator.reconciling import keep_reconciled
from holdfast.coordinator.repairing import keep_whole
from holdfast.protocol.errors import GroupMoved, NoQuorum
from holdfast.protocol.ids import UploadId
from holdfast.protocol.limits import DELETION_HOLD_S_DEFAULT
from holdfast.protocol.messages.uploads import Lease


@dataclass
class Story:
    """What may happen next, and what must hold after it."""

    cluster: StoredCluster
    chance: Random
    next_number: int = 0
    committed: set[int] = field(default_factory=set)
    under_way: list[tuple[UploadId, Lease, list[int]]] = field(default_factory=list)
    has_lost: bool = False

    def numbers(self, count: int) -> list[int]:
        self.next_number += count
        return list(range(self.next_number - count, self.next_number))

    async def begin(self) -> None:
        """A client stores shards; maybe not all of them."""
        upload = upload_id()
        lease = self.chance.choice((await self.cluster.office.open(self.cluster.person, upload)).leases)
        numbers = self.numbers(4)
        slots = None if self.chance.random() < 0.7 else self.chance.sample(range(6), 5)
        await self.cluster.put(lease, upload, numbers, slots)
        self.under_way.append((upload, lease, numbers))

    async def commit(self) -> None:
        """A client that is under way commits some of what it stored."""
        if not self.under_way:
            return
        upload, lease, numbers = self.chance.choice(self.under_way)
        some = self.chance.sample(numbers, self.chance.randint(1, len(numbers)))
        slots = []
        for slot, member in enumerate(lease.members):
            keys = {(key.chunk, key.generation, key.slot) for key in self.cluster.node(member).held()}
            if all((chunk_of(number), upload, slot) in keys for number in some):
                slots.append(slot)
        try:
            await self.cluster.commit(lease, upload, some, slots)
        except (GroupMoved, NoQuorum):
            return
        self.committed |= set(some)

    async def end(self) -> None:
        """A client is done, or gave up."""
        if self.under_way:
            upload, _, _ = self.under_way.pop(self.chance.randrange(len(self.under_way)))
            await self.cluster.office.end(self.cluster.person, upload)

    async def lose(self) -> None:
        """A node loses shards, when everything else is whole: more than that is another test's."""
        if self.has_lost or self.cluster.missing() or self.cluster.desk.live.moves:
            return
        node = self.chance.choice(self.cluster.nodes)
        held = node.held()
        if held:
            self.has_lost = True
            await node.erase(self.chance.sample(held, min(3, len(held))))

    async def move(self) -> None:
        """A slot gets another holder."""
        live = self.cluster.desk.live
        if live.moves or self.has_lost:
            return
        group = live.groups[self.chance.choice(sorted(live.groups))]
        (new,) = [node for node in self.cluster.nodes if node.id not in group.members]
        slot = self.chance.randrange(6)
        try:
            await self.cluster.desk.catalogue.write(
                lambda c: assign_slot(c, group, slot, new.id, "rebalance", 0)
            )
        except GroupMoved:
            return
        await live.refresh(self.cluster.desk.catalogue)

    async def repair(self) -> None:
        self.cluster.desk.repairs.rest.clear()
        await keep_whole(self.cluster.desk)

    async def compare(self) -> None:
        """Somebody is due, and is compared."""
        for known in self.cluster.desk.reconciling.compared.values():
            if self.chance.random() < 0.5:
                known.due_s = self.cluster.office.clock.monotonic()
        for _ in range(self.chance.randint(1, 7)):
            await keep_reconciled(self.cluster.desk)

    async def order(self) -> None:
        await send_orders(self.cluster.desk)

    async def time(self) -> None:
        """Holds run out on some node."""
        await self.cluster.advance(self.chance.choice((1.0, COMPARE_AGAIN_S, DELETION_HOLD_S_DEFAULT + 1)))
        await self.chance.choice(self.cluster.nodes).erase_due()

    async def restart(self) -> None:
        """A node is started anew."""
        node = self.chance.choice(self.cluster.nodes)
        await node.stop()
        await node.start()
        await node.beat()

    def require(self) -> None:
        rows = self.cluster.rows()
        assert {chunk_of(number) for number in self.committed} == rows.keys()
        for number in self.committed:
            assert self.cluster.readable_anywhere(number) >= 4

    async def settle(self) -> None:
        """Everybody is done; what is not needed goes, and nothing else."""
        while self.under_way:
            await self.end()
        for _ in range(4):
            await self.cluster.compare_all()
            await self.cluster.repair()
            await self.cluster.send_orders()
            await self.cluster.advance(DELETION_HOLD_S_DEFAULT + 1)
            for node in self.cluster.nodes:
                await node.erase_due()


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_in_whatever_order_nothing_needed_goes_and_the_rest_does(
    tmp_path: Path, seed: int
) -> None:
    async with stored_cluster(tmp_path, 7) as cluster:
        story = Story(cluster, Random(seed))
        steps = [story.begin, story.commit, story.end, story.lose, story.move, story.repair, story.repair]
        steps += [story.compare, story.compare, story.order, story.time, story.restart]
        await story.begin()
        for _ in range(60):
            await story.chance.choice(steps)()
            await cluster.beat()
            if not cluster.missing() and not cluster.desk.live.moves:
                story.has_lost = story.has_lost and any(
                    cluster.readable(number) < 6 for number in story.committed
                )
            story.require()
        await story.settle()
        assert all(cluster.readable(number) == 6 for number in story.committed)
        held = sum(len(node.held(with_marked=True)) for node in cluster.nodes)
        assert held == 6 * len(story.committed), "what is left on disks is what rows name, once"
