"""Pools of workers, what each worker is doing, and how many workers a pool needs

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_POOL_CHECKS = {
    "name": "name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'",
    "models": "models <> '{}'",
    "max_workers": "max_workers >= 0",
    "idle_s": "idle_s BETWEEN 0 AND 1e7",
    "target_s": "target_s > 0 AND target_s <= 1e7",
    "start_s": "start_s BETWEEN 0 AND 1e7",
    "claim_size": "claim_size > 0",
}

_WORKER_CHECKS = {
    "activity": "activity IN ('starting', 'idle', 'busy', 'draining')",
    "lane_id": "(activity = 'busy') OR lane_id IS NULL",
}

# The formula is explained in docs/scheduling.md. `at` is a parameter so that a simulation can set the clock.
_WANTED_WORKERS = """
CREATE FUNCTION nightmill_wanted_workers(pool text, at timestamptz DEFAULT now()) RETURNS integer
LANGUAGE sql STABLE AS $$
    WITH this AS (
        SELECT * FROM pools WHERE pools.name = nightmill_wanted_workers.pool
    ), lane AS (
        SELECT l.id, l.tenant, l.batch_id, l.model, l.width, l.height, l.image_s, b.priority, b.deadline,
            b."window", b.opens_at, b.closes_at, b.canary > 0 AND b.canary_verdict IS NULL AS only_canary, b.canary,
            coalesce(t.weight, 1) AS weight, t.max_running
        FROM this, lanes l JOIN batches b ON b.id = l.batch_id LEFT JOIN tenants t ON t.name = l.tenant
        WHERE l.ended_at IS NULL
          AND b.paused_at IS NULL AND b.cancelled_at IS NULL AND b.archived_at IS NULL
          AND (b.not_before IS NULL OR b.not_before <= at)
          AND (b.opens_at IS NULL OR b.opens_at <= at AND at + make_interval(secs => coalesce(batch_s, 120)) < b.closes_at)
          AND CASE WHEN this.models IS NULL
              THEN NOT EXISTS (SELECT FROM pools AS other WHERE l.model = ANY (other.models))
              ELSE l.model = ANY (this.models) END
    ), counted AS (
        SELECT lane_id, coalesce(sum(delta) FILTER (WHERE state = 'queued'), 0) AS queued,
            coalesce(sum(delta) FILTER (WHERE state = 'running'), 0) AS running
        FROM job_counts WHERE batch_id IN (SELECT batch_id FROM lane) AND state IN ('queued', 'running') GROUP BY 1
    ), canary AS (
        SELECT lane_id, count(*) AS queued FROM jobs JOIN (
            SELECT DISTINCT batch_id, canary FROM lane WHERE only_canary) AS c USING (batch_id)
        WHERE ordinal BETWEEN 0 AND canary - 1 AND state = 'queued' GROUP BY 1
    ), unfinished AS (
        SELECT lane.*, running, running + CASE WHEN only_canary THEN coalesce(canary.queued, 0) ELSE counted.queued END
            AS images
        FROM lane JOIN counted ON counted.lane_id = lane.id LEFT JOIN canary ON canary.lane_id = lane.id
    ), of_size AS (
        SELECT DISTINCT ON (model, width, height) model, width, height, image_s FROM lanes
        WHERE image_s IS NOT NULL AND model IN (SELECT model FROM lane WHERE image_s IS NULL)
        ORDER BY model, width, height, id DESC
    ), of_model AS (
        SELECT DISTINCT ON (model) model, image_s FROM lanes
        WHERE image_s IS NOT NULL AND model IN (SELECT model FROM lane WHERE image_s IS NULL)
        ORDER BY model, id DESC
    ), paced AS (
        SELECT unfinished.*, greatest(1e-6, coalesce(unfinished.image_s, of_size.image_s, of_model.image_s, 10)) AS pace_s
        FROM unfinished LEFT JOIN of_size USING (model, width, height) LEFT JOIN of_model USING (model) WHERE images > 0
    ), timed AS (
        SELECT *, images * pace_s AS work_s, least(claim_size, greatest(8, ceil(60 / pace_s))) AS claimed_at_once,
            sum(images * pace_s) OVER (PARTITION BY tenant ORDER BY priority DESC) AS work_before_s
        FROM paced, (SELECT claim_size FROM this) AS c
    ), tenant AS (
        SELECT tenant, max(weight) AS weight, least(
            sum(ceil(images / claimed_at_once)), ceil(max(max_running) / min(claimed_at_once))) AS useful
        FROM timed GROUP BY tenant
    ), total AS (
        SELECT coalesce(sum(work_s), 0) AS work_s FROM timed
    ), due AS (
        SELECT tenant, work_before_s, greatest(60, extract(epoch FROM least(deadline, closes_at) - at) + coalesce(
            floor(after_s / 86400) * open_s + greatest(0, after_s - floor(after_s / 86400) * 86400 - (86400 - open_s)), 0
        ) - start_s) AS left_s
        FROM this, (
            SELECT DISTINCT tenant, work_before_s, deadline, closes_at, extract(epoch FROM closes_at - opens_at) AS open_s,
                CASE WHEN "window" ~ '^[0-9]' THEN greatest(0, extract(epoch FROM deadline - closes_at)) ELSE 0 END AS after_s
            FROM timed WHERE deadline IS NOT NULL) AS d
    ), needed AS (
        SELECT greatest(total.work_s / target_s, 0, (
            SELECT max(least(
                least(total.work_s, work_before_s * all_weights / weight) / left_s, useful * all_weights / weight))
            FROM due JOIN tenant USING (tenant), (SELECT sum(weight) AS all_weights FROM tenant) AS w)) AS workers
        FROM this, total
    ), allowed AS (
        SELECT least(ceil(workers), (SELECT coalesce(sum(useful), 0) FROM tenant),
            (SELECT ceil(max_running / (SELECT min(claimed_at_once) FROM timed)) FROM fair_share)) AS workers
        FROM needed
    ), live AS (
        SELECT name, activity, activity_since, state = 'unhealthy' AND lane_faults = '{}' AS is_resting FROM workers
        WHERE workers.pool = nightmill_wanted_workers.pool AND seen_at > at - interval '60 seconds'
    ), kept AS (
        SELECT count(*) FILTER (WHERE NOT is_resting AND activity IS DISTINCT FROM 'draining' AND (
            EXISTS (SELECT FROM jobs WHERE jobs.state = 'running' AND jobs.worker = live.name)
            OR activity = 'busy' OR activity = 'idle' AND activity_since > at - make_interval(secs => idle_s))) AS workers,
            count(*) FILTER (WHERE is_resting) AS resting
        FROM this LEFT JOIN live ON true
    )
    SELECT greatest(
        least(allowed.workers + least(resting, allowed.workers), max_workers, 100000), kept.workers)::integer
    FROM this, allowed, kept
$$
"""


def upgrade() -> None:
    op.create_table(
        "pools",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("models", ARRAY(sa.Text()), comment="whose lanes its workers process; null: all"),
        sa.Column("max_workers", sa.Integer(), comment="never want more; null: any number"),
        sa.Column(
            "idle_s",
            sa.Float(),
            nullable=False,
            server_default=sa.text("300"),
            comment="how long a worker may idle",
        ),
        sa.Column(
            "target_s",
            sa.Float(),
            nullable=False,
            server_default=sa.text("1800"),
            comment="in what time work without a deadline should be done",
        ),
        sa.Column(
            "start_s",
            sa.Float(),
            nullable=False,
            server_default=sa.text("600"),
            comment="from the wish for a worker until it renders at full speed",
        ),
        sa.Column(
            "claim_size",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("32"),
            comment="jobs that a worker takes at once",
        ),
        *(
            sa.CheckConstraint(condition, name=op.f(f"pools_{name}_check"))
            for name, condition in _POOL_CHECKS.items()
        ),
    )
    op.execute("INSERT INTO pools (name) VALUES ('default')")
    op.add_column(
        "workers", sa.Column("pool", sa.Text(), nullable=False, server_default=sa.text("'default'"))
    )
    op.add_column(
        "workers", sa.Column("activity", sa.Text(), comment="null: of a worker of an earlier version")
    )
    op.add_column("workers", sa.Column("activity_since", sa.DateTime(timezone=True)))
    op.add_column("workers", sa.Column("lane_id", sa.BigInteger(), comment="the lane of a busy worker"))
    op.add_column(
        "workers",
        sa.Column(
            "warm_models",
            ARRAY(sa.Text()),
            nullable=False,
            server_default=sa.text("'{}'"),
            comment="models that it holds in memory",
        ),
    )
    for name, condition in _WORKER_CHECKS.items():
        op.create_check_constraint(op.f(f"workers_{name}_check"), "workers", condition)
    op.execute(_WANTED_WORKERS)


def downgrade() -> None:
    op.execute("DROP FUNCTION nightmill_wanted_workers(text, timestamptz)")
    for name in _WORKER_CHECKS:
        op.drop_constraint(op.f(f"workers_{name}_check"), "workers")
    for column in ("warm_models", "lane_id", "activity_since", "activity", "pool"):
        op.drop_column("workers", column)
    op.drop_table("pools")
