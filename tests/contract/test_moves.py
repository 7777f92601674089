"""Moving slots and missing shards in the catalogue: what it counts as there is there.

The truth is kept beside it: which disk really holds which shards. Rebuilds are carried out on those disks,
and their reports come late, twice, or never; meanwhile slots move on, nodes are wiped, and shards rot.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from support.catalogue import NODES, Book, chunk_id, upload_id

from holdfast.coordinator.catalogue import erasures, moves, trash
from holdfast.coordinator.catalogue import schema as tables
from holdfast.coordinator.catalogue.missing import Gone, note_gone
from holdfast.coordinator.catalogue.moves import Cursor, Move, ShardRow
from holdfast.coordinator.catalogue.nodes import NodeRow, add_token, all_nodes, join_node
from holdfast.coordinator.placement import Group
from holdfast.protocol.errors import GroupMoved
from holdfast.protocol.ids import NodeId, PublicKey, StoreId
from holdfast.protocol.messages.nodes import DeletionEntry
from holdfast.protocol.stripes import digest_of

SPARE = [NodeId(bytes([number]) * 16) for number in range(11, 15)]
SLOTS = range(6)
MOST_BYTES = 10**9


@dataclass
class Batch:
    """A rebuild that was carried out and not reported yet."""

    move: Move | None
    before: Cursor
    rows: Sequence[ShardRow]
    done: list[ShardRow]


class Shelf:
    """One group of six, nodes that can take a slot, and the disks as they really are."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.ada = book.account(b"ada")
        self.disks: dict[NodeId, set[tuple[int, bytes]]] = {node: set() for node in [*NODES, *SPARE]}
        self.count = 0
        for node in SPARE:
            book.catalogue.write_now(lambda c, n=node: self._join(c, n))  # type: ignore[misc]

    @staticmethod
    def _join(connection: Any, node: NodeId) -> None:
        token = digest_of(node)
        add_token(connection, token, "node", 10**15, 0)
        url = f"http://127.0.0.1:{node[0]}"
        join_node(connection, token, NodeRow(node, PublicKey(node * 2), url, "zone", 10**9, StoreId(node)), 1)

    @property
    def group(self) -> Group:
        (group,) = self.book.groups().values()
        return group

    def moves(self) -> dict[tuple[int, int], Move]:
        return self.book.catalogue.read_now(moves.all_moves)

    def move(self, slot: int) -> Move:
        return self.moves()[(self.group.id, slot)]

    # What happens

    def commit(self, without: Sequence[int] = ()) -> int:
        """Store one chunk, with receipts of all slots but some; gives its number."""
        self.count += 1
        self.book.begin(self.ada, self.count)
        durable = set(SLOTS) - set(without)
        for slot in durable:
            self.disks[self.group.members[slot]].add((slot, bytes(chunk_id(self.count))))
        self.book.commit(self.ada, self.count, [self.book.stripe(chunk_id(self.count), durable)])
        self.book.end(self.ada, self.count)
        return self.count

    def assign(self, slot: int, new: NodeId) -> None:
        group = self.group
        self.book.catalogue.write_now(lambda c: moves.assign_slot(c, group, slot, new, "lost", 1))

    def wipe(self, node: NodeId) -> None:
        """A node comes back with a new, empty store."""
        self.disks[node].clear()
        store = StoreId(digest_of(node + bytes([len(self.moves())]))[:16])
        self.book.catalogue.write_now(lambda c: moves.prove_anew(c, node, store, 1, 1))

    def rot(self, slot: int, chunk: int) -> None:
        """A shard rots, and its node finds it and tells."""
        self.disks[self.group.members[slot]].discard((slot, bytes(chunk_id(chunk))))
        gone = [Gone(1, chunk_id(chunk), upload_id(chunk), self.group.id, slot)]
        self.book.catalogue.write_now(lambda c: note_gone(c, gone, "scrub"))

    def _carry_out(self, slot: int, rows: Sequence[ShardRow], failing: Sequence[int] = ()) -> list[ShardRow]:
        done = [row for number, row in enumerate(rows) if number not in failing]
        self.disks[self.group.members[slot]].update((slot, bytes(row.chunk)) for row in done)
        return done

    def fill(self, slot: int, most: int = 2, failing: Sequence[int] = ()) -> Batch | None:
        """The next batch behind the cursor, carried out; None at the end."""
        move = self.move(slot)
        rows = self.book.catalogue.read_now(
            lambda c: moves.fill_batch(c, move, move.cursor, most, MOST_BYTES)
        )
        return Batch(move, move.cursor, rows, self._carry_out(slot, rows, failing)) if rows else None

    def catch_up(self, slot: int, most: int = 2, failing: Sequence[int] = ()) -> Batch | None:
        """The same for what is noted as missing."""
        group = self.group.id
        rows = self.book.catalogue.read_now(
            lambda c: moves.missing_batch(c, group, slot, 0, most, MOST_BYTES)
        )
        return Batch(None, (0, b""), rows, self._carry_out(slot, rows, failing)) if rows else None

    def report(self, batch: Batch) -> bool:
        """The report of a batch arrives."""
        move = batch.move
        if move is None:
            self.book.catalogue.write_now(lambda c: moves.caught_up(c, batch.done))
            return True
        failed = [row for row in batch.rows if row not in batch.done]
        return self.book.catalogue.write_now(
            lambda c: moves.filled(c, move, batch.before, batch.done, failed, batch.rows[-1].cursor, 1)
        )

    def finish(self, slot: int) -> bool:
        """End a move whose fill has reached its end."""
        move = self.move(slot)
        return self.book.catalogue.write_now(lambda c: moves.finish_move(c, move, move.cursor))

    # What must hold

    def missing(self) -> dict[tuple[bytes, int], int]:
        query = select(tables.missing.c.chunk, tables.missing.c.slot, tables.missing.c.number)
        rows = self.book.catalogue.read_now(lambda c: c.execute(query).all())
        return {(row.chunk, row.slot): row.number for row in rows}

    def what_counts_as_there_is_there(self) -> None:
        group, under_way, missing = self.group, self.moves(), self.missing()
        query = select(tables.chunks.c.id, tables.chunks.c.account, tables.chunks.c.group_version)
        for row in self.book.catalogue.read_now(lambda c: c.execute(query).all()):
            for slot in SLOTS:
                move = under_way.get((group.id, slot))
                behind = (
                    move is not None
                    and row.group_version < move.version
                    and (row.account, row.id) > move.cursor
                )
                if (row.id, slot) not in missing and not behind:
                    assert (slot, row.id) in self.disks[group.members[slot]], (slot, move)
        for slot, holder in enumerate(group.members):
            move = under_way.get((group.id, slot))
            assert move is None or move.old != holder

    def anything(self, chance: random.Random, on_their_way: list[Batch]) -> None:
        slot = chance.randrange(6)
        is_moving = (self.group.id, slot) in self.moves()
        failing = [number for number in range(2) if chance.random() < 0.2]
        made: Batch | None = None
        match chance.randrange(10):
            case 0 | 1:
                self.commit(chance.sample(SLOTS, chance.randrange(2)))
            case 2:
                free = [node for node in self.disks if node not in self.group.members]
                self.assign(slot, chance.choice(free))
            case 3 if chance.random() < 0.3:
                self.wipe(self.group.members[slot])
            case 4 if self.count:
                self.rot(slot, chance.randint(1, self.count))
            case 5 | 6 if is_moving:
                made = self.fill(slot, failing=failing)
                if made is None:
                    self.finish(slot)
            case 7:
                made = self.catch_up(slot, failing=failing)
            case _ if on_their_way:
                batch = on_their_way.pop(chance.randrange(len(on_their_way)))
                self.report(batch)
                if chance.random() < 0.2:
                    on_their_way.append(batch)  # and once more, later
        if made is not None:
            on_their_way.append(made)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(Book.open(tmp_path))
    for _ in range(3):
        made.commit()
    yield made
    made.what_counts_as_there_is_there()
    made.book.catalogue.close()


@settings(max_examples=12, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0, 2**32))
def test_whatever_moves_rots_and_comes_late_what_counts_as_there_is_there(seed: int) -> None:
    chance = random.Random(seed)
    on_their_way: list[Batch] = []
    with TemporaryDirectory() as folder:
        shelf = Shelf(Book.open(Path(folder)))
        try:
            for _ in range(70):
                shelf.anything(chance, on_their_way)
                shelf.what_counts_as_there_is_there()
            # In the end everything can be brought back, and then nothing is left to do.
            for slot in SLOTS:
                while (shelf.group.id, slot) in shelf.moves() and (batch := shelf.fill(slot, 99)):
                    assert shelf.report(batch)
                while batch := shelf.catch_up(slot, 99):
                    shelf.report(batch)
                assert (shelf.group.id, slot) not in shelf.moves() or shelf.finish(slot)
            shelf.what_counts_as_there_is_there()
            assert not shelf.moves() and not shelf.missing()
        finally:
            shelf.book.catalogue.close()


def test_a_chunk_committed_between_the_fill_s_scan_and_its_end_is_not_passed_over(shelf: Shelf) -> None:
    shelf.assign(5, SPARE[0])
    batch = shelf.fill(5, 99)
    assert batch is not None
    late = shelf.commit(without=[5])  # the new holder's receipt did not come
    assert shelf.report(batch) and shelf.fill(5) is None
    assert not shelf.finish(5), "the former holder is still needed as a source"
    again = shelf.catch_up(5)
    assert again is not None and [row.chunk for row in again.rows] == [chunk_id(late)]
    shelf.report(again)
    assert shelf.finish(5) and not shelf.missing()


def test_a_commit_judged_by_the_members_of_before_is_void(shelf: Shelf) -> None:
    stale = shelf.book.stripe(chunk_id(99), set(SLOTS))
    shelf.assign(5, SPARE[0])
    shelf.book.begin(shelf.ada, 50)
    with pytest.raises(GroupMoved):
        shelf.book.commit(shelf.ada, 50, [stale])


def test_a_finding_between_a_repair_and_its_late_report_is_kept(shelf: Shelf) -> None:
    shelf.rot(2, 1)
    repaired = shelf.catch_up(2)
    assert repaired is not None
    shelf.rot(2, 1)
    shelf.report(repaired)
    assert (bytes(chunk_id(1)), 2) in shelf.missing()
    shelf.report(repaired)
    again = shelf.catch_up(2)
    assert again is not None
    shelf.report(again)
    assert not shelf.missing()


def test_a_late_report_of_a_holder_before_does_not_speak_for_the_one_now(shelf: Shelf) -> None:
    shelf.assign(5, SPARE[0])
    batch = shelf.fill(5, 99)
    shelf.assign(5, SPARE[1])
    assert batch is not None and not shelf.report(batch)
    assert shelf.move(5).old == NODES[5], "the first holder is the one that has it all"
    again = shelf.fill(5, 99)
    assert again is not None and len(again.rows) == 3


def test_what_could_not_be_filled_keeps_the_former_holder_as_a_source(shelf: Shelf) -> None:
    shelf.assign(5, SPARE[0])
    batch = shelf.fill(5, 99, failing=[1])
    assert batch is not None and shelf.report(batch)
    assert shelf.fill(5) is None and not shelf.finish(5)
    assert shelf.move(5).old == NODES[5]
    again = shelf.catch_up(5)
    assert again is not None
    shelf.report(again)
    assert shelf.finish(5)


def test_a_wiped_node_is_taken_over_with_all_its_slots_or_not_at_all(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise GroupMoved("the coordinator dies here")

    monkeypatch.setattr(moves, "assign_slot", dies)
    with pytest.raises(GroupMoved):
        shelf.wipe(NODES[3])
    assert shelf.book.catalogue.read_now(all_nodes)[NODES[3]].store == StoreId(NODES[3])
    monkeypatch.undo()
    shelf.wipe(NODES[3])
    assert shelf.move(3).why == "refill" and shelf.move(3).old is None
    batch = shelf.fill(3, 99)
    assert batch is not None and shelf.report(batch) and shelf.finish(3)


def test_a_wiped_node_is_no_source_for_what_moves_away_from_it(shelf: Shelf) -> None:
    """Else its slot would count as one that somebody has, until it is filled."""
    shelf.assign(5, SPARE[0])
    assert shelf.move(5).old == NODES[5]
    shelf.book.catalogue.write_now(lambda c: moves.prove_anew(c, NODES[5], StoreId(NODES[5]), 0, 1))
    assert shelf.move(5).old == NODES[5], "an older copy of its store may still have it"
    shelf.wipe(NODES[5])
    assert shelf.move(5).old is None
    batch = shelf.fill(5, 99)
    assert batch is not None and shelf.report(batch) and shelf.finish(5)


def test_a_chunk_that_is_swept_while_it_is_repaired_stays_gone(shelf: Shelf) -> None:
    shelf.rot(2, 1)
    repaired = shelf.catch_up(2)
    shelf.assign(5, SPARE[0])
    filled = shelf.fill(5, 99, failing=[0, 1, 2])
    assert repaired is not None and filled is not None
    swept = tables.chunks.update().where(tables.chunks.c.id == bytes(chunk_id(1)))
    shelf.book.catalogue.write_now(lambda c: c.execute(swept.values(state="trash", trashed_ms=1)))
    assert shelf.book.catalogue.write_now(lambda c: trash.empty_trash(c, 1, 99, 1)) == 1
    shelf.report(repaired)
    shelf.report(filled)
    shelf.rot(2, 1)
    assert shelf.book.locate(shelf.ada, [chunk_id(1)]) == [None]
    assert not any(chunk == bytes(chunk_id(1)) for chunk, _ in shelf.missing())
    told = shelf.book.catalogue.read_now(erasures.nodes_asked)
    assert set(told) == {*NODES, SPARE[0]}, "the former holder of the moving slot is told, too"
    while batch := shelf.catch_up(5, 99):
        shelf.report(batch)


def test_a_slot_waits_for_a_node_that_is_still_to_erase_shards_of_the_group(shelf: Shelf) -> None:
    """Else it could take the order after it was filled, and erase what it is counted on for."""
    leftover = DeletionEntry(shelf.group.id, 5, shelf.ada[0], chunk_id(1), upload_id(1))
    write = shelf.book.catalogue.write_now
    write(lambda c: erasures.erase(c, SPARE[0], [leftover], 1))
    order = write(lambda c: erasures.next_order(c, SPARE[0], frozenset()))
    assert order is not None and order.entries == [leftover]
    with pytest.raises(GroupMoved, match="erase"):
        shelf.assign(5, SPARE[0])
    write(lambda c: erasures.answered(c, SPARE[0], order.number))
    shelf.assign(5, SPARE[0])
    batch = shelf.fill(5, 99)
    assert batch is not None and shelf.report(batch) and shelf.finish(5)
