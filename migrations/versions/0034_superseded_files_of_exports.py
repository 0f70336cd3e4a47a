"""A file that an export has replaced, or that a slow writer may put there late, may have several digests

Revision ID: 0034
Revises: 0033
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "exports",
        sa.Column(
            "superseded",
            JSONB(),
            nullable=False,
            server_default=sa.text("'[]'"),
            comment="further files like those in `replaced`, of which there is one a name",
        ),
    )


def downgrade() -> None:
    op.drop_column("exports", "superseded")
