"""Images have tiled marks

Revision ID: 0033
Revises: 0032
"""

from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

_NAME = "images_watermark_method_check"


def upgrade() -> None:
    op.drop_constraint(op.f(_NAME), "images")
    op.create_check_constraint(
        op.f(_NAME),
        "images",
        "watermark_method IN ('tiled', 'dwtDctSvd', 'dwtDct')",
        postgresql_not_valid=True,
    )


def downgrade() -> None:
    op.drop_constraint(op.f(_NAME), "images")
    op.execute("""
        UPDATE images SET watermark = NULL, watermark_method = NULL, watermark_bit_accuracy = NULL
        WHERE watermark_method = 'tiled'
    """)  # the version before would take them for texts
    op.create_check_constraint(op.f(_NAME), "images", "watermark_method IN ('dwtDctSvd', 'dwtDct')")
