"""When a worker last stored an image

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("stored_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.drop_column("workers", "stored_at")
