"""Images of the same inputs are found by a digest, and rows tell which image they were copied from

Revision ID: 0025
Revises: 0024
"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "images",
        sa.Column(
            "inputs_sha256",
            sa.Text(),
            comment="of everything that decides the image; null: by a version without",
        ),
    )
    op.add_column(
        "images",
        sa.Column(
            "reused_from",
            sa.BigInteger(),
            comment="image row for which the file was rendered; it may be gone",
        ),
    )
    # The table is read once for it, and holds no value yet.
    op.create_index("images_inputs_idx", "images", ["inputs_sha256"], postgresql_using="hash")
    op.create_index(
        "images_reused_idx", "images", ["reused_from"], postgresql_where=sa.text("reused_from IS NOT NULL")
    )


def downgrade() -> None:
    op.drop_index("images_reused_idx", "images")
    op.drop_index("images_inputs_idx", "images")
    op.drop_column("images", "reused_from")
    op.drop_column("images", "inputs_sha256")
