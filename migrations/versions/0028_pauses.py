"""Batches keep who has paused them, how, and why

Revision ID: 0028
Revises: 0027
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "batches",
        sa.Column(
            "pauses",
            JSONB(),
            nullable=False,
            server_default=sa.text("'{}'"),
            comment="by what it is paused (name, all, tenant:NAME): who, at, reason",
        ),
    )


def downgrade() -> None:
    op.drop_column("batches", "pauses")
