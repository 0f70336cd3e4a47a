"""Plain names for tables and columns: job_counts, time_slices, low_watermark, max_replacement_ratio

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_TABLES = {"tallies": "job_counts", "turns": "time_slices"}
_COLUMNS = {("lanes", "floor"): "low_watermark", ("batches", "top_up"): "max_replacement_ratio"}

# Table, column, comment until now, comment from now on.
_COMMENTS = (
    (
        "time_slices",
        "id",
        "made by the worker, so that a turn is given and settled once",
        "made by the worker, so that it is begun and ended once",
    ),
    (
        "fair_share",
        "virtual_time",
        "used_s of the tenant whose turn it was last: who comes back starts level with it",
        "used_s of the tenant that was picked last: who comes back starts level with it",
    ),
    (
        "batches",
        "max_replacement_ratio",
        "replacements at most, per target",
        "replacements at most, as a share of the target",
    ),
)


def upgrade() -> None:
    for old, new in _TABLES.items():
        _rename_table(old, new)
    for (table, old), new in _COLUMNS.items():
        _rename_column(table, old, new)
    for table, column, _, comment in _COMMENTS:
        op.alter_column(table, column, comment=comment)


def downgrade() -> None:
    for table, column, comment, _ in _COMMENTS:
        op.alter_column(table, column, comment=comment)
    for (table, old), new in _COLUMNS.items():
        _rename_column(table, new, old)
    for old, new in _TABLES.items():
        _rename_table(new, old)


def _rename_table(old: str, new: str) -> None:
    """Rename a table and what is named after it: constraints, indexes, the sequence of its ids."""
    op.rename_table(old, new)
    _rename_constraints(new, f"{old}_", f"{new}_")
    indexes = sa.text(
        "SELECT indexname FROM pg_indexes WHERE tablename = :table AND starts_with(indexname, :old)"
    )
    for name in op.get_bind().scalars(indexes, {"table": new, "old": f"{old}_"}).all():
        op.execute(f"ALTER INDEX {name} RENAME TO {new}_{name.removeprefix(f'{old}_')}")
    op.execute(f"ALTER SEQUENCE IF EXISTS {old}_id_seq RENAME TO {new}_id_seq")


def _rename_column(table: str, old: str, new: str) -> None:
    op.alter_column(table, old, new_column_name=new)
    _rename_constraints(table, f"{table}_{old}_", f"{table}_{new}_")


def _rename_constraints(table: str, old: str, new: str) -> None:
    """Rename the constraints that begin with `old`, among them those of NOT NULL, which PostgreSQL 18 has by name."""
    found = sa.text(
        "SELECT conname FROM pg_constraint WHERE conrelid = CAST(:table AS regclass) AND starts_with(conname, :old)"
    )
    for name in op.get_bind().scalars(found, {"table": table, "old": old}).all():
        op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {name} TO {new}{name.removeprefix(old)}")
