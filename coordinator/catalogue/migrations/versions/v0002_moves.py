"""Moving slots between nodes, shards to erase on nodes, and deletion orders' numbers."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary, String

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "moves",
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
        sqlite_autoincrement=True,
    )
    op.create_index("moves_slot", "moves", ["group_id", "slot"], unique=True)
    op.create_table(
        "erasures",
        Column("number", Integer, primary_key=True, autoincrement=True),
        Column("node", LargeBinary(16), ForeignKey("nodes.id"), nullable=False),
        Column("group_id", Integer, nullable=False),
        Column("slot", Integer, nullable=False),
        Column("account", LargeBinary(32), nullable=False),
        Column("chunk", LargeBinary(32), nullable=False),
        Column("generation", LargeBinary(16), nullable=False),
        Column("hold_s", Integer, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("erasures_node", "erasures", ["node", "number"])
