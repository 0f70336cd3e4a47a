"""Sealed shards of exports have time stamps

Revision ID: 0038
Revises: 0037
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "exports",
        sa.Column(
            "timestamps_missing",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="sealed shards that were to have a time stamp when it was finished, and had none",
        ),
    )
    op.add_column(
        "export_shards",
        sa.Column(
            "timestamp",
            JSONB(),
            comment="RFC 3161, of the digests and names of `files`; `sha256` says of which",
        ),
    )


def downgrade() -> None:
    op.drop_column("export_shards", "timestamp")
    op.drop_column("exports", "timestamps_missing")
