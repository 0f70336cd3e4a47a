"""Jobs that ended without an image since a moment: counted by kind of error, and listed."""

from datetime import datetime
from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.queue.sql_predicates import in_quarantine
from jobs.states import WITH_ERROR, ErrorKind, EventKind, JobState, sql_list

# Attempts rather than jobs: they have an index by time. The last attempt of a job, if it ended the job. Attempts of
# archived jobs are gone: these count from the end of their batch on.
_ENDED = f"""
    ended AS (
        SELECT a.id, a.error_kind, j.state, b.name AS batch, j.id AS job, j.ordinal, j.row_id, a.error_text, a.worker,
            a.ended_at, left(j.prompt, 200) AS prompt, q.key AS quarantined
        FROM attempts a JOIN jobs j ON j.id = a.job_id AND j.attempt = a.attempt
            AND (a.outcome = j.state OR a.outcome = 'expired' AND j.state = 'failed')
        JOIN lanes l ON l.id = j.lane_id JOIN batches b ON b.id = j.batch_id
        LEFT JOIN quarantined_images q ON {in_quarantine("j")}
        WHERE a.ended_at >= :since AND a.outcome IN ('failed', 'blocked', 'expired')
          AND (CAST(:tenant AS text) IS NULL OR l.tenant = :tenant)
          AND (CAST(:kind AS text) IS NULL OR a.error_kind = :kind)
        UNION ALL
        SELECT 0, r.error_kind, r.state, b.name, r.job_id, r.ordinal, r.row_id, r.error_text, NULL, b.ended_at, '',
            CASE WHEN r.state = '{JobState.BLOCKED}' THEN (
                SELECT detail ->> 'quarantined' FROM events
                WHERE events.batch_id = r.batch_id AND events.ordinal = r.ordinal AND events."index" = r."index"
                  AND events.kind = '{EventKind.BLOCKED}' ORDER BY events.id DESC LIMIT 1) END
        FROM archived_jobs r JOIN batches b ON b.id = r.batch_id
        WHERE b.ended_at >= :since AND r.state IN ({sql_list(WITH_ERROR)})
          AND (CAST(:tenant AS text) IS NULL OR EXISTS (
            SELECT FROM lanes WHERE lanes.batch_id = b.id AND lanes.tenant = :tenant))
          AND (CAST(:kind AS text) IS NULL OR r.error_kind = :kind)
    )"""

_KINDS = text(f"""
    WITH {_ENDED}, ranked AS (
        SELECT *, row_number() OVER (PARTITION BY error_kind, state ORDER BY id DESC, job DESC) AS place FROM ended
    )
    SELECT error_kind, state, count(*) AS jobs, array_agg(DISTINCT batch) AS batches,
        max(job) FILTER (WHERE place = 1) AS example_job, max(error_text) FILTER (WHERE place = 1) AS example
    FROM ranked GROUP BY 1, 2 ORDER BY state DESC, jobs DESC, error_kind
""")

_LIST = text(f"""
    WITH {_ENDED}
    SELECT batch, job, ordinal, row_id, state, error_kind, error_text, worker, ended_at, prompt,
        quarantined
    FROM ended ORDER BY id DESC, job DESC LIMIT :limit
""")

_OVERFLOW = "overflow in half precision? a wider one in the model's card, or another sampler"
ADVICE = {
    ErrorKind.OUT_OF_MEMORY: "a lower NIGHTMILL_BATCH_SIZE, or submit with --set weights=fp8",
    ErrorKind.NOT_FINITE: _OVERFLOW,
    ErrorKind.BLACK: _OVERFLOW,
    ErrorKind.SAFETY: "`retry BATCH --only blocked` takes new seeds",
    ErrorKind.WATERMARK: "the file can't hold the mark: less compression, larger, or what the text says of `watermark`",
    ErrorKind.OBJECT_STORE: "`doctor` checks the output; then `retry BATCH --only io`",
    ErrorKind.MODEL: "is the model on that worker? `models` lists those there are",
    ErrorKind.BAD_INPUT: "correct these rows, then `submit MANIFEST --onto BATCH`",
    ErrorKind.CRASH: "workers died with them: out of memory? the host's log says so; then `retry`",
    ErrorKind.EXCEPTION: "the worker's log has more; then `retry`",
}
"""What to do about failures of a kind."""


def failure_kinds_since(
    engine: Engine, since: datetime, tenant: str | None = None, kind: str | None = None
) -> list[dict[str, Any]]:
    """Count jobs that failed for good or were blocked since then, by kind, failed ones first; with the last one's text.

    Jobs that were queued again meanwhile don't count.
    """
    rows = run(engine, _KINDS, {"since": since, "tenant": tenant, "kind": kind})
    return [dict(row._mapping) | {"advice": ADVICE[ErrorKind(row.error_kind)]} for row in rows]


def failures_since(
    engine: Engine, since: datetime, tenant: str | None = None, kind: str | None = None, *, limit: int = 20
) -> list[dict[str, Any]]:
    """Return jobs that failed for good or were blocked since then, in any batch, the last one first."""
    values = {"since": since, "tenant": tenant, "kind": kind, "limit": limit}
    return [dict(row._mapping) for row in run(engine, _LIST, values)]
