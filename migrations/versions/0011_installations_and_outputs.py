"""Installations that own batch folders, and outputs that have a marker

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "installations",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column(
            "cluster", sa.Text(), nullable=False, comment="system_identifier of the PostgreSQL cluster"
        ),
        sa.Column(
            "database",
            sa.BigInteger(),
            nullable=False,
            comment="oid; a restored dump has another, and takes a new id",
        ),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("installations_pkey")),
        sa.UniqueConstraint("cluster", "database", name=op.f("installations_cluster_database_key")),
    )
    op.create_table(
        "outputs",
        sa.Column("uri", sa.Text(), nullable=False, comment="folder that was written to"),
        sa.Column("marker", sa.Uuid(), nullable=False, comment="id in its marker file"),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("uri", name=op.f("outputs_pkey")),
    )


def downgrade() -> None:
    op.drop_table("outputs")
    op.drop_table("installations")
