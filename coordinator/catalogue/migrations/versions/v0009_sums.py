"""Sums that are kept as rows come and go, so that nobody has to go through millions of rows to tell them.

The database keeps them by itself, in the transaction that changes the rows: no command can forget them.

- ``chunk_sums``: how many chunks each account has in each group, and how large they are sealed;
- ``gap_sums``: of these, how many lack exactly these slots;
- ``moves.left_chunks``, ``left_bytes``: what a move still has to fill, which is what lies behind its cursor
  and was written before the slot changed hands.

What goes through rows all the same finds what it asks for in an index.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, String

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_ADD_CHUNK = """
INSERT INTO chunk_sums (account, group_id, chunks, sealed_bytes)
VALUES (NEW.account, NEW.group_id, 1, NEW.sealed_bytes)
ON CONFLICT (account, group_id)
DO UPDATE SET chunks = chunks + 1, sealed_bytes = sealed_bytes + excluded.sealed_bytes;
UPDATE moves SET left_chunks = left_chunks + 1, left_bytes = left_bytes + NEW.sealed_bytes
WHERE group_id = NEW.group_id AND NEW.group_version < version
AND (NEW.account, NEW.id) > (cursor_account, cursor_chunk);
"""
_TAKE_CHUNK = """
UPDATE chunk_sums SET chunks = chunks - 1, sealed_bytes = sealed_bytes - OLD.sealed_bytes
WHERE account = OLD.account AND group_id = OLD.group_id;
DELETE FROM chunk_sums WHERE account = OLD.account AND group_id = OLD.group_id AND chunks = 0;
UPDATE moves SET left_chunks = left_chunks - 1, left_bytes = left_bytes - OLD.sealed_bytes
WHERE group_id = OLD.group_id AND OLD.group_version < version
AND (OLD.account, OLD.id) > (cursor_account, cursor_chunk);
"""

# What lies in one slot more, and in one less. A chunk's rows are few, and in the order of their slots.
_SIZE = "(SELECT sealed_bytes FROM chunks WHERE account = {row}.account AND id = {row}.chunk)"
_ALL_SLOTS = (
    "(SELECT group_concat(slot, ',') FROM (SELECT slot FROM missing "
    "WHERE account = {row}.account AND chunk = {row}.chunk ORDER BY slot))"
)
_OTHER_SLOTS = (
    "(SELECT group_concat(slot, ',') FROM (SELECT slot FROM missing "
    "WHERE account = {row}.account AND chunk = {row}.chunk AND slot <> {row}.slot ORDER BY slot))"
)
_CHANGE_GAP = """
UPDATE gap_sums SET chunks = chunks - 1, sealed_bytes = sealed_bytes - {size}
WHERE account = {row}.account AND group_id = {row}.group_id AND slots = {before};
DELETE FROM gap_sums
WHERE account = {row}.account AND group_id = {row}.group_id AND slots = {before} AND chunks = 0;
INSERT INTO gap_sums (account, group_id, slots, chunks, sealed_bytes)
SELECT {row}.account, {row}.group_id, {after}, 1, {size} WHERE {after} IS NOT NULL
ON CONFLICT (account, group_id, slots)
DO UPDATE SET chunks = chunks + 1, sealed_bytes = sealed_bytes + excluded.sealed_bytes;
"""


def _gap(row: str, before: str, after: str) -> str:
    """One chunk lacks other slots than before; by the row of ``missing`` that comes or goes."""
    return _CHANGE_GAP.format(
        row=row, size=_SIZE.format(row=row), before=before.format(row=row), after=after.format(row=row)
    )


TRIGGERS = {
    "chunk_added": f"AFTER INSERT ON chunks BEGIN {_ADD_CHUNK} END",
    # What is missing of it goes first, while its size can still be looked up.
    "chunk_goes": """BEFORE DELETE ON chunks BEGIN
        DELETE FROM missing WHERE account = OLD.account AND chunk = OLD.id;
        END""",
    "chunk_gone": f"AFTER DELETE ON chunks BEGIN {_TAKE_CHUNK} END",
    "chunk_moved": f"""AFTER UPDATE OF account, id, group_id, group_version, sealed_bytes ON chunks BEGIN
        {_TAKE_CHUNK} {_ADD_CHUNK} END""",
    "missing_added": f"AFTER INSERT ON missing BEGIN {_gap('NEW', _OTHER_SLOTS, _ALL_SLOTS)} END",
    "missing_goes": f"BEFORE DELETE ON missing BEGIN {_gap('OLD', _ALL_SLOTS, _OTHER_SLOTS)} END",
}


def upgrade() -> None:
    """Make the tables, count what there is, and have it kept from then on."""
    for name, table, columns in (
        ("chunks_group", "chunks", ["group_id", "account", "id", "group_version", "sealed_bytes"]),
        ("missing_group", "missing", ["group_id", "slot"]),
    ):
        op.drop_index(name, table)
        op.create_index(name, table, columns)
    # No command leaves such rows; sums would count them for ever.
    op.execute(
        "DELETE FROM missing WHERE NOT EXISTS "
        "(SELECT 1 FROM chunks WHERE chunks.account = missing.account AND chunks.id = missing.chunk)"
    )
    op.create_table(
        "chunk_sums",
        Column("account", Integer, primary_key=True, autoincrement=False),
        Column("group_id", Integer, primary_key=True, autoincrement=False),
        Column("chunks", BigInteger, nullable=False),
        Column("sealed_bytes", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "gap_sums",
        Column("account", Integer, primary_key=True, autoincrement=False),
        Column("group_id", Integer, primary_key=True, autoincrement=False),
        Column("slots", String(1024), primary_key=True),
        Column("chunks", BigInteger, nullable=False),
        Column("sealed_bytes", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.add_column("moves", Column("left_chunks", BigInteger, nullable=False, server_default="0"))
    op.add_column("moves", Column("left_bytes", BigInteger, nullable=False, server_default="0"))
    op.execute(
        "INSERT INTO chunk_sums SELECT account, group_id, count(*), sum(sealed_bytes) "
        "FROM chunks GROUP BY account, group_id"
    )
    op.execute(
        "INSERT INTO gap_sums SELECT kinds.account, kinds.group_id, kinds.slots, count(*), "
        "sum(chunks.sealed_bytes) FROM (SELECT account, chunk, group_id, group_concat(slot, ',') AS slots "
        "FROM (SELECT * FROM missing ORDER BY account, chunk, slot) GROUP BY account, chunk) AS kinds "
        "JOIN chunks ON chunks.account = kinds.account AND chunks.id = kinds.chunk "
        "GROUP BY kinds.account, kinds.group_id, kinds.slots"
    )
    op.execute(
        "UPDATE moves SET (left_chunks, left_bytes) = (SELECT count(*), coalesce(sum(sealed_bytes), 0) "
        "FROM chunks WHERE chunks.group_id = moves.group_id AND chunks.group_version < moves.version "
        "AND (chunks.account, chunks.id) > (moves.cursor_account, moves.cursor_chunk))"
    )
    for name, what in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {what}")
