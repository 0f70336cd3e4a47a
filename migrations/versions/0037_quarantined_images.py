"""Images that were flagged may be kept in quarantine

Revision ID: 0037
Revises: 0036
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "quarantined_images",
        sa.Column("job_id", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column(
            "batch_id",
            sa.BigInteger(),
            sa.ForeignKey("batches.id", ondelete="CASCADE", name=op.f("quarantined_images_batch_id_fkey")),
            nullable=False,
        ),
        sa.Column("key", sa.Text(), nullable=False, comment="the file within the output"),
        sa.Column("blocked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "image", JSONB(), nullable=False, comment="columns of the image row that it gets when it is freed"
        ),
    )
    op.create_index("quarantined_images_batch_id_idx", "quarantined_images", ["batch_id"])


def downgrade() -> None:
    op.drop_table("quarantined_images")
