"""Comparing inventories, and deletion orders: which erasures stand in which, each node's last number."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, LargeBinary

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.add_column("erasures", Column("order_number", BigInteger))
    op.create_index("erasures_chunk", "erasures", ["chunk"])
    op.create_table(
        "deletion_orders",
        Column("node", LargeBinary(16), ForeignKey("nodes.id"), primary_key=True),
        Column("number", BigInteger, nullable=False),
    )
