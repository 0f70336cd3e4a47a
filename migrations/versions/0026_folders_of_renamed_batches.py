"""Batches that were renamed keep the folder of their files

Revision ID: 0026
Revises: 0025
"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "batches", sa.Column("folder", sa.Text(), comment="of its files, if it was renamed; null: its name")
    )
    op.create_index("batches_folder_idx", "batches", [sa.text("coalesce(folder, name)")], unique=True)


def downgrade() -> None:
    op.drop_index("batches_folder_idx", "batches")
    op.drop_column("batches", "folder")
