"""Prepared statements say what SQLAlchemy says; what the database refuses becomes the same typed errors."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    create_engine,
    delete,
    insert,
    select,
    update,
)

from holdfast.coordinator.catalogue.engine import Catalogue, sqlite_url
from holdfast.coordinator.catalogue.prepared import Prepared
from holdfast.coordinator.catalogue.schema import groups, meta
from holdfast.coordinator.limits import SQL_VALUES_MAX
from holdfast.protocol.errors import BadRequest, Conflict, HoldfastError, NoRoom

THINGS = Table(
    "things",
    MetaData(),
    Column("id", LargeBinary, primary_key=True),
    Column("name", String, nullable=False),
    Column("size", Integer),
)
LISTED = select(THINGS.c.id, THINGS.c.size).where(
    THINGS.c.name == bindparam("name"), THINGS.c.id.in_(bindparam("ids", expanding=True))
)


def key(number: int) -> bytes:
    return number.to_bytes(4, "big")


@pytest.fixture(params=["qmark", "named"])
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """Of a driver that takes values by their place, and of one that is asked the usual way."""
    engine = create_engine("sqlite://", paramstyle=request.param)
    with engine.begin() as made:
        THINGS.metadata.create_all(made)
        made.execute(
            insert(THINGS), [{"id": key(n), "name": ["even", "odd"][n % 2], "size": n} for n in range(600)]
        )
        yield made
    engine.dispose()


def rows(connection: Connection) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(select(THINGS).order_by(THINGS.c.id))]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 63, 64, 65, 257, SQL_VALUES_MAX])
def test_a_list_of_any_length_finds_each_of_its_values_once(connection: Connection, count: int) -> None:
    prepared = Prepared(LISTED)
    asked = [key(n) for n in range(count)]
    for _ in range(2):
        found = prepared.rows(connection, name="odd", ids=asked)
        assert sorted(found) == [(key(n), n) for n in range(1, count, 2)]


def test_constants_of_a_statement_are_kept_and_nothing_is_a_value_too(connection: Connection) -> None:
    emptied = Prepared(
        update(THINGS)
        .where(THINGS.c.id.in_(bindparam("ids", expanding=True)), THINGS.c.name == "odd")
        .values(name=bindparam("renamed"), size=None)
    )
    emptied.run(connection, ids=[key(n) for n in range(3)], renamed="none")
    assert rows(connection)[:4] == [
        (key(0), "even", 0),
        (key(1), "none", None),
        (key(2), "even", 2),
        (key(3), "odd", 3),
    ]


def test_rows_are_added_and_taken_away(connection: Connection) -> None:
    Prepared(delete(THINGS).where(THINGS.c.size >= bindparam("least"))).run(connection, least=0)
    added = Prepared(insert(THINGS).values(name="same"), columns=("id",))
    added.run_each(connection, [{"id": key(n)} for n in range(3)])
    Prepared(insert(THINGS)).run(connection, id=key(9), name="other", size=9)
    assert rows(connection) == [
        *((key(n), "same", None) for n in range(3)),
        (key(9), "other", 9),
    ]


def test_one_row_or_none_and_rows_one_after_the_other(connection: Connection) -> None:
    one = Prepared(select(THINGS.c.size).where(THINGS.c.id == bindparam("id")))
    assert one.row(connection, id=key(7)) == (7,)
    assert one.row(connection, id=key(700)) is None
    first = Prepared(select(THINGS.c.size).order_by(THINGS.c.size).limit(bindparam("most")))
    each = first.each(connection, most=100)
    assert [next(each), next(each)] == [(0,), (1,)]
    each.close()  # type: ignore[attr-defined]
    assert len(first.rows(connection, most=3)) == 3


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    made = Catalogue(sqlite_url(tmp_path / "catalogue.sqlite"))
    yield made
    made.close()


ADDED = Prepared(insert(meta))
PULSE = Prepared(select(meta.c.number).where(meta.c.name == bindparam("name")))


def test_what_a_refused_command_did_does_not_count(catalogue: Catalogue) -> None:
    def refused(connection: Connection) -> None:
        ADDED.run(connection, name="mark", number=1)
        raise Conflict("no")

    with pytest.raises(Conflict):
        catalogue.write_now(refused)
    assert catalogue.read_now(lambda c: PULSE.row(c, name="mark")) is None
    catalogue.write_now(lambda c: ADDED.run(c, name="mark", number=2))
    assert catalogue.read_now(lambda c: PULSE.row(c, name="mark")) == (2,)


def test_what_the_database_refuses_is_a_typed_error_and_the_next_command_goes_on(
    catalogue: Catalogue,
) -> None:
    with pytest.raises(BadRequest, match="larger"):
        catalogue.write_now(lambda c: ADDED.run(c, name="mark", number=1 << 63))
    catalogue.write_now(lambda c: ADDED.run(c, name="mark", number=1))
    with pytest.raises(HoldfastError, match="database failed") as told:
        catalogue.write_now(lambda c: ADDED.run(c, name="mark", number=2))
    assert "UNIQUE" in str(told.value.why)
    with pytest.raises(HoldfastError, match="database failed"):
        catalogue.read_now(lambda c: Prepared(insert(groups)).run(c, id=1, version=1, k=1, m=1, kind=None))
    assert catalogue.read_now(lambda c: PULSE.row(c, name="mark")) == (1,)
    catalogue.write_now(lambda c: ADDED.run(c, name="other", number=3))


def test_a_full_disk_is_said_to_be_one(catalogue: Catalogue) -> None:
    def full(_: Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(NoRoom):
        catalogue.write_now(full)
    with pytest.raises(NoRoom):
        catalogue.read_now(full)


def test_a_command_that_finds_the_database_locked_is_run_again_whole(catalogue: Catalogue) -> None:
    tries: list[int] = []

    def locked_at_first(connection: Connection) -> None:
        ADDED.run(connection, name="mark", number=len(tries))
        tries.append(1)
        if len(tries) < 3:
            raise sqlite3.OperationalError("database is locked")

    catalogue.write_now(locked_at_first)
    assert catalogue.read_now(lambda c: PULSE.row(c, name="mark")) == (2,)


def test_what_stays_locked_is_a_typed_error_and_is_gone_with_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.coordinator.catalogue.engine.BUSY_TIMEOUT_MS", 1)
    catalogue = Catalogue(sqlite_url(tmp_path / "catalogue.sqlite"))
    other = sqlite3.connect(tmp_path / "catalogue.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(HoldfastError, match="database failed") as told:
        catalogue.write_now(lambda c: ADDED.run(c, name="mark", number=1))
    assert "locked" in str(told.value.why)
    assert catalogue.read_now(lambda c: PULSE.row(c, name="mark")) is None
    other.execute("ROLLBACK")
    catalogue.write_now(lambda c: ADDED.run(c, name="mark", number=2))
    assert catalogue.read_now(lambda c: PULSE.row(c, name="mark")) == (2,)
    other.close()
    catalogue.close()


def test_a_reader_sees_one_state_while_others_write(catalogue: Catalogue) -> None:
    catalogue.write_now(lambda c: ADDED.run(c, name="mark", number=1))

    def read(connection: Connection) -> tuple[Any, Any]:
        before = PULSE.row(connection, name="mark")
        catalogue.write_now(lambda c: c.execute(update(meta).values(number=2)))
        return before, PULSE.row(connection, name="mark")

    assert catalogue.read_now(read) == ((1,), (1,))
    assert catalogue.read_now(lambda c: PULSE.row(c, name="mark")) == (2,)


def test_a_transaction_that_is_over_holds_on_to_no_state_of_the_database(catalogue: Catalogue) -> None:
    catalogue.write_now(lambda c: ADDED.run_each(c, [{"name": f"mark {n}", "number": n} for n in range(99)]))
    names = Prepared(select(meta.c.name).where(meta.c.number >= bindparam("least")))

    def read(connection: Connection) -> None:
        for (name,) in names.each(connection, least=0):
            assert name
            break  # most of it is not wanted
        assert PULSE.row(connection, name="mark 1") == (1,)

    for _ in range(4):
        catalogue.read_now(read)
        catalogue.write_now(read)
    catalogue.write_now(lambda c: ADDED.run(c, name="mark", number=5))
    # All of the log goes to the catalogue's own file, which it cannot while anybody reads an older state.
    other = sqlite3.connect(catalogue_file(catalogue))
    assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    other.close()


def catalogue_file(catalogue: Catalogue) -> str:
    (row,) = catalogue.read_now(lambda c: c.exec_driver_sql("PRAGMA database_list").fetchall())
    return str(row[2])
