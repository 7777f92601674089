"""What a node finds bad among its own shards: believed where it matters, harmless where it is late."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import select
from support.coordinator_service import KeyNode, Office, Person, chunk_id, office, upload_id

from holdfast.coordinator.catalogue.moves import ShardRow, caught_up, missing_batch
from holdfast.coordinator.catalogue.schema import missing
from holdfast.coordinator.limits import COUNTED_BYTES_MAX
from holdfast.protocol.errors import BadRequest, Refused
from holdfast.protocol.ids import AccountId, ChunkId, UploadId
from holdfast.protocol.limits import FINDINGS_MAX, MIB
from holdfast.protocol.messages.scrub import (
    AskScrub,
    FindingEntry,
    Findings,
    FindingsNoted,
    Scrubbed,
)
from holdfast.protocol.messages.uploads import Lease

CHUNKS = [chunk_id(number) for number in range(5)]


@dataclass
class Stored:
    """Five stripes of one person, whole, in one group."""

    office: Office
    person: Person
    nodes: list[KeyNode]
    lease: Lease
    generation: UploadId

    def entry(self, slot: int, number: int = 0, **changed: object) -> FindingEntry:
        values: dict[str, object] = {
            "group": self.lease.group,
            "slot": slot,
            "account": self.person.account,
            "chunk": CHUNKS[number],
            "generation": self.generation,
            "kind": "damaged",
        }
        return FindingEntry(**{**values, **changed})  # type: ignore[arg-type]

    async def tell(self, node: KeyNode, *entries: FindingEntry) -> int:
        told = await self.office.call(
            "POST", "/v1/nodes/findings", Findings(entries=list(entries)), FindingsNoted, node.signer()
        )
        return told.missing

    def holder(self, slot: int) -> KeyNode:
        (found,) = [node for node in self.nodes if node.id == self.lease.members[slot]]
        return found

    def rows(self) -> dict[tuple[bytes, int], tuple[int, str]]:
        """Missing rows: (chunk, slot) -> (number, why)."""
        found = self.office.desk.catalogue.read_now(lambda c: list(c.execute(select(missing))))
        return {(row.chunk, row.slot): (row.number, row.why) for row in found}

    def under_repair(self, slot: int) -> list[ShardRow]:
        """What a repair of the slot would work on now."""
        return self.office.desk.catalogue.read_now(
            lambda c: missing_batch(c, self.lease.group, slot, 0, 100, MIB)
        )


@pytest.fixture
async def stored(tmp_path: Path) -> AsyncIterator[Stored]:
    async with office(tmp_path / "coordinator") as running:
        nodes = await running.nodes(6)
        person = await running.person("ada")
        generation = upload_id()
        opened = await running.open(person, generation)
        lease = opened.leases[0]
        await running.claim(person, generation, CHUNKS)
        await running.store(person, generation, lease, CHUNKS, nodes)
        yield Stored(running, person, nodes, lease, generation)


async def test_a_holder_s_finding_becomes_a_missing_row(stored: Stored) -> None:
    assert await stored.tell(stored.holder(2), stored.entry(2), stored.entry(2, 1, kind="unreadable")) == 2
    rows = stored.rows()
    assert {key: why for key, (_, why) in rows.items()} == {
        (CHUNKS[0], 2): "damaged",
        (CHUNKS[1], 2): "unreadable",
    }
    located = await stored.office.locate(stored.person, CHUNKS[:2])
    assert [found.missing for found in located.chunks if found] == [[2], [2]], "readers ask it last"


async def test_nobody_finds_anything_in_somebody_else_s_slot(stored: Stored) -> None:
    assert await stored.tell(stored.holder(3), stored.entry(2)) == 0
    assert stored.rows() == {}


async def test_what_the_catalogue_does_not_count_on_is_taken_note_of_and_changes_nothing(
    stored: Stored,
) -> None:
    late = [
        stored.entry(2, generation=UploadId(b"o" * 16)),
        stored.entry(2, chunk=ChunkId(b"x" * 32)),
        stored.entry(2, account=AccountId(b"x" * 32)),
        stored.entry(2, group=999_999),
        stored.entry(200),
        stored.entry(-1),
    ]
    assert await stored.tell(stored.holder(2), *late) == 0
    assert stored.rows() == {}


async def test_a_finding_during_a_repair_outlives_it(stored: Stored) -> None:
    """The repair deletes only the number it was given: what was found bad since stays to be repaired."""
    await stored.tell(stored.holder(2), stored.entry(2))
    under_way = stored.under_repair(2)
    assert len(under_way) == 1
    await stored.tell(stored.holder(2), stored.entry(2))
    stored.office.desk.catalogue.write_now(lambda c: caught_up(c, under_way))
    (left,) = stored.under_repair(2)
    assert left.number > under_way[0].number


async def test_a_finding_that_comes_late_is_one_more_look_and_no_more(stored: Stored) -> None:
    """Between a repair and its late report: the row comes again; a repair that finds it whole ends it."""
    await stored.tell(stored.holder(2), stored.entry(2))
    stored.office.desk.catalogue.write_now(lambda c: caught_up(c, stored.under_repair(2)))
    assert await stored.tell(stored.holder(2), stored.entry(2)) == 1
    stored.office.desk.catalogue.write_now(lambda c: caught_up(c, stored.under_repair(2)))
    assert stored.rows() == {}


async def test_the_same_finding_twice_is_one_row(stored: Stored) -> None:
    assert await stored.tell(stored.holder(2), stored.entry(2), stored.entry(2)) == 2
    assert len(stored.rows()) == 1


async def test_too_many_at_once_and_strangers_are_refused(stored: Stored) -> None:
    with pytest.raises(BadRequest):
        await stored.tell(stored.holder(2), *[stored.entry(2)] * (FINDINGS_MAX + 1))
    with pytest.raises(Refused):
        await stored.tell(KeyNode(77, stored.office.cluster, "zone"), stored.entry(2))
    with pytest.raises(Refused):
        await stored.office.call(
            "POST", "/v1/admin/scrub", AskScrub(node="00", start=True), Scrubbed, stored.holder(2).signer()
        )


async def test_a_failed_store_says_why_and_is_not_taken_for_an_older_one(stored: Stored) -> None:
    node = stored.holder(1)
    await stored.office.beat(node, store_counter=50, shards=5)
    before = dict(stored.office.desk.live.moves)
    await stored.office.beat(node, store_counter=0, state="failed", trouble="the store is cut off")
    assert stored.office.desk.live.moves == before, "nothing is refilled into a store that does not open"
    assert not stored.office.desk.live.is_serving(node.id)
    await stored.office.beat(node, store_counter=50, shards=5)
    assert stored.office.desk.live.moves == before and stored.office.desk.live.is_serving(node.id)


@pytest.mark.parametrize(
    "changed",
    [{"store_counter": COUNTED_BYTES_MAX + 1}, {"shards": -1}, {"trouble": "x" * 2000}, {"quarantined": -3}],
)
async def test_counts_that_no_node_can_have_are_refused(stored: Stored, changed: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        await stored.office.beat(stored.holder(1), **changed)
