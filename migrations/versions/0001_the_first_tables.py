"""The first tables

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from jobs.db.schema import Xid8

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("error_kind", sa.Text(), nullable=True),
        sa.Column("error_text", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('retried', 'failed', 'blocked', 'expired')", name=op.f("attempts_outcome_check")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("attempts_pkey")),
    )
    op.create_index("attempts_job_id_idx", "attempts", ["job_id"], unique=False)
    op.create_table(
        "batches",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "digest", sa.Text(), nullable=False, comment="of manifest and settings: same again, same batch"
        ),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("manifest_sha256", sa.Text(), nullable=False),
        sa.Column(
            "settings",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="as given: columns set, headers mapped",
        ),
        sa.Column("output", sa.Text(), nullable=False, comment="folder or s3://bucket/prefix"),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("safety", sa.Text(), nullable=False),
        sa.Column("watermark", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("quality", sa.SmallInteger(), nullable=False),
        sa.Column(
            "parameters",
            sa.Boolean(),
            nullable=False,
            comment="write the generation parameters into the file",
        ),
        sa.Column("max_attempts", sa.SmallInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False, comment="higher first"),
        sa.Column("rows", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("rejected", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("jobs", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("format IN ('png', 'webp', 'jpeg')", name=op.f("batches_format_check")),
        sa.CheckConstraint("name ~ '^[a-z0-9][a-z0-9._-]{0,99}$'", name=op.f("batches_name_check")),
        sa.CheckConstraint(
            "safety IN ('block', 'flag', 'blacken', 'blur')", name=op.f("batches_safety_check")
        ),
        sa.CheckConstraint(
            "watermark IN ('require', 'best-effort', 'off')", name=op.f("batches_watermark_check")
        ),
        sa.CheckConstraint("max_attempts BETWEEN 1 AND 100", name=op.f("batches_max_attempts_check")),
        sa.CheckConstraint("quality BETWEEN 1 AND 100", name=op.f("batches_quality_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("batches_pkey")),
        sa.UniqueConstraint("digest", name=op.f("batches_digest_key")),
        sa.UniqueConstraint("name", name=op.f("batches_name_key")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("lane_id", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False, comment="0-based data row of the manifest"),
        sa.Column("index", sa.Integer(), nullable=False, comment="which of the row's images"),
        sa.Column("row_id", sa.Text(), nullable=True, comment="the manifest's own id"),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("negative_prompt", sa.Text(), nullable=False),
        sa.Column("steps", sa.SmallInteger(), nullable=False),
        sa.Column("guidance_scale", sa.Float(), nullable=False),
        sa.Column("sampler", sa.Text(), nullable=False),
        sa.Column("seed", sa.Numeric(precision=20, scale=0), nullable=False),
        sa.Column("noise_level", sa.SmallInteger(), nullable=True),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column(
            "meta",
            postgresql.JSON(astext_type=sa.Text()),
            nullable=False,
            comment="as the manifest has it: order of keys, form of numbers",
        ),
        sa.Column("state", sa.Text(), server_default=sa.text("'queued'"), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease", sa.Uuid(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_kind", sa.Text(), nullable=True),
        sa.Column("error_text", sa.Text(), nullable=True),
        sa.CheckConstraint("(state = 'running') = (lease IS NOT NULL)", name=op.f("jobs_lease_check")),
        sa.CheckConstraint(
            "(state IN ('done', 'failed', 'blocked', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f("jobs_finished_at_check"),
        ),
        sa.CheckConstraint(
            "attempt >= 0 AND (state NOT IN ('running', 'done') OR attempt > 0)",
            name=op.f("jobs_attempt_check"),
        ),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'done', 'failed', 'blocked', 'cancelled')",
            name=op.f("jobs_state_check"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('failed', 'blocked') OR error_kind IS NOT NULL", name=op.f("jobs_error_kind_check")
        ),
        sa.CheckConstraint("(lease IS NULL) = (lease_until IS NULL)", name=op.f("jobs_lease_until_check")),
        sa.CheckConstraint("seed >= 0 AND seed < 18446744073709551616", name=op.f("jobs_seed_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("jobs_pkey")),
        sa.UniqueConstraint("batch_id", "ordinal", "index", name=op.f("jobs_batch_id_ordinal_index_key")),
    )
    op.create_index(
        "jobs_claim_idx",
        "jobs",
        ["lane_id", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "jobs_lease_idx", "jobs", ["lease_until"], unique=False, postgresql_where=sa.text("state = 'running'")
    )
    op.create_index(
        "jobs_retry_idx",
        "jobs",
        ["batch_id", "id"],
        unique=False,
        postgresql_where=sa.text("state IN ('failed', 'blocked', 'cancelled')"),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("workers_pkey")),
    )
    op.create_table(
        "images",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column(
            "xid",
            Xid8(),
            server_default=sa.text("pg_current_xact_id()"),
            nullable=False,
            comment="orders the feed",
        ),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("row_id", sa.Text(), nullable=True),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("negative_prompt", sa.Text(), nullable=False),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False),
        sa.Column("prompt_truncated", sa.Boolean(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_revision", sa.Text(), nullable=False),
        sa.Column("model_digest", sa.Text(), nullable=False),
        sa.Column("generated_width", sa.Integer(), nullable=False, comment="before upscaling"),
        sa.Column("generated_height", sa.Integer(), nullable=False),
        sa.Column("steps", sa.SmallInteger(), nullable=False),
        sa.Column("guidance_scale", sa.Float(), nullable=False),
        sa.Column("sampler", sa.Text(), nullable=False),
        sa.Column("seed", sa.Numeric(precision=20, scale=0), nullable=False),
        sa.Column("upscale", sa.SmallInteger(), nullable=False),
        sa.Column("noise_level", sa.SmallInteger(), nullable=True),
        sa.Column("upscaler_digest", sa.Text(), nullable=True),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("safety_verdict", sa.Text(), nullable=False, comment="safe, flagged, blackened or blurred"),
        sa.Column("safety_reason", sa.Text(), nullable=True),
        sa.Column(
            "safety_scores",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="score of every concept, so that a new policy needs no GPU",
        ),
        sa.Column("watermark", sa.Text(), nullable=True, comment="payload; null: none embedded"),
        sa.Column(
            "watermark_bit_accuracy",
            sa.Float(),
            nullable=True,
            comment="read back from the encoded file, 0 to 1",
        ),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("batch_rows", sa.SmallInteger(), nullable=False, comment="shape of the device batch"),
        sa.Column("versions", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "timings",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="seconds a stage, the image's share",
        ),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), nullable=False),
        sa.Column(
            "meta",
            postgresql.JSON(astext_type=sa.Text()),
            nullable=False,
            comment="as the manifest has it: order of keys, form of numbers",
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "safety_verdict IN ('safe', 'flagged', 'blackened', 'blurred')",
            name=op.f("images_safety_verdict_check"),
        ),
        sa.CheckConstraint("length(sha256) = 64", name=op.f("images_sha256_check")),
        sa.CheckConstraint(
            "watermark_bit_accuracy BETWEEN 0 AND 1", name=op.f("images_watermark_bit_accuracy_check")
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("images_batch_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("images_pkey")),
        sa.UniqueConstraint("batch_id", "ordinal", "index", name=op.f("images_batch_id_ordinal_index_key")),
        sa.UniqueConstraint("job_id", name=op.f("images_job_id_key")),
    )
    op.create_index("images_feed_idx", "images", ["xid", "id"], unique=False)
    op.create_index("images_rate_idx", "images", ["batch_id", "created_at"], unique=False)
    op.create_table(
        "lanes",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("upscale", sa.SmallInteger(), nullable=False, comment="0 or 4"),
        sa.Column("hinted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("lanes_batch_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("lanes_pkey")),
        sa.UniqueConstraint(
            "batch_id",
            "model",
            "width",
            "height",
            "upscale",
            name=op.f("lanes_batch_id_model_width_height_upscale_key"),
        ),
    )
    op.create_table(
        "rejects",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("line", sa.BigInteger(), nullable=False),
        sa.Column("column", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("excerpt", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("rejects_batch_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("rejects_pkey")),
    )
    op.create_index("rejects_batch_id_idx", "rejects", ["batch_id", "id"], unique=False)
    op.create_table(
        "tallies",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("lane_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column(
            "delta",
            sa.BigInteger(),
            nullable=False,
            comment="counts are sums of these; rows are folded now and then",
        ),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("tallies_batch_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("tallies_pkey")),
    )
    op.create_index("tallies_lane_id_idx", "tallies", ["batch_id", "lane_id", "state"], unique=False)


def downgrade() -> None:
    op.drop_index("tallies_lane_id_idx", table_name="tallies")
    op.drop_table("tallies")
    op.drop_index("rejects_batch_id_idx", table_name="rejects")
    op.drop_table("rejects")
    op.drop_table("lanes")
    op.drop_index("images_rate_idx", table_name="images")
    op.drop_index("images_feed_idx", table_name="images")
    op.drop_table("images")
    op.drop_table("workers")
    op.drop_index(
        "jobs_retry_idx",
        table_name="jobs",
        postgresql_where=sa.text("state IN ('failed', 'blocked', 'cancelled')"),
    )
    op.drop_index("jobs_lease_idx", table_name="jobs", postgresql_where=sa.text("state = 'running'"))
    op.drop_index("jobs_claim_idx", table_name="jobs", postgresql_where=sa.text("state = 'queued'"))
    op.drop_table("jobs")
    op.drop_table("batches")
    op.drop_index("attempts_job_id_idx", table_name="attempts")
    op.drop_table("attempts")
