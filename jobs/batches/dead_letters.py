"""Dead letters: jobs that ended without an image, each with the history of its attempts."""

from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.job_dataclasses import BatchId
from jobs.queue.sql_predicates import in_quarantine
from jobs.states import WITH_ERROR, EventKind, JobState, sql_list

# The last event of a blocked job, which outlives the job, has the scores of its image; none if the prompt was blocked.
# It has the key in quarantine, too: `quarantined_images` may still have that of an earlier block of an archived job.
_BLOCKED_DETAIL = f"""
    CASE WHEN state = '{JobState.BLOCKED}' THEN (
        SELECT detail {{1}} FROM events
        WHERE events.batch_id = {{0}}.batch_id AND events.ordinal = {{0}}.ordinal AND events."index" = {{0}}."index"
          AND events.kind = '{EventKind.BLOCKED}' ORDER BY events.id DESC LIMIT 1) END"""

# Of archived jobs, prompts and attempts are gone.
_FAILURES = text(f"""
    SELECT id AS job, ordinal, row_id, state, attempt, error_kind, error_text, left(prompt, 200) AS prompt, init_image,
        {_BLOCKED_DETAIL.format("jobs", "-> 'scores'")} AS scores,
        (SELECT coalesce(jsonb_agg(jsonb_build_object('attempt', attempt, 'worker', worker, 'started_at', started_at,
            'ended_at', ended_at, 'outcome', outcome, 'error_kind', error_kind, 'error_text', error_text)
            ORDER BY attempts.id), '[]') FROM attempts WHERE job_id = jobs.id) AS history,
        q.key AS quarantined
    FROM jobs LEFT JOIN quarantined_images q ON {in_quarantine()}
    WHERE jobs.batch_id = :id AND state IN ({sql_list(WITH_ERROR)})
      AND (CAST(:kind AS text) IS NULL OR error_kind = :kind)
    UNION ALL
    SELECT job_id, ordinal, row_id, state, attempt, error_kind, error_text, '', NULL,
        {_BLOCKED_DETAIL.format("archived_jobs", "-> 'scores'")}, '[]',
        {_BLOCKED_DETAIL.format("archived_jobs", "->> 'quarantined'")}
    FROM archived_jobs
    WHERE archived_jobs.batch_id = :id AND state IN ({sql_list(WITH_ERROR)})
      AND (CAST(:kind AS text) IS NULL OR error_kind = :kind)
    ORDER BY job LIMIT :limit
""")

_KINDS = text(f"""
    SELECT error_kind, state, count(*) AS jobs FROM (
        SELECT error_kind, state FROM jobs WHERE batch_id = :id
        UNION ALL SELECT error_kind, state FROM archived_jobs WHERE batch_id = :id) AS found
    WHERE state IN ({sql_list(WITH_ERROR)}) GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2
""")


def failures(
    engine: Engine, batch: BatchId, kind: str | None = None, *, limit: int = 20
) -> list[dict[str, Any]]:
    """Return the first failed or blocked jobs with their error, and all attempts in `history`, oldest first.

    `scores` are what the safety checker found in the last image of a blocked job; None if its prompt was blocked.
    `quarantined` is the key of the file that is kept of a blocked image.
    """
    return [dict(row._mapping) for row in run(engine, _FAILURES, {"id": batch, "kind": kind, "limit": limit})]


def kinds(engine: Engine, batch: BatchId) -> list[dict[str, Any]]:
    """Count failed and blocked jobs by error: error_kind, state, jobs."""
    return [dict(row._mapping) for row in run(engine, _KINDS, {"id": batch})]
