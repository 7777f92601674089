"""Shards that lie on nodes and that no row explains, until it is known what becomes of them."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Integer, LargeBinary

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "strays",
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
        sqlite_with_rowid=False,
    )
    op.create_index("strays_node", "strays", ["node"])
    op.create_index("strays_group", "strays", ["group_id"])
