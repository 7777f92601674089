"""Statements of every request: written as SQLAlchemy Core's, compiled once, run through the driver's cursor.

Running one the usual way takes SQLAlchemy ten times as long as it takes SQLite to answer: the statement
is looked up by its structure, and each value and each row is wrapped anew. So what every request runs is
compiled when it is first run, and from then on its values alone are put in their order. What runs now and
then is run the usual way, in the same transaction.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Delete, Insert, Select, Update

from holdfast.coordinator.limits import SQL_VALUES_MAX

__all__ = ["Prepared"]

_LIST: Final = re.compile(r"__\[POSTCOMPILE_\w+\]")
"""Where the values of an IN list come, as SQLAlchemy writes it."""


class Prepared:
    """One statement; its values are bound by name.

    Values and rows are made of numbers, text, bytes and None alone, which drivers take and give as they are.
    What the driver raises is raised as it is, too: :class:`engine.Catalogue` knows both kinds of errors.

    Args:
        statement: one IN list at most, of an expanding bindparam.
        columns: what an insertion sets; default: every column.
    """

    def __init__(
        self, statement: Select[Any] | Insert | Update | Delete, *, columns: Sequence[str] | None = None
    ) -> None:
        self._statement = statement
        self._columns = list(columns) if columns is not None else None
        self._text = ""
        self._names: tuple[str, ...] = ()
        self._constants: dict[str, Any] = {}
        self._many = ""
        self._texts: dict[int, str] = {}

    def rows(self, connection: Connection, **values: Any) -> list[tuple[Any, ...]]:
        """All rows that it gives."""
        found: list[tuple[Any, ...]] = self._run(connection, values).fetchall()
        return found

    def each(self, connection: Connection, **values: Any) -> Iterator[tuple[Any, ...]]:
        """Row after row, for who may not want them all."""
        cursor = self._run(connection, values)
        try:
            yield from cursor
        finally:
            cursor.close()  # one that is not at its end holds on to the state that it reads

    def row(self, connection: Connection, **values: Any) -> tuple[Any, ...] | None:
        """The only row that it gives; None: none. Of a statement that gives one at most."""
        found = self.rows(connection, **values)
        return found[0] if found else None

    def run(self, connection: Connection, **values: Any) -> None:
        """Run it for what it changes."""
        self._run(connection, values)

    def run_each(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run it once with the values of each of these."""
        if not self._is_compiled(connection):
            connection.execute(self._statement, list(rows))
            return
        constants, names = self._constants, self._names
        values = [[row[name] if name in row else constants[name] for name in names] for row in rows]
        connection.connection.cursor().executemany(self._text, values)

    def _run(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        if not self._is_compiled(connection):
            return connection.execute(self._statement, values)
        text, bound = self._text, []
        for name in self._names:
            if name == self._many:
                listed = _filled(values[name])
                bound.extend(listed)
                text = self._texts.get(len(listed)) or self._listing(len(listed))
            else:
                bound.append(values[name] if name in values else self._constants[name])
        cursor = connection.connection.cursor()
        cursor.execute(text, bound)
        return cursor

    def _is_compiled(self, connection: Connection) -> bool:
        """Compile it, if it is not; False: this database's driver does not take values by their place."""
        if not self._text:
            if connection.dialect.paramstyle != "qmark":
                return False
            made = self._statement.compile(dialect=connection.dialect, column_keys=self._columns)
            self._names = tuple(made.positiontup or ())
            self._constants = {name: bind.value for name, bind in made.binds.items() if not bind.required}
            self._many = next((name for name in self._names if made.binds[name].expanding), "")
            self._text = str(made)
        return True

    def _listing(self, count: int) -> str:
        """Its text with so many values in its IN list."""
        self._texts[count] = _LIST.sub(", ".join("?" * count), self._text)
        return self._texts[count]


def _filled(values: Collection[Any]) -> list[Any]:
    """As many as a power of two, the last one repeated: so a few texts do for lists of every length.

    Raises:
        AssertionError: there are none, or more than an IN list may have; see :func:`engine.batched`.
    """
    filled = list(values)
    assert 0 < len(filled) <= SQL_VALUES_MAX
    wanted = 1 << (len(filled) - 1).bit_length()
    filled.extend(filled[-1:] * (wanted - len(filled)))
    return filled
