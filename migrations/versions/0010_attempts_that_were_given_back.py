"""Attempts that were given back: the worker was to blame

Revision ID: 0010
Revises: 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_NAME = "attempts_outcome_check"
_BEFORE = "outcome IN ('retried', 'failed', 'blocked', 'expired')"


def upgrade() -> None:
    op.drop_constraint(op.f(_NAME), "attempts")
    op.create_check_constraint(
        op.f(_NAME), "attempts", "outcome IN ('retried', 'failed', 'blocked', 'expired', 'returned')"
    )


def downgrade() -> None:
    op.execute("DELETE FROM attempts WHERE outcome = 'returned'")
    op.drop_constraint(op.f(_NAME), "attempts")
    op.create_check_constraint(op.f(_NAME), "attempts", _BEFORE)
