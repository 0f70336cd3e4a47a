"""What a batch's derived seeds depend on; batches that are there have seeds by row

Revision ID: 0021
Revises: 0020
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "batches",
        sa.Column(
            "seed_from",
            sa.Text(),
            nullable=False,
            server_default=sa.text("'row'"),
            comment="what the rows' derived seeds depend on, beside the batch seed",
        ),
    )
    op.create_check_constraint(op.f("batches_seed_from_check"), "batches", "seed_from IN ('id', 'row')")


def downgrade() -> None:
    op.drop_constraint(op.f("batches_seed_from_check"), "batches")
    op.drop_column("batches", "seed_from")
