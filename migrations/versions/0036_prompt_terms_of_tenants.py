"""Tenants have terms of their own that their prompts must not hold

Revision ID: 0036
Revises: 0035
"""

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "tenants",
        sa.Column(
            "prompt_terms",
            sa.Text(),
            comment="that its prompts must not hold, one a line; null: none of its own",
        ),
    )


def downgrade() -> None:
    op.drop_column("tenants", "prompt_terms")
