"""Hooks: commands, mail addresses and URLs that are told of the end of batches

Revision ID: 0032
Revises: 0031
"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "webhooks",
        sa.Column(
            "is_hook",
            sa.Boolean(),
            nullable=False,
            server_default=sa.text("false"),
            comment="url is a command, mailto: or URL that is told of single batches alone",
        ),
    )


def downgrade() -> None:
    op.execute("DELETE FROM webhooks WHERE is_hook")  # the version before would send to them as to URLs
    op.drop_column("webhooks", "is_hook")
