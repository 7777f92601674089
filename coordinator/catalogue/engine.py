"""Opening the catalogue, and running commands on it: one transaction each, retried whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from holdfast.coordinator.limits import (
    BUSY_TIMEOUT_MS,
    READ_CONNECTIONS,
    SQL_VALUES_MAX,
    TRANSACTION_TRIES_MAX,
    WAL_PAGES,
)
from holdfast.protocol.errors import BadRequest, HoldfastError, NoRoom, WrongDirectory
from holdfast.protocol.optional_imports import passed_over
from holdfast.protocol.threads import Threads

__all__ = ["Catalogue", "batched", "sqlite_url"]

T = TypeVar("T")
E = TypeVar("E")
Command = Callable[[Connection], T]

SCHEMA_VERSION: Final = "0009"
_RETRIED_SQLSTATES: Final = {"40001", "40P01"}


def batched(values: Sequence[E], size: int = SQL_VALUES_MAX) -> Iterator[list[E]]:
    """Portions for IN lists."""
    iterator = iter(values)
    while portion := list(islice(iterator, size)):
        yield portion


def _prepare_sqlite(engine: Engine, begin: str) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not guessed by the driver
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.connection.cursor().execute(begin)


def sqlite_url(path: Path) -> URL:
    """The URL of a catalogue in an SQLite file, whatever characters its path has."""
    return URL.create("sqlite", database=str(path))


class _Connections:
    """Connections that stay open, each at one thread's disposal at a time.

    Taking one from SQLAlchemy's pool and giving it back costs more than beginning and ending a transaction.
    """

    def __init__(self, engine: Engine, count: int) -> None:
        self._engine = engine
        self._count = count
        self._resting: SimpleQueue[Connection | None] = SimpleQueue()
        for _ in range(count):
            self._resting.put(None)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: committed at the end, undone by whatever is raised. Waits for a connection."""
        connection = self._resting.get()
        try:
            if connection is None:
                connection = self._engine.connect()
            with connection.begin():
                yield connection
        except HoldfastError:
            raise
        except BaseException:
            # Whatever happened to it, the next transaction begins on one that was seen to.
            left, connection = connection, None
            if left is not None:
                left.close()
            raise
        finally:
            self._resting.put(connection)

    def close(self) -> None:
        """Wait until nobody uses them, and close them."""
        for _ in range(self._count):
            connection = self._resting.get()
            if connection is not None:
                connection.close()
        for _ in range(self._count):
            self._resting.put(None)
        self._engine.dispose()


class Catalogue:
    """The coordinator's durable state.

    Args:
        url: an SQLAlchemy URL, e.g. ``sqlite:////var/lib/holdfast/catalogue.sqlite``.

    Raises:
        WrongDirectory: the catalogue was made by a newer program, or is none at all.
        HoldfastError: its database cannot be opened.
    """

    def __init__(self, url: str | URL) -> None:
        writing = create_engine(url, poolclass=QueuePool, pool_size=1, max_overflow=0)
        reading = create_engine(url, poolclass=QueuePool, pool_size=READ_CONNECTIONS, max_overflow=0)
        if writing.dialect.name == "sqlite":
            _prepare_sqlite(writing, "BEGIN IMMEDIATE")
            _prepare_sqlite(reading, "BEGIN")
        else:
            writing = writing.execution_options(isolation_level="SERIALIZABLE")
        # What prepared statements meet comes from the driver as it is.
        self._errors = (DBAPIError, writing.dialect.loaded_dbapi.Error)
        self._writing = _Connections(writing, 1)
        self._reading = _Connections(reading, READ_CONNECTIONS)
        self._writer = Threads(1, "catalogue-write")
        self._readers = Threads(READ_CONNECTIONS, "catalogue-read")
        try:
            self._migrate()
        except self._errors as error:
            self.close()
            raise _unusable(error) from error
        except HoldfastError:
            self.close()
            raise

    def _migrate(self) -> None:
        with self._writing.transaction() as connection:
            found = None
            if inspect(connection).has_table("alembic_version"):
                found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        if found == SCHEMA_VERSION:
            return
        if found is not None and found > SCHEMA_VERSION:
            raise WrongDirectory(
                f"the catalogue is of version {found}, and this program knows {SCHEMA_VERSION}",
                do="Run the newer program that made it.",
            )
        with passed_over("pygments"):  # what alembic makes templates with would colour them
            from alembic import command
            from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", "holdfast.coordinator.catalogue:migrations")
        config.set_main_option("path_separator", "os")
        with self._writing.transaction() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, SCHEMA_VERSION)

    def write_now(self, command: Command[T]) -> T:
        """Run a command in one serializable transaction, in this thread.

        Raises:
            HoldfastError: what the command refuses (and then nothing of it counts).
            BadRequest: a number is larger than the database keeps.
            NoRoom: the database's disk is full.
        """
        for attempt in range(1, TRANSACTION_TRIES_MAX + 1):
            try:
                with self._writing.transaction() as connection:
                    return command(connection)
            except self._errors as error:
                if attempt == TRANSACTION_TRIES_MAX or not _retried(error):
                    raise _failed(error) from error
            except OverflowError as error:
                raise _too_large(error) from error
        raise AssertionError("the loop returns or raises")

    def read_now(self, command: Command[T]) -> T:
        """Run a reading command on one consistent view, in this thread.

        Raises:
            HoldfastError: what the command refuses, or the database failed.
        """
        try:
            with self._reading.transaction() as connection:
                return command(connection)
        except self._errors as error:
            raise _failed(error) from error
        except OverflowError as error:
            raise _too_large(error) from error

    async def write(self, command: Command[T]) -> T:
        """:meth:`write_now` in the writer thread."""
        return await self._writer.run(self.write_now, command)

    async def read(self, command: Command[T]) -> T:
        """:meth:`read_now` in a reader thread."""
        return await self._readers.run(self.read_now, command)

    def close(self) -> None:
        """Finish what runs, then close all connections."""
        self._writer.end()
        self._readers.end()
        self._writing.close()
        self._reading.close()


def _too_large(error: OverflowError) -> BadRequest:
    """Messages carry integers of up to 64 bits without a sign, and the database keeps 63: a peer that sends
    a larger one is refused like any other that sends nonsense, and ends no background task.
    """
    return BadRequest("a number is larger than the catalogue can keep", why=str(error))


def _driver_s(error: BaseException) -> BaseException:
    """What the database's driver said, whether SQLAlchemy came between or not."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def _retried(error: BaseException) -> bool:
    told = _driver_s(error)
    state = getattr(told, "sqlstate", None) or getattr(told, "pgcode", None)
    busy = isinstance(told, sqlite3.OperationalError) and "locked" in str(told)
    return busy or state in _RETRIED_SQLSTATES


def _failed(error: BaseException) -> HoldfastError:
    why = str(_driver_s(error))
    if "disk is full" in why:
        return NoRoom("the coordinator's disk is full", do="Free some room; reads go on.")
    return HoldfastError(
        "the catalogue's database failed",
        why=why,
        do="See the coordinator's log and its disk; what was acknowledged before is kept.",
    )


def _unusable(error: BaseException) -> HoldfastError:
    """Why a catalogue cannot be opened."""
    reason = str(_driver_s(error))
    if "not a database" in reason or "malformed" in reason:
        return WrongDirectory(
            "the coordinator's catalogue is damaged, or is none",
            why=reason,
            do="Put a copy of the coordinator's folder back, or check its disk; do not delete the catalogue.",
        )
    return _failed(error)
