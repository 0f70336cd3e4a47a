"""Image rows have perceptual hashes

Revision ID: 0018
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "images",
        sa.Column("phash", sa.Text(), comment="64 bits as hex; null: withheld, or by a version without"),
    )


def downgrade() -> None:
    op.drop_column("images", "phash")
