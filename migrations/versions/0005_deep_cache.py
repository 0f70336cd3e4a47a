"""UNet calls that are not whole, for batches that ask for it

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_COMMENT = "of so many UNet calls, one is whole"


def upgrade() -> None:
    op.add_column(
        "batches",
        sa.Column(
            "deep_cache", sa.SmallInteger(), server_default=sa.text("1"), nullable=False, comment=_COMMENT
        ),
    )
    op.create_check_constraint(op.f("batches_deep_cache_check"), "batches", "deep_cache BETWEEN 1 AND 10")


def downgrade() -> None:
    op.drop_constraint(op.f("batches_deep_cache_check"), "batches")
    op.drop_column("batches", "deep_cache")
