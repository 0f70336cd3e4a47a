"""Events of the feed beside images, who reads them, retracted images, and what archived batches need to be accounted for

Revision ID: 0019
Revises: 0018
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB
from sqlalchemy.types import UserDefinedType

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_STATES = ("queued", "running", "done", "failed", "blocked", "cancelled")
_FINISHED = ("done", "failed", "blocked", "cancelled")
_KINDS = "'blocked', 'failed', 'retracted', 'deleted', 'sealed', 'batch'"

# Ids of events are of the sequence of image rows, which whoever may insert those could use without a privilege of its own.
_SEQUENCE_FOR_WRITERS = """
    DO $$
    DECLARE
        writer regrole;
    BEGIN
        FOR writer IN
            SELECT DISTINCT grantee::regrole FROM pg_class, aclexplode(relacl)
            WHERE oid = 'images'::regclass AND privilege_type = 'INSERT' AND grantee <> 0
        LOOP
            EXECUTE format('GRANT USAGE ON SEQUENCE images_id_seq TO %s', writer);
        END LOOP;
    END $$
"""

# Batches that ended before there were events get none.
_ENDED = """
    UPDATE batches SET ended_at = coalesce((SELECT max(ended_at) FROM lanes WHERE batch_id = batches.id), created_at)
    WHERE NOT EXISTS (SELECT FROM lanes WHERE batch_id = batches.id AND lanes.ended_at IS NULL)
"""


class _Xid8(UserDefinedType[int]):
    def get_col_spec(self, **_: object) -> str:
        return "xid8"


def _listed(values: tuple[str, ...]) -> str:
    return ", ".join(f"'{value}'" for value in values)


def _moment(name: str, *, now: bool = False) -> sa.Column[object]:
    default = sa.text("now()") if now else None
    return sa.Column(name, sa.DateTime(timezone=True), nullable=not now, server_default=default)


def _check_states(more: tuple[str, ...]) -> None:
    # Whoever uses the table waits until the migration is committed. All jobs are checked after that, by `migrations`.
    states, finished = _listed((*_STATES, *more)), _listed((*_FINISHED, *more))
    for name, condition in {
        "state": f"state IN ({states})",
        "finished_at": f"(state IN ({finished})) = (finished_at IS NOT NULL)",
    }.items():
        op.drop_constraint(op.f(f"jobs_{name}_check"), "jobs")
        op.create_check_constraint(op.f(f"jobs_{name}_check"), "jobs", condition, postgresql_not_valid=True)


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column(
            "id", sa.BigInteger(), primary_key=True, autoincrement=False, comment="of the sequence of images"
        ),
        sa.Column("epoch", sa.Integer(), nullable=False, comment="as in images"),
        sa.Column(
            "xid",
            _Xid8(),
            nullable=False,
            server_default=sa.text("pg_current_xact_id()"),
            comment="orders the feed",
        ),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column(
            "batch_id", sa.BigInteger(), nullable=False, comment="no foreign key: an event outlives its batch"
        ),
        sa.Column("batch", sa.Text(), nullable=False, comment="name of the batch"),
        sa.Column(
            "ordinal", sa.BigInteger(), comment="this and the next: as in images; null: of no single job"
        ),
        sa.Column("index", sa.Integer()),
        sa.Column("row_id", sa.Text()),
        sa.Column("job_id", sa.BigInteger()),
        sa.Column("image_id", sa.BigInteger(), comment="the image row that was deleted"),
        sa.Column("detail", JSONB(), nullable=False, server_default=sa.text("'{}'")),
        _moment("created_at", now=True),
        sa.CheckConstraint(f"kind IN ({_KINDS})", name=op.f("events_kind_check")),
    )
    op.create_index("events_feed_idx", "events", ["epoch", "xid", "id"])
    op.create_index("events_batch_id_idx", "events", ["batch_id", "ordinal", "index"])
    op.execute(_SEQUENCE_FOR_WRITERS)
    _create_consumers()
    _create_archived_jobs()
    op.add_column("batches", _moment("ended_at"))
    op.add_column(
        "batches", sa.Column("lines", JSONB(), comment="lines of the manifest, counted by what they are")
    )
    op.execute(_ENDED)
    _check_states(("retracted",))


def _create_consumers() -> None:
    op.create_table(
        "consumers",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "epoch",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="this and the next: the cursor",
        ),
        sa.Column("xid", _Xid8(), nullable=False, server_default=sa.text("'0'::xid8")),
        sa.Column(
            "position",
            sa.BigInteger(),
            nullable=False,
            server_default=sa.text("0"),
            comment="id of image or event",
        ),
        sa.Column(
            "kinds",
            ARRAY(sa.Text()),
            nullable=False,
            server_default=sa.text("'{image}'"),
            comment="events that it reads",
        ),
        sa.Column("batch_id", sa.BigInteger(), comment="the batch that it reads; null: all"),
        _moment("created_at", now=True),
        _moment("acknowledged_at"),
        sa.CheckConstraint("name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'", name=op.f("consumers_name_check")),
        sa.UniqueConstraint("name", name=op.f("consumers_name_key")),
    )


def _create_archived_jobs() -> None:
    op.create_table(
        "archived_jobs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), primary_key=True),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("row_id", sa.Text()),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("replaced_by", sa.BigInteger(), comment="the job that made up for it"),
        sa.Column("state", sa.Text(), nullable=False, comment="in which the job ended without an image"),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("error_kind", sa.Text()),
        sa.Column("error_text", sa.Text()),
        sa.Column("meta", JSON(), nullable=False),
        sa.CheckConstraint(
            f"state IN ({_listed((*_FINISHED[1:], 'retracted'))})", name=op.f("archived_jobs_state_check")
        ),
        sa.UniqueConstraint(
            "batch_id", "ordinal", "index", name=op.f("archived_jobs_batch_id_ordinal_index_key")
        ),
    )


def downgrade() -> None:
    op.execute("UPDATE jobs SET state = 'cancelled' WHERE state = 'retracted'")
    op.execute("UPDATE job_counts SET state = 'cancelled' WHERE state = 'retracted'")
    _check_states(())
    op.drop_column("batches", "lines")
    op.drop_column("batches", "ended_at")
    for table in ("archived_jobs", "consumers", "events"):
        op.drop_table(table)
