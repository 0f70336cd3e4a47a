"""Tenants have a limit of open jobs

Revision ID: 0030
Revises: 0029
"""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "tenants",
        sa.Column(
            "max_queued",
            sa.BigInteger(),
            comment="open jobs that a submit may leave it with; null: any number",
        ),
    )
    op.create_check_constraint(op.f("tenants_max_queued_check"), "tenants", "max_queued >= 0")


def downgrade() -> None:
    op.drop_column("tenants", "max_queued")
