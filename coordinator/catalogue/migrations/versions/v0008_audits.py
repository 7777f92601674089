"""Audits: the false answers that nodes gave."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary

revision = "0008"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "false_answers",
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
