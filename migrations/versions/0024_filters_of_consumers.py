"""Consumers of the feed keep what they read by

Revision ID: 0024
Revises: 0023
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "consumers",
        sa.Column("filter", sa.Text(), comment="kinds, batch and condition, which stay; null: none read yet"),
    )


def downgrade() -> None:
    op.drop_column("consumers", "filter")
