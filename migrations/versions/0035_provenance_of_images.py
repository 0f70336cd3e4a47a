"""Images have a digest of their pixels, an ISCC code and a signed manifest

Revision ID: 0035
Revises: 0034
"""

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

_CHECK = "images_pixels_sha256_check"
_COLUMNS = {
    "pixels_sha256": "of the decoded RGB bytes; null: withheld, or by a version without",
    "iscc": "ISCC Image-Code; null: withheld, or by a version without",
    "c2pa_manifest_id": "urn of the active C2PA manifest; null: not signed",
}


def upgrade() -> None:
    for name, comment in _COLUMNS.items():
        op.add_column("images", sa.Column(name, sa.Text(), comment=comment))
    op.create_check_constraint(
        op.f(_CHECK), "images", "length(pixels_sha256) = 64", postgresql_not_valid=True
    )
    # The table is read once for each, and holds no value of them yet, or few.
    op.create_index("images_pixels_sha256_idx", "images", ["pixels_sha256"], postgresql_using="hash")
    op.create_index("images_c2pa_manifest_id_idx", "images", ["c2pa_manifest_id"], postgresql_using="hash")
    op.create_index(
        "images_copied_marks_idx",
        "images",
        ["watermark"],
        postgresql_where=sa.text("reused_from IS NOT NULL AND watermark_method = 'tiled'"),
    )


def downgrade() -> None:
    for name in ("copied_marks", "c2pa_manifest_id", "pixels_sha256"):
        op.drop_index(f"images_{name}_idx", "images")
    op.drop_constraint(op.f(_CHECK), "images")
    for name in reversed(_COLUMNS):
        op.drop_column("images", name)
