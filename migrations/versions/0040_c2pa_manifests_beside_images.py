"""Images may have their signed manifest in a file beside them

Revision ID: 0040
Revises: 0039
"""

import sqlalchemy as sa
from alembic import op

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None

_CHECK = "images_c2pa_sidecar_sha256_check"


def upgrade() -> None:
    comment = "of the file with the manifest, beside the image; null: none"
    op.add_column("images", sa.Column("c2pa_sidecar_sha256", sa.Text(), comment=comment))
    op.create_check_constraint(
        op.f(_CHECK), "images", "length(c2pa_sidecar_sha256) = 64", postgresql_not_valid=True
    )


def downgrade() -> None:
    op.drop_constraint(op.f(_CHECK), "images")
    op.drop_column("images", "c2pa_sidecar_sha256")
