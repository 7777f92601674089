"""The sums that the database keeps are those that counting gives, whatever comes and goes, and how."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from support.catalogue import NODES, PROFILE, Book, chunk_id
from support.true_sums import require_true_sums

from holdfast.coordinator.catalogue import engine
from holdfast.coordinator.catalogue.audits import draw_stripes
from holdfast.coordinator.catalogue.engine import Catalogue, sqlite_url
from holdfast.coordinator.catalogue.moves import (
    Move,
    all_moves,
    assign_slot,
    fill_batch,
    filled,
    finish_move,
    missing_batch,
    where_now,
)
from holdfast.coordinator.catalogue.nodes import NodeRow, add_groups, add_token, all_groups, join_node
from holdfast.coordinator.catalogue.safety import group_counts
from holdfast.coordinator.catalogue.sums import (
    chunk_totals,
    gap_totals,
    group_totals,
    slots_missing,
    total_of_group,
)
from holdfast.coordinator.catalogue.trash import trash_totals
from holdfast.protocol.ids import NodeId, PublicKey, StoreId
from holdfast.protocol.stripes import digest_of

ALL = set(range(6))
SPARE = [NodeId(bytes([number]) * 16) for number in (7, 8)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Book]:
    """One catalogue with two accounts, two groups and two nodes that are in neither; examples undo theirs."""
    book = Book.open(tmp_path_factory.mktemp("sums"))
    book.account(b"ada")
    book.account(b"eve")

    def more(c: Any) -> None:
        for node in SPARE:
            add_token(c, digest_of(node), "node", 10**15, 0)
            row = NodeRow(node, PublicKey(node * 2), "http://127.0.0.1:1", "zone", 10**9, StoreId(node))
            join_node(c, digest_of(node), row, 1)
        add_groups(c, PROFILE, "usual", [tuple(reversed(NODES))])

    book.catalogue.write_now(more)
    yield book
    book.catalogue.close()


class Undone(Exception):
    """The end of an example."""


ACCOUNTS, CHUNKS, SLOTS, GROUPS = (st.sampled_from(each) for each in ((1, 2), range(5), range(6), (1, 2)))
ADD = (
    "INSERT OR IGNORE INTO chunks (account, id, generation, group_id, group_version, sealed_bytes, stripe, "
    "pin, state) SELECT :account, :chunk, zeroblob(16), id, min(:version, version), :size, zeroblob(32), 0, "
    "'live' FROM groups WHERE id = :group"
)
LEFT = (
    "SELECT count(*), coalesce(sum(sealed_bytes), 0) FROM chunks WHERE group_id = :group AND "
    "group_version < :version AND (account, id) > (:account, :chunk)"
)
MISS = (
    "INSERT OR IGNORE INTO missing (account, chunk, group_id, slot, why) "
    "SELECT account, id, group_id, :slot, '' FROM chunks WHERE account = :account AND id = :chunk"
)
ADVANCE = (
    "UPDATE moves SET cursor_account = :account, cursor_chunk = :chunk, left_chunks = :chunks, "
    "left_bytes = :size WHERE id = :move"
)
CHANGES = st.one_of(
    st.tuples(
        st.just(ADD),
        st.fixed_dictionaries(
            {
                "account": ACCOUNTS,
                "chunk": CHUNKS,
                "group": GROUPS,
                "version": st.integers(0, 3),
                "size": st.integers(1, 9),
            }
        ),
    ),
    st.tuples(
        st.just(MISS),
        st.fixed_dictionaries({"account": ACCOUNTS, "chunk": CHUNKS, "slot": SLOTS}),
    ),
    st.tuples(
        st.just("DELETE FROM missing WHERE account = :account AND chunk = :chunk AND slot <= :slot"),
        st.fixed_dictionaries({"account": ACCOUNTS, "chunk": CHUNKS, "slot": SLOTS}),
    ),
    st.tuples(
        st.just("DELETE FROM chunks WHERE account = :account AND id <= :chunk"),
        st.fixed_dictionaries({"account": ACCOUNTS, "chunk": CHUNKS}),
    ),
    st.tuples(
        st.just(
            "UPDATE chunks SET group_id = :group, group_version = min(:version, (SELECT version FROM groups "
            "WHERE id = :group)) WHERE account = :account "
            "AND id = :chunk AND NOT EXISTS (SELECT 1 FROM missing WHERE chunk = id AND "
            "missing.account = chunks.account)"
        ),
        st.fixed_dictionaries(
            {"account": ACCOUNTS, "chunk": CHUNKS, "group": GROUPS, "version": st.integers(0, 3)}
        ),
    ),
    st.tuples(
        st.just("UPDATE chunks SET state = 'trash', trashed_ms = 1, pin = 7 WHERE account = :account"),
        st.fixed_dictionaries({"account": ACCOUNTS}),
    ),
    st.tuples(
        st.just("assign"),
        st.fixed_dictionaries({"group": GROUPS, "slot": SLOTS, "node": st.sampled_from(SPARE)}),
    ),
)


def apply(connection: Any, what: str, values: dict[str, Any]) -> None:
    """One change of these."""
    if what != "assign":
        if "chunk" in values:
            values = {**values, "chunk": bytes(chunk_id(values["chunk"]))}
        connection.execute(text(what), values)
        return
    group = all_groups(connection)[values["group"]]
    if values["node"] not in group.members:
        assign_slot(connection, group, values["slot"], values["node"], "drain", 1)


def counted_through(
    connection: Any, number: int | None, bare: list[Move], halved: list[Move]
) -> Counter[Any]:
    """What group_counts says, by going through all there is, one chunk after the other."""
    found: Counter[Any] = Counter()
    for row in connection.execute(text("SELECT * FROM chunks")):
        if number not in (None, row.account):
            continue
        gone = set(
            connection.execute(
                text("SELECT slot FROM missing WHERE account = :account AND chunk = :chunk"),
                {"account": row.account, "chunk": row.id},
            ).scalars()
        )
        for move in (*bare, *halved):
            if move.group == row.group_id:
                is_behind = row.group_version < move.version and (row.account, row.id) > move.cursor
                if is_behind is (move in bare):
                    gone.add(move.slot)
        if gone:
            found[row.group_id, frozenset(gone)] += 1
    return found


def advance(connection: Any, move: Move, cursor: tuple[int, int]) -> None:
    """The move has come so far."""
    at = {"move": move.id, "account": cursor[0], "chunk": bytes(chunk_id(cursor[1]))}
    left = connection.execute(text(LEFT), {**at, "group": move.group, "version": move.version}).one()
    connection.execute(text(ADVANCE), {**at, "chunks": left[0], "size": left[1]})


def require_told(connection: Any) -> None:
    """What is told of the sums is what counting gives, of one account and of all."""
    for number in (None, 1, 2):
        found = connection.execute(text("SELECT account, group_id, sealed_bytes FROM chunks"))
        mine = [tuple(row) for row in found if number in (None, row.account)]
        assert chunk_totals(connection, number) == (len(mine), sum(row[2] for row in mine))
        groups = group_totals(connection, number)
        for group in (1, 2):
            sizes = [row[2] for row in mine if row[1] == group]
            assert groups.get(group, (0, 0)) == (len(sizes), sum(sizes))
            if number is None:
                assert total_of_group(connection, group) == (len(sizes), sum(sizes))
        assert sum(count for count, _ in gap_totals(connection, number).values()) <= len(mine)
    shards = connection.execute(text("SELECT group_id, slot, count(*) FROM missing GROUP BY 1, 2"))
    assert {key: count for key, (count, _) in slots_missing(connection).items()} == {
        (group, slot): count for group, slot, count in shards
    }


def begin(connection: Any, gaps: int) -> None:
    """Every chunk that changes know, and something missing of some of them, by the bits of a number."""
    for account in (1, 2):
        for chunk in range(5):
            at, group = {"account": account, "chunk": bytes(chunk_id(chunk))}, 1 + chunk % 2
            connection.execute(text(ADD), {**at, "group": group, "version": 0, "size": 1 + chunk})
            for slot in range(3):
                if gaps & 1:
                    connection.execute(text(MISS), {**at, "slot": slot})
                gaps >>= 1


@settings(max_examples=300)
@given(
    gaps=st.none() | st.integers(0, (1 << 30) - 1),
    changes=st.lists(CHANGES, max_size=15),
    cursor=st.tuples(ACCOUNTS, CHUNKS),
    which=st.integers(0, 255),
    later=st.lists(CHANGES, max_size=10),
)
def test_whatever_comes_and_goes(
    shared: Book,
    gaps: int | None,
    changes: list[tuple[str, dict[str, Any]]],
    cursor: tuple[int, int],
    which: int,
    later: list[tuple[str, dict[str, Any]]],
) -> None:
    def example(c: Any) -> None:
        if gaps is not None:
            begin(c, gaps)
        for what, values in changes:
            apply(c, what, values)
            require_true_sums(c)
        for number, slot in enumerate(sorted(all_moves(c))):
            if which >> number & 1:
                advance(c, all_moves(c)[slot], cursor)
        for what, values in later:
            apply(c, what, values)
            require_true_sums(c)
        require_told(c)
        now = all_moves(c)
        bare = [now[slot] for number, slot in enumerate(sorted(now)) if which >> (4 + number % 4) & 1]
        halved = [move for move in now.values() if move not in bare][: which & 3]
        for number in (None, 1, 2):
            _, found = group_counts(c, number, bare, halved)
            assert found == counted_through(c, number, bare, halved)
        raise Undone

    with pytest.raises(Undone):
        shared.catalogue.write_now(example)


def test_a_move_that_has_ended_since_it_was_looked_up_has_nothing_left(shared: Book) -> None:
    def example(c: Any) -> None:
        c.execute(text(ADD), {"account": 1, "chunk": b"1", "group": 1, "version": 0, "size": 9})
        assign_slot(c, all_groups(c)[1], 3, SPARE[0], "drain", 1)
        (move,) = all_moves(c).values()
        assert (move.left_chunks, move.left_bytes) == (1, 9) and where_now(c, move) == move
        assert group_counts(c, None, [move])[1] == {(1, frozenset({3})): 1}
        c.execute(text("DELETE FROM moves"))
        assert where_now(c, move) is None
        for number in (None, 1):
            assert group_counts(c, number, [move])[1] == {}
            assert group_counts(c, number, [], [move])[1] == {(1, frozenset({3})): 1}
        raise Undone

    with pytest.raises(Undone):
        shared.catalogue.write_now(example)


def test_nothing_is_counted_through_to_say_how_things_stand(
    shared: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while one slot of a group is filled: millions of rows would keep everybody waiting."""

    def example(c: Any) -> None:
        assign_slot(c, all_groups(c)[1], 3, SPARE[0], "drain", 1)
        (move,) = all_moves(c).values()
        asked: list[str] = []
        raw = c.connection.driver_connection
        raw.set_trace_callback(asked.append)
        try:
            group_counts(c, None, [move])
            group_counts(c, 1)
            chunk_totals(c), group_totals(c), slots_missing(c), where_now(c, move)
        finally:
            raw.set_trace_callback(None)
        assert asked and not [each for each in asked if "FROM chunks" in each or "FROM missing" in each]
        raise Undone

    with pytest.raises(Undone):
        shared.catalogue.write_now(example)


def test_no_command_that_comes_again_and_again_goes_through_all_rows(shared: Book) -> None:
    """By the plans of its statements, which do not depend on how many rows there are."""

    def example(c: Any) -> None:
        begin(c, 0b111011)
        assign_slot(c, all_groups(c)[1], 3, SPARE[0], "drain", 1)
        (move,) = all_moves(c).values()
        raw = c.connection.driver_connection
        asked: list[str] = []
        raw.set_trace_callback(asked.append)
        try:
            rows = fill_batch(c, move, move.cursor, 3, 100)
            missing_batch(c, 1, 1, 0, 100, 10**6)
            filled(c, move, move.cursor, rows[:2], rows[2:], rows[-1].cursor, 7)
            finish_move(c, move, rows[-1].cursor)
            trash_totals(c, 1)
            c.execute(text("UPDATE accounts SET used_bytes = 9"))
            draw_stripes(c, [bytes(40)])
            group_counts(c, 1, [move])
        finally:
            raw.set_trace_callback(None)
        plans = {
            what: [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {what}")]
            for what in asked
            if what.startswith(("SELECT", "UPDATE", "DELETE"))
        }
        assert len(plans) > 10
        for what, plan in plans.items():
            assert not [step for step in plan if step.startswith(("SCAN chunks", "SCAN missing"))], what
            # Of one account's chunks those in the trash are few; the account is no way to find them.
            assert "trashed_ms IS NOT NULL" not in what or "chunks_trash" in str(plan)
        raise Undone

    with pytest.raises(Undone):
        shared.catalogue.write_now(example)


def test_the_database_keeps_its_sums_by_itself(shared: Book) -> None:
    """A table that a migration makes anew loses its triggers."""
    there = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    assert set(shared.catalogue.read_now(lambda c: c.execute(text(there)).scalars().all())) == {
        *("chunk_added", "chunk_goes", "chunk_gone", "chunk_moved"),
        *("missing_added", "missing_goes"),
    }


def test_an_older_catalogue_is_counted_once_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "catalogue.sqlite"
    with monkeypatch.context() as patched:
        patched.setattr(engine, "SCHEMA_VERSION", "0008")
        Catalogue(sqlite_url(path)).close()
    with closing(sqlite3.connect(path)) as older, older:
        older.execute("INSERT INTO groups VALUES (1, 5, 4, 2, 'usual'), (2, 1, 4, 2, 'usual')")
        for number in range(40):
            account, chunk, group = 1 + number % 2, bytes([number]), 1 + number % 3 // 2
            values = {"account": account, "chunk": chunk, "group": group}
            older.execute(ADD, {**values, "version": number % 7, "size": 10 + number})
            for slot in range(number % 4):
                older.execute(
                    "INSERT INTO missing (account, chunk, group_id, slot, why) VALUES (?, ?, ?, ?, '')",
                    (account, chunk, group, 5 - slot),
                )
        for slot, cursor in ((1, b""), (2, bytes([20]))):
            older.execute(
                "INSERT INTO moves (group_id, slot, version, why, cursor_account, cursor_chunk, started_ms, "
                "filled_chunks, filled_bytes) VALUES (1, ?, 5, 'lost', 1, ?, 0, 0, 0)",
                (slot, cursor),
            )
    catalogue = Catalogue(sqlite_url(path))
    try:
        catalogue.read_now(require_true_sums)
        count, sealed_bytes = catalogue.read_now(chunk_totals)
        assert (count, sealed_bytes) == (40, sum(range(10, 50)))
        assert all(move.left_chunks for move in catalogue.read_now(all_moves).values())

        def emptied(c: Any) -> None:
            c.execute(text("DELETE FROM missing WHERE slot > 3"))
            require_true_sums(c)
            c.execute(text("DELETE FROM chunks"))

        catalogue.write_now(emptied)
        assert catalogue.read_now(lambda c: (chunk_totals(c), gap_totals(c))) == ((0, 0), {})
    finally:
        catalogue.close()
