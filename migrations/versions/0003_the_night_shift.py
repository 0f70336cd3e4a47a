"""The night shift: tenants, windows, canaries, targets, and claims that don't walk over what was claimed

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_OLD_LANE = ["batch_id", "model", "mode", "lora", "width", "height", "upscale"]
_LANE = ["batch_id", "tenant", "model", "mode", "lora", "width", "height", "upscale"]
_QUEUED = "state = 'queued'"
_NOT_BEFORE = "null: never claimed, found by id; else found by this, as all that come back to the queue"

# Name, type, default where there is one, comment.
_BATCH_COLUMNS: tuple[tuple[str, sa.types.TypeEngine[object], str | None, str | None], ...] = (
    ("stopped_because", sa.Text(), None, "why it was paused by nightmill itself"),
    ("window", sa.Text(), None, "HH:MM-HH:MM Zone: when it may be worked at"),
    ("opens_at", sa.DateTime(timezone=True), None, None),
    ("closes_at", sa.DateTime(timezone=True), None, None),
    ("not_before", sa.DateTime(timezone=True), None, None),
    ("deadline", sa.DateTime(timezone=True), None, None),
    ("canary", sa.Integer(), "0", "rows that go ahead of all"),
    ("canary_bound", sa.Float(), "0.5", None),
    ("canary_verdict", sa.Text(), None, "null while the first rows are on their way"),
    ("target", sa.Integer(), None, "accepted images wanted for each value of target_per"),
    ("target_per", sa.Text(), None, "key of meta; null: the batch as a whole"),
    ("top_up", sa.Float(), "1", "replacements at most, per target"),
    ("archived_at", sa.DateTime(timezone=True), None, None),
)
_LANE_COLUMNS: tuple[tuple[str, sa.types.TypeEngine[object], str | None, str | None], ...] = (
    ("tenant", sa.Text(), "''", "whose jobs; empty: nobody's"),
    ("floor", sa.BigInteger(), "0", "no job up to this id waits for its first claim"),
    ("image_s", sa.Float(), None, "seconds of one worker for an image, as measured"),
    ("batch_s", sa.Float(), None, "seconds from the begin of a device batch until it is stored, slow ones"),
)
_BATCH_CHECKS = {
    "window": '(opens_at IS NULL) = ("window" IS NULL) AND opens_at < closes_at',
    "canary": "canary >= 0 AND canary_bound BETWEEN 0 AND 1",
    "canary_verdict": "canary_verdict IN ('passed', 'stopped', 'overruled')",
    "target": "target > 0 AND top_up >= 0",
}


def upgrade() -> None:
    _extend_batches()
    _extend_lanes()
    op.create_table(
        "tenants",
        sa.Column("name", sa.Text(), nullable=False, comment="empty: of rows without one; *: all together"),
        sa.Column("weight", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("max_running", sa.Integer(), comment="jobs that may run at once; null: any number"),
        sa.Column(
            "used_s",
            sa.Float(),
            server_default=sa.text("0"),
            nullable=False,
            comment="worker seconds per weight; of *: of the tenant whose turn it was last",
        ),
        sa.CheckConstraint("weight BETWEEN 1 AND 1000", name=op.f("tenants_weight_check")),
        sa.CheckConstraint("max_running >= 0", name=op.f("tenants_max_running_check")),
        sa.PrimaryKeyConstraint("name", name=op.f("tenants_pkey")),
    )
    op.add_column(
        "jobs",
        sa.Column("replaces", sa.BigInteger(), comment="the job without an image that this one makes up for"),
    )
    op.alter_column("jobs", "not_before", comment=_NOT_BEFORE)
    op.drop_index("jobs_claim_idx", "jobs")
    _partial_index("jobs_fresh_idx", ["lane_id", "id"], f"{_QUEUED} AND not_before IS NULL")
    _partial_index("jobs_due_idx", ["lane_id", "not_before", "id"], f"{_QUEUED} AND not_before IS NOT NULL")
    _partial_index("jobs_replaces_key", ["replaces"], "replaces IS NOT NULL", unique=True)


def downgrade() -> None:
    """Refuses, by the constraint, where a batch has two lanes that differ only in their tenant."""
    for name in ("jobs_replaces_key", "jobs_due_idx", "jobs_fresh_idx"):
        op.drop_index(name, "jobs")
    _partial_index("jobs_claim_idx", ["lane_id", "id"], _QUEUED)
    op.alter_column("jobs", "not_before", comment=None)
    op.drop_column("jobs", "replaces")
    op.drop_table("tenants")
    op.drop_constraint(op.f("lanes_batch_id_tenant_model_mode_lora_width_height_upscale_key"), "lanes")
    op.create_unique_constraint(
        op.f("lanes_batch_id_model_mode_lora_width_height_upscale_key"), "lanes", _OLD_LANE
    )
    for name, *_ in _LANE_COLUMNS:
        op.drop_column("lanes", name)
    op.alter_column("lanes", "chosen_at", new_column_name="hinted_at")
    for name in _BATCH_CHECKS:
        op.drop_constraint(op.f(f"batches_{name}_check"), "batches")
    for name, *_ in _BATCH_COLUMNS:
        op.drop_column("batches", name)


def _extend_batches() -> None:
    for name, type_, default, comment in _BATCH_COLUMNS:
        op.add_column("batches", _column(name, type_, default, comment))
    for name, rule in _BATCH_CHECKS.items():
        op.create_check_constraint(op.f(f"batches_{name}_check"), "batches", rule)


def _extend_lanes() -> None:
    op.alter_column("lanes", "hinted_at", new_column_name="chosen_at")
    for name, type_, default, comment in _LANE_COLUMNS:
        op.add_column("lanes", _column(name, type_, default, comment))
    op.drop_constraint(op.f("lanes_batch_id_model_mode_lora_width_height_upscale_key"), "lanes")
    op.create_unique_constraint(
        op.f("lanes_batch_id_tenant_model_mode_lora_width_height_upscale_key"), "lanes", _LANE
    )


def _column(
    name: str, type_: sa.types.TypeEngine[object], default: str | None, comment: str | None
) -> sa.Column[object]:
    """A column that must be filled where it has a default."""
    server_default = None if default is None else sa.text(default)
    return sa.Column(name, type_, nullable=default is None, server_default=server_default, comment=comment)


def _partial_index(name: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(name, "jobs", columns, unique=unique, postgresql_where=sa.text(where))
