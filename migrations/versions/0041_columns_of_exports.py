"""Exports keep the columns that they were begun with

Revision ID: 0041
Revises: 0040
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    names = "names of those of its files; null: not noted yet, or its format has a table, which takes more"
    op.add_column("exports", sa.Column("columns", JSONB(), comment=names))
    version = (
        "the version that has the columns of the export; another one was written by a nightmill without these"
    )
    op.add_column(
        "export_shards",
        sa.Column(
            "columns_version", sa.Integer(), nullable=False, server_default=sa.text("0"), comment=version
        ),
    )


def downgrade() -> None:
    op.drop_column("export_shards", "columns_version")
    op.drop_column("exports", "columns")
