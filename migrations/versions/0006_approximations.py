"""Approximations for batches that ask for them: weights in fewer bits, small decoders

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_WEIGHTS = "how the model's weights are held; null: as the worker's settings say"


def upgrade() -> None:
    op.add_column("batches", sa.Column("weights", sa.Text(), nullable=True, comment=_WEIGHTS))
    op.create_check_constraint(
        op.f("batches_weights_check"), "batches", "weights IN ('full', 'fp8', 'int8', 'int4')"
    )
    op.add_column(
        "batches",
        sa.Column(
            "decoder", sa.Text(), server_default=sa.text("'full'"), nullable=False, comment="full or tiny"
        ),
    )
    op.create_check_constraint(op.f("batches_decoder_check"), "batches", "decoder IN ('full', 'tiny')")


def downgrade() -> None:
    op.drop_constraint(op.f("batches_decoder_check"), "batches")
    op.drop_column("batches", "decoder")
    op.drop_constraint(op.f("batches_weights_check"), "batches")
    op.drop_column("batches", "weights")
