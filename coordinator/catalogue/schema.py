"""The tables as they are now. How they came to be is in migrations/; a test holds both together.

Rows per chunk are few and small: accounts have a short number for joins, a
stripe's digests are kept as one digest, only missing slots have rows. How many there are is
kept in sums by the database itself (migrations/versions/v0009_sums.py): nobody goes through
millions of rows to say how things stand.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    text,
)

__all__ = [
    "accounts",
    "chunk_sums",
    "chunks",
    "deletion_orders",
    "erasures",
    "false_answers",
    "gap_sums",
    "group_slots",
    "groups",
    "heads",
    "meta",
    "metadata",
    "missing",
    "moves",
    "nodes",
    "pending_heads",
    "snapshot_records",
    "strays",
    "sweep_marks",
    "sweeps",
    "tokens",
    "uploads",
]

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("number", BigInteger, nullable=False),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),
    Column("public_key", LargeBinary(32), nullable=False),
    Column("url", String(2048), nullable=False),
    Column("zone", String(256), nullable=False),
    Column("capacity_bytes", BigInteger, nullable=False),
    Column("store", LargeBinary(16), nullable=False),
    Column("store_counter", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("joined_ms", BigInteger, nullable=False),
)

groups = Table(
    "groups",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("k", Integer, nullable=False),
    Column("m", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
)

group_slots = Table(
    "group_slots",
    metadata,
    Column("group_id", Integer, ForeignKey("groups.id"), primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("node", LargeBinary(16), ForeignKey("nodes.id"), nullable=False),
    sqlite_with_rowid=False,
)

tokens = Table(
    "tokens",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("quota_bytes", BigInteger, nullable=False),
    Column("used_by", LargeBinary(32)),
)

accounts = Table(
    "accounts",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("id", LargeBinary(32), nullable=False, unique=True),
    Column("device_list", LargeBinary, nullable=False),
    Column("device_list_seq", Integer, nullable=False),
    Column("quota_bytes", BigInteger, nullable=False),
    Column("used_bytes", BigInteger, nullable=False),
    Column("sweep_generation", Integer, nullable=False),
    Column("head_seq", Integer, nullable=False),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),
    Column("account", Integer, ForeignKey("accounts.number"), nullable=False),
    Column("device", LargeBinary(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("opened_ms", BigInteger, nullable=False),
    Column("renewed_ms", BigInteger, nullable=False),
    Column("reserved_bytes", BigInteger, nullable=False),
    Column("sweep_generation", Integer, nullable=False),
    Column("head_seq", Integer, nullable=False),
    Index("uploads_open", "state", "renewed_ms"),
)

chunks = Table(
    "chunks",
    metadata,
    Column("account", Integer, ForeignKey("accounts.number"), primary_key=True),
    Column("id", LargeBinary(32), primary_key=True),
    Column("generation", LargeBinary(16), nullable=False),
    Column("group_id", Integer, ForeignKey("groups.id"), nullable=False),
    Column("group_version", Integer, nullable=False),
    Column("sealed_bytes", Integer, nullable=False),
    Column("stripe", LargeBinary(32), nullable=False),
    Column("pin", Integer, nullable=False),
    Column("state", String(8), nullable=False),
    Column("trashed_ms", BigInteger),
    # In the order in which slots are filled; with what tells which chunks need filling, and what that costs.
    Index("chunks_group", "group_id", "account", "id", "group_version", "sealed_bytes"),
    # For no other database, which then has all rows in it: to name one loads what speaks to it, 3 MiB.
    Index("chunks_trash", "trashed_ms", sqlite_where=text("trashed_ms IS NOT NULL")),
    sqlite_with_rowid=False,
)

chunk_sums = Table(
    "chunk_sums",
    metadata,
    Column("account", Integer, primary_key=True, autoincrement=False),
    Column("group_id", Integer, primary_key=True, autoincrement=False),
    Column("chunks", BigInteger, nullable=False),
    Column("sealed_bytes", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

missing = Table(
    "missing",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("account", Integer, nullable=False),
    Column("chunk", LargeBinary(32), nullable=False),
    Column("group_id", Integer, nullable=False),
    Column("slot", Integer, nullable=False),
    Column("why", String(16), nullable=False),
    Index("missing_slot", "account", "chunk", "slot", unique=True),
    Index("missing_group", "group_id", "slot"),
    sqlite_autoincrement=True,
)

gap_sums = Table(
    "gap_sums",
    metadata,
    Column("account", Integer, primary_key=True, autoincrement=False),
    Column("group_id", Integer, primary_key=True, autoincrement=False),
    Column("slots", String(1024), primary_key=True),
    Column("chunks", BigInteger, nullable=False),
    Column("sealed_bytes", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

moves = Table(
    "moves",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("group_id", Integer, ForeignKey("groups.id"), nullable=False),
    Column("slot", Integer, nullable=False),
    Column("old", LargeBinary(16)),
    Column("version", Integer, nullable=False),
    Column("why", String(16), nullable=False),
    Column("cursor_account", Integer, nullable=False),
    Column("cursor_chunk", LargeBinary(32), nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("filled_chunks", BigInteger, nullable=False),
    Column("filled_bytes", BigInteger, nullable=False),
    Column("left_chunks", BigInteger, nullable=False, server_default="0"),
    Column("left_bytes", BigInteger, nullable=False, server_default="0"),
    Index("moves_slot", "group_id", "slot", unique=True),
    sqlite_autoincrement=True,
)

erasures = Table(
    "erasures",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("node", LargeBinary(16), ForeignKey("nodes.id"), nullable=False),
    Column("group_id", Integer, nullable=False),
    Column("slot", Integer, nullable=False),
    Column("account", LargeBinary(32), nullable=False),
    Column("chunk", LargeBinary(32), nullable=False),
    Column("generation", LargeBinary(16), nullable=False),
    Column("hold_s", Integer, nullable=False),
    Column("order_number", BigInteger),
    Index("erasures_node", "node", "number"),
    Index("erasures_chunk", "chunk"),
    sqlite_autoincrement=True,
)

deletion_orders = Table(
    "deletion_orders",
    metadata,
    Column("node", LargeBinary(16), ForeignKey("nodes.id"), primary_key=True),
    Column("number", BigInteger, nullable=False),
)

strays = Table(
    "strays",
    metadata,
    Column("account", LargeBinary(32), primary_key=True),
    Column("chunk", LargeBinary(32), primary_key=True),
    Column("generation", LargeBinary(16), primary_key=True),
    Column("group_id", Integer, primary_key=True, autoincrement=False),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("node", LargeBinary(16), primary_key=True),
    Column("k", Integer, nullable=False),
    Column("m", Integer, nullable=False),
    Column("sealed_bytes", Integer, nullable=False),
    Column("stripe", LargeBinary(32), nullable=False),
    Index("strays_node", "node"),
    Index("strays_group", "group_id"),
    sqlite_with_rowid=False,
)

false_answers = Table(
    "false_answers",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("node", LargeBinary(16), ForeignKey("nodes.id"), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("group_id", Integer, nullable=False),
    Column("slot", Integer, nullable=False),
    Column("account", LargeBinary(32), nullable=False),
    Column("chunk", LargeBinary(32), nullable=False),
    Column("generation", LargeBinary(16), nullable=False),
    sqlite_autoincrement=True,
)

heads = Table(
    "heads",
    metadata,
    Column("account", Integer, ForeignKey("accounts.number"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("signed", LargeBinary, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("snapshot_list", LargeBinary, nullable=False),
    Column("device_list_seq", Integer, nullable=False),
    Column("posted_ms", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

pending_heads = Table(
    "pending_heads",
    metadata,
    Column("account", Integer, ForeignKey("accounts.number"), primary_key=True),
    Column("seq", Integer, nullable=False),
    Column("signed", LargeBinary, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("snapshot_list", LargeBinary, nullable=False),
    Column("records", LargeBinary, nullable=False),
    Column("device_list", LargeBinary, nullable=False),
    Column("posted_ms", BigInteger, nullable=False),
)

snapshot_records = Table(
    "snapshot_records",
    metadata,
    Column("account", Integer, ForeignKey("accounts.number"), primary_key=True),
    Column("id", LargeBinary(32), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("left_seq", Integer),
)

sweeps = Table(
    "sweeps",
    metadata,
    Column("account", Integer, ForeignKey("accounts.number"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("device", LargeBinary(16), nullable=False),
    Column("state", String(8), nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("head_seq", Integer, nullable=False),
    Column("head_digest", LargeBinary(32), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("marks", BigInteger, nullable=False),
    Column("marks_max", BigInteger, nullable=False),
    Column("live", LargeBinary, nullable=False),
    Column("trashed_chunks", BigInteger, nullable=False),
    Column("trashed_bytes", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

sweep_marks = Table(
    "sweep_marks",
    metadata,
    Column("account", Integer, ForeignKey("accounts.number"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("chunk", LargeBinary(32), primary_key=True),
    sqlite_with_rowid=False,
)
