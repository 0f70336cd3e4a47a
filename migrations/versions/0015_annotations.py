"""What stages of the pipeline find has a column

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("images", sa.Column("annotations", JSONB(), comment="findings by stage; null: none"))


def downgrade() -> None:
    op.drop_column("images", "annotations")
