"""Rows of their own for the fair share's clock, the common limit and turns; lanes that have ended

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TURN = "made by the worker, so that a turn is given and settled once"
_TIME = "used_s of the tenant whose turn it was last: who comes back starts level with it"
_LIMIT = "jobs of all tenants that may run at once; null: any number"
_ENDED = "when no job was queued or running any more; null: there may be some"

# Until now, the clock and the common limit were a tenant called '*', of whom there may be jobs, too. They keep their
# place in the queue under another name; image rows say whose they are as their manifest did.
_HEAL = """
    INSERT INTO fair_share (virtual_time, max_running)
    SELECT coalesce((SELECT used_s FROM tenants WHERE name = '*'), 0),
        (SELECT max_running FROM tenants WHERE name = '*');
    DELETE FROM tenants WHERE name = '*';
    UPDATE lanes SET tenant = '(*)' WHERE tenant = '*';
"""

# Batches whose jobs were queued again while they were being archived: what was dropped will never be done.
_HEAL_ARCHIVED = """
    UPDATE tallies SET state = 'cancelled' FROM batches
    WHERE batches.id = batch_id AND archived_at IS NOT NULL AND state IN ('queued', 'running') AND NOT EXISTS (
        SELECT FROM jobs WHERE jobs.batch_id = batches.id AND jobs.state IN ('queued', 'running'))
"""


def upgrade() -> None:
    op.create_table(
        "fair_share",
        sa.Column(
            "id", sa.Boolean(), server_default=sa.text("true"), nullable=False, comment="there is one row"
        ),
        sa.Column("virtual_time", sa.Float(), server_default=sa.text("0"), nullable=False, comment=_TIME),
        sa.Column("max_running", sa.Integer(), nullable=True, comment=_LIMIT),
        sa.CheckConstraint("id", name=op.f("fair_share_id_check")),
        sa.CheckConstraint("max_running >= 0", name=op.f("fair_share_max_running_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("fair_share_pkey")),
    )
    op.create_table(
        "turns",
        sa.Column("id", sa.Uuid(), nullable=False, comment=_TURN),
        sa.Column("lane_id", sa.BigInteger(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("slice_s", sa.Float(), nullable=False, comment="worker seconds charged when it began"),
        sa.Column("weight", sa.Integer(), nullable=False, comment="the tenant's when it began"),
        sa.Column("begun_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("turns_pkey")),
    )
    op.execute(_HEAL)
    op.execute(_HEAL_ARCHIVED)
    op.create_check_constraint(op.f("tenants_name_check"), "tenants", "name <> '*'")
    op.create_check_constraint(op.f("lanes_tenant_check"), "lanes", "tenant <> '*'")
    op.add_column("lanes", sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True, comment=_ENDED))
    op.create_index("lanes_ended_at_idx", "lanes", ["ended_at"])
    op.alter_column("tenants", "name", comment="empty: of rows without one")
    op.alter_column("tenants", "used_s", comment="worker seconds per weight")


def downgrade() -> None:
    op.alter_column(
        "tenants", "used_s", comment="worker seconds per weight; of *: of the tenant whose turn it was last"
    )
    op.alter_column("tenants", "name", comment="empty: of rows without one; *: all together")
    op.drop_index("lanes_ended_at_idx", "lanes")
    op.drop_column("lanes", "ended_at")
    op.drop_constraint(op.f("lanes_tenant_check"), "lanes")
    op.drop_constraint(op.f("tenants_name_check"), "tenants")
    op.execute("""
        INSERT INTO tenants (name, max_running, used_s)
        SELECT '*', max_running, virtual_time FROM fair_share
        ON CONFLICT (name) DO UPDATE SET max_running = excluded.max_running, used_s = excluded.used_s
    """)
    op.drop_table("turns")
    op.drop_table("fair_share")
