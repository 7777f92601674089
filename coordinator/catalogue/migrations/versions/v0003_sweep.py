"""Sweeping: leases and their marks, since when a chunk lies in the trash, which head left a snapshot out."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary, String, text

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "sweeps",
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
    op.create_table(
        "sweep_marks",
        Column("account", Integer, ForeignKey("accounts.number"), primary_key=True),
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("chunk", LargeBinary(32), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.add_column("chunks", Column("trashed_ms", BigInteger))
    trashed = text("trashed_ms IS NOT NULL")
    op.create_index("chunks_trash", "chunks", ["trashed_ms"], sqlite_where=trashed)
    op.add_column("snapshot_records", Column("left_seq", Integer))
