"""Epochs of the feed, for databases that move to another cluster

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_EPOCH = "orders the feed where transaction ids of several clusters meet"
_CLUSTER = "where rows of this epoch were written: system identifier/timeline"

# Where rows are from transactions that are still to come, the database was restored from another cluster. What was
# written since then has higher ids than the last of those rows.
_FIRST = """
    INSERT INTO feed_epochs (id, cluster)
    SELECT 0, CASE WHEN EXISTS (SELECT FROM images WHERE xid > pg_current_xact_id()) THEN 'unknown' ELSE cluster END
    FROM (
        SELECT system_identifier || '/' || greatest(timeline_id, min_recovery_end_timeline) AS cluster
        FROM pg_control_system(), pg_control_checkpoint(), pg_control_recovery()) AS this;
    INSERT INTO feed_epochs (id, cluster)
    SELECT 1, system_identifier || '/' || greatest(timeline_id, min_recovery_end_timeline)
    FROM pg_control_system(), pg_control_checkpoint(), pg_control_recovery()
    WHERE EXISTS (SELECT FROM feed_epochs WHERE cluster = 'unknown');
    UPDATE images SET epoch = 1 WHERE id > (SELECT max(id) FROM images WHERE xid > pg_current_xact_id())
"""


def upgrade() -> None:
    op.create_table(
        "feed_epochs",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False, comment=_CLUSTER),
        sa.Column("begun_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("feed_epochs_pkey")),
    )
    op.add_column(
        "images",
        sa.Column("epoch", sa.Integer(), server_default=sa.text("0"), nullable=False, comment=_EPOCH),
    )
    op.execute(_FIRST)
    op.drop_index("images_feed_idx", "images")
    op.create_index("images_feed_idx", "images", ["epoch", "xid", "id"])


def downgrade() -> None:
    op.drop_index("images_feed_idx", "images")
    op.create_index("images_feed_idx", "images", ["xid", "id"])
    op.drop_column("images", "epoch")
    op.drop_table("feed_epochs")
