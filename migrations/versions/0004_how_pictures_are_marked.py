"""How a picture's invisible mark was embedded

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COMMENT = "null: none embedded, or by a version that knew dwtDctSvd alone"


def upgrade() -> None:
    op.add_column("images", sa.Column("watermark_method", sa.Text(), nullable=True, comment=_COMMENT))
    op.create_check_constraint(
        op.f("images_watermark_method_check"), "images", "watermark_method IN ('dwtDctSvd', 'dwtDct')"
    )


def downgrade() -> None:
    op.drop_constraint(op.f("images_watermark_method_check"), "images")
    op.drop_column("images", "watermark_method")
