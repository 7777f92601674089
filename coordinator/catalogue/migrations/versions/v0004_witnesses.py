"""Witnesses of heads."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "pending_heads",
        Column("account", Integer, ForeignKey("accounts.number"), primary_key=True),
        Column("seq", Integer, nullable=False),
        Column("signed", LargeBinary, nullable=False),
        Column("digest", LargeBinary(32), nullable=False),
        Column("snapshot_list", LargeBinary, nullable=False),
        Column("records", LargeBinary, nullable=False),
        Column("device_list", LargeBinary, nullable=False),
        Column("posted_ms", BigInteger, nullable=False),
    )
