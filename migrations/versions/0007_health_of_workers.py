"""What workers say of their health

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_LANE_FAULTS = "lane id: what keeps the worker from it; empty in an unhealthy worker: it works in none"
_CHECKS = {
    "state": "state IN ('healthy', 'unhealthy')",
    "reason": "(state = 'unhealthy') = (reason IS NOT NULL)",
    "since": "(reason IS NULL) = (since IS NULL)",
}


def upgrade() -> None:
    state = sa.Column("state", sa.Text(), server_default=sa.text("'healthy'"), nullable=False)
    op.add_column("workers", state)
    reason = sa.Column("reason", sa.Text(), comment="what keeps an unhealthy worker from its work")
    op.add_column("workers", reason)
    op.add_column("workers", sa.Column("since", sa.DateTime(timezone=True)))
    op.add_column("workers", sa.Column("next_try_at", sa.DateTime(timezone=True)))
    op.add_column(
        "workers",
        sa.Column(
            "lane_faults",
            postgresql.JSONB(),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment=_LANE_FAULTS,
        ),
    )
    for name, condition in _CHECKS.items():
        op.create_check_constraint(op.f(f"workers_{name}_check"), "workers", condition)


def downgrade() -> None:
    for name in _CHECKS:
        op.drop_constraint(op.f(f"workers_{name}_check"), "workers")
    for column in ("lane_faults", "next_try_at", "since", "reason", "state"):
        op.drop_column("workers", column)
