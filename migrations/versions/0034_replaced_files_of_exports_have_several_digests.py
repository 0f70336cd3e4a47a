"""A file that an export has replaced, or that a slow writer may put there late, has one digest or several

Revision ID: 0034
Revises: 0033
"""

from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column(
        "exports",
        "replaced",
        existing_type=JSONB(),
        comment="files that may lie at the place and that no shard names, name: [SHA-256]; deleted when it is finished",
    )
    op.execute("""
        UPDATE exports SET replaced = (
            SELECT jsonb_object_agg(key, jsonb_build_array(value)) FROM jsonb_each(replaced))
        WHERE replaced <> '{}'
    """)


def downgrade() -> None:
    op.alter_column(
        "exports",
        "replaced",
        existing_type=JSONB(),
        comment="files of an earlier export at the place, name: SHA-256; deleted when this one is finished",
    )
    op.execute("""
        UPDATE exports SET replaced = (SELECT jsonb_object_agg(key, value -> -1) FROM jsonb_each(replaced))
        WHERE replaced <> '{}'
    """)  # the version before knows one digest by name
