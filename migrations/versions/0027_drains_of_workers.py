"""Operators drain workers: they take no jobs, and aren't counted as available

Revision ID: 0027
Revises: 0026
"""

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_KIND = "kind IN ('host', 'worker')"

_BEFORE = import_module("migrations.versions.0016_worker_pools")._WANTED_WORKERS.replace(
    "CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"
)

_IS_RESTING = "state = 'unhealthy' AND lane_faults = '{}' AS is_resting FROM workers"

# Drained workers are replaced like those that are broken as a whole.
_IS_RESTING_OR_DRAINED = """state = 'unhealthy' AND lane_faults = '{}'
                OR version IS NOT NULL AND EXISTS (SELECT FROM worker_drains WHERE
                    CASE kind WHEN 'host' THEN starts_with(workers.name, target || ':') ELSE target = workers.name END)
                AS is_resting
        FROM workers"""


def upgrade() -> None:
    op.create_table(
        "worker_drains",
        sa.Column("kind", sa.Text(), primary_key=True),
        sa.Column("target", sa.Text(), primary_key=True, comment="name of the host, or of the worker"),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("now()")),
        sa.Column("drained_by", sa.Text(), nullable=False, comment="user@host"),
        sa.Column("reason", sa.Text()),
        sa.CheckConstraint(_KIND, name=op.f("worker_drains_kind_check")),
    )
    op.add_column(
        "workers",
        sa.Column("version", sa.Text(), comment="of nightmill; null: one that doesn't look for drains"),
    )
    after = _BEFORE.replace(_IS_RESTING, _IS_RESTING_OR_DRAINED)
    assert after != _BEFORE
    op.execute(after)


def downgrade() -> None:
    op.execute(_BEFORE)
    op.drop_column("workers", "version")
    op.drop_table("worker_drains")
