"""Which images count to their batch's target

Revision ID: 0023
Revises: 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "image_acceptance",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), primary_key=True),
        sa.Column(
            "image_id",
            sa.BigInteger(),
            sa.ForeignKey("images.id", ondelete="CASCADE", name=op.f("image_acceptance_image_id_fkey")),
            nullable=False,
        ),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("is_accepted", sa.Boolean(), nullable=False),
        sa.Column(
            "duplicate_of", sa.BigInteger(), comment="the accepted image that it is a near-duplicate of"
        ),
        sa.Column("judged_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.UniqueConstraint("image_id", name=op.f("image_acceptance_image_id_key")),
        sa.UniqueConstraint("job_id", name=op.f("image_acceptance_job_id_key")),
    )
    for name, condition in (("accepted", "is_accepted"), ("rejected", "NOT is_accepted")):
        op.create_index(
            f"image_acceptance_{name}_idx",
            "image_acceptance",
            ["batch_id", "id"],
            postgresql_where=sa.text(condition),
        )


def downgrade() -> None:
    op.drop_table("image_acceptance")
