"""Images tell how strong their mark is

Revision ID: 0039
Revises: 0038
"""

import sqlalchemy as sa
from alembic import op

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None

_CHECK = "images_watermark_strength_check"


def upgrade() -> None:
    comment = "strong or weak; null: no tiled mark, or by a version without"
    op.add_column("images", sa.Column("watermark_strength", sa.Text(), comment=comment))
    op.create_check_constraint(
        op.f(_CHECK), "images", "watermark_strength IN ('strong', 'weak')", postgresql_not_valid=True
    )


def downgrade() -> None:
    op.drop_constraint(op.f(_CHECK), "images")
    op.drop_column("images", "watermark_strength")
