"""Batches say when they started, lanes what they used, and workers what became of them

Revision ID: 0029
Revises: 0028
"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("started_at", sa.DateTime(timezone=True)))
    op.create_index("attempts_ended_at_idx", "attempts", ["ended_at"])
    op.create_table(
        "lane_usage",
        sa.Column("began_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("lane_id", sa.BigInteger(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("worker_s", sa.Float(), nullable=False, comment="from the pick of a lane to the next"),
        sa.Column("device_s", sa.Float(), nullable=False, comment="of these, in device batches"),
        sa.Column("joules", sa.Float(), comment="of the device, as it counts them; null: it doesn't"),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("began_at", "lane_id", "worker", name="lane_usage_pkey"),
        comment="sums of time slices by quarters of an hour",
    )
    op.create_index("lane_usage_batch_id_idx", "lane_usage", ["batch_id"])
    op.create_table(
        "worker_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.CheckConstraint("kind IN ('unhealthy', 'healthy', 'lost')", name=op.f("worker_events_kind_check")),
        sa.PrimaryKeyConstraint("id", name="worker_events_pkey"),
    )
    op.create_index("worker_events_at_idx", "worker_events", ["at"])


def downgrade() -> None:
    op.drop_table("worker_events")
    op.drop_table("lane_usage")
    op.drop_index("attempts_ended_at_idx", "attempts")
    op.drop_column("batches", "started_at")
