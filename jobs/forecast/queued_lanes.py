"""The unfinished jobs of all batches that workers may process, by lane."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.forecast.measured_image_times import EVALUATIONS, OPTIONS, kind_of
from jobs.forecast.work_kinds_and_ranges import WorkKind
from jobs.job_dataclasses import BatchId
from jobs.queue.sql_predicates import IS_LIVE
from jobs.states import OPEN, sql_list

_SAMPLED_JOBS = 100

_QUEUED = text(f"""
    WITH left_over AS (
        SELECT lanes.id, sum(delta) AS jobs FROM lanes
            JOIN job_counts ON job_counts.batch_id = lanes.batch_id AND lane_id = lanes.id
        WHERE {IS_LIVE} AND state IN ({sql_list(OPEN)}) GROUP BY 1 HAVING sum(delta) > 0
    )
    SELECT batch_id, name, priority, "window", not_before, tenant, model, mode, lora, width, height, upscale, {OPTIONS},
        CAST(left_over.jobs AS bigint) AS jobs, (
            SELECT {EVALUATIONS} FROM (
                SELECT steps, strength, guidance_scale FROM jobs
                WHERE lane_id BETWEEN lanes.id AND lanes.id AND state = 'queued' AND jobs.not_before IS NULL
                  AND jobs.id > low_watermark
                ORDER BY lane_id, jobs.id LIMIT {_SAMPLED_JOBS}) AS waiting HAVING count(*) > 0) AS evaluations
    FROM left_over JOIN lanes USING (id) JOIN batches ON batches.id = batch_id
    WHERE paused_at IS NULL AND cancelled_at IS NULL AND archived_at IS NULL ORDER BY lanes.id
""")

_WEIGHTS = text("SELECT name, weight FROM tenants")


@dataclass(frozen=True, slots=True)
class QueuedLane:
    """The unfinished jobs of a lane, and when and in which order they may be processed.

    `evaluations` are the mean evaluations of the UNet for a job, None if not known; `batch` None: not submitted yet.
    """

    batch: BatchId | None
    name: str
    tenant: str
    kind: WorkKind
    jobs: int
    evaluations: float | None
    priority: int
    window: str | None
    not_before: datetime | None


def queued_lanes(engine: Engine, without: BatchId | None = None) -> list[QueuedLane]:
    """Return the lanes with unfinished jobs of batches that aren't paused, the batch `without` left out."""
    return [
        QueuedLane(
            row.batch_id,
            row.name,
            row.tenant,
            kind_of(row),
            row.jobs,
            None if row.evaluations is None else float(row.evaluations),
            row.priority,
            row.window,
            row.not_before,
        )
        for row in run(engine, _QUEUED, {})
        if row.batch_id != without
    ]


def tenant_weights(engine: Engine) -> dict[str, int]:
    """Return the weights of tenants that have other ones than 1."""
    return {row.name: row.weight for row in run(engine, _WEIGHTS, {})}
