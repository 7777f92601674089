"""The first catalogue."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary, String

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "meta",
        Column("name", String(64), primary_key=True),
        Column("number", BigInteger, nullable=False),
    )
    op.create_table(
        "nodes",
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
    op.create_table(
        "groups",
        Column("id", Integer, primary_key=True),
        Column("version", Integer, nullable=False),
        Column("k", Integer, nullable=False),
        Column("m", Integer, nullable=False),
        Column("kind", String(16), nullable=False),
    )
    op.create_table(
        "group_slots",
        Column("group_id", Integer, ForeignKey("groups.id"), primary_key=True),
        Column("slot", Integer, primary_key=True),
        Column("node", LargeBinary(16), ForeignKey("nodes.id"), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tokens",
        Column("digest", LargeBinary(32), primary_key=True),
        Column("kind", String(16), nullable=False),
        Column("expires_ms", BigInteger, nullable=False),
        Column("quota_bytes", BigInteger, nullable=False),
        Column("used_by", LargeBinary(32)),
    )
    op.create_table(
        "accounts",
        Column("number", Integer, primary_key=True),
        Column("id", LargeBinary(32), nullable=False, unique=True),
        Column("device_list", LargeBinary, nullable=False),
        Column("device_list_seq", Integer, nullable=False),
        Column("quota_bytes", BigInteger, nullable=False),
        Column("used_bytes", BigInteger, nullable=False),
        Column("sweep_generation", Integer, nullable=False),
        Column("head_seq", Integer, nullable=False),
    )
    op.create_table(
        "uploads",
        Column("id", LargeBinary(16), primary_key=True),
        Column("account", Integer, ForeignKey("accounts.number"), nullable=False),
        Column("device", LargeBinary(16), nullable=False),
        Column("state", String(16), nullable=False),
        Column("opened_ms", BigInteger, nullable=False),
        Column("renewed_ms", BigInteger, nullable=False),
        Column("reserved_bytes", BigInteger, nullable=False),
        Column("sweep_generation", Integer, nullable=False),
        Column("head_seq", Integer, nullable=False),
    )
    op.create_index("uploads_open", "uploads", ["state", "renewed_ms"])
    op.create_table(
        "chunks",
        Column("account", Integer, ForeignKey("accounts.number"), primary_key=True),
        Column("id", LargeBinary(32), primary_key=True),
        Column("generation", LargeBinary(16), nullable=False),
        Column("group_id", Integer, ForeignKey("groups.id"), nullable=False),
        Column("group_version", Integer, nullable=False),
        Column("sealed_bytes", Integer, nullable=False),
        Column("stripe", LargeBinary(32), nullable=False),
        Column("pin", Integer, nullable=False),
        Column("state", String(8), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("chunks_group", "chunks", ["group_id"])
    op.create_table(
        "missing",
        Column("number", Integer, primary_key=True, autoincrement=True),
        Column("account", Integer, nullable=False),
        Column("chunk", LargeBinary(32), nullable=False),
        Column("group_id", Integer, nullable=False),
        Column("slot", Integer, nullable=False),
        Column("why", String(16), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("missing_slot", "missing", ["account", "chunk", "slot"], unique=True)
    op.create_index("missing_group", "missing", ["group_id"])
    op.create_table(
        "heads",
        Column("account", Integer, ForeignKey("accounts.number"), primary_key=True),
        Column("seq", Integer, primary_key=True),
        Column("signed", LargeBinary, nullable=False),
        Column("digest", LargeBinary(32), nullable=False),
        Column("snapshot_list", LargeBinary, nullable=False),
        Column("device_list_seq", Integer, nullable=False),
        Column("posted_ms", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "snapshot_records",
        Column("account", Integer, ForeignKey("accounts.number"), primary_key=True),
        Column("id", LargeBinary(32), primary_key=True),
        Column("sealed", LargeBinary, nullable=False),
    )
