"""A worker that takes the place of a drained one is drained

Revision ID: 0031
Revises: 0030
"""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("worker_drains", sa.Column("device", sa.Text(), comment="of the worker; null: of a host"))


def downgrade() -> None:
    op.drop_column("worker_drains", "device")
