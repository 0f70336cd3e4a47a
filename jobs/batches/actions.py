"""Actions on batches: pause, resume, reschedule, cancel, retry; also the folding of job count rows."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Engine, text

from jobs.batches.record_batch_end_events import record_batch_events
from jobs.batches.status import BatchStatus, status, statuses
from jobs.db.engine import run, transact
from jobs.errors import UsageError
from jobs.job_dataclasses import BatchId, LaneId
from jobs.policy.change_policy import change_policy
from jobs.queue import transitions
from jobs.queue.pauses import pause, resume
from jobs.queue.sql_predicates import HAS_OPEN_JOBS, IS_LIVE
from jobs.states import RETRYABLE, JobState

__all__ = [
    "BatchStatus",
    "cancel",
    "change",
    "fold_job_counts",
    "pause",
    "rejects",
    "reopen",
    "resume",
    "retry",
    "retry_retracted",
    "status",
    "statuses",
    "why_archived",
]

# Checks for queued jobs instead of the jobs of this retry: an earlier retry may have been interrupted before this step.
_REOPEN = text("""
    UPDATE batches SET cancelled_at = NULL WHERE id = :id AND EXISTS (
        SELECT FROM lanes JOIN jobs ON lane_id = lanes.id WHERE lanes.batch_id = :id AND state = 'queued')
    RETURNING id
""")


# Not of a batch that has ended, unless replacements for its target may be queued: nothing of it is left to cancel.
_MARK_CANCELLED = text(f"""
    UPDATE batches SET cancelled_at = coalesce(cancelled_at, now())
    WHERE id = :id AND (policy ? 'target' OR EXISTS (SELECT FROM lanes WHERE batch_id = batches.id AND {HAS_OPEN_JOBS}))
    RETURNING id
""")


def change(engine: Engine, batch: BatchId, changes: Mapping[str, Any]) -> None:
    """Change keys of the batch's policy; the schedule is effective from the workers' next claim on.

    Raises UsageError if the policy as a whole would be wrong.
    """
    transact(engine, lambda connection: change_policy(connection, batch, changes))


def cancel(engine: Engine, batch: BatchId) -> int:
    """Cancel all unfinished jobs of the batch; returns the number cancelled. Finished images are kept."""
    run(engine, _MARK_CANCELLED, {"id": batch})
    cancelled = sum(_until_none(partial(transitions.cancel, engine, lane)) for lane in _lanes(engine, batch))
    record_batch_events(engine)
    return cancelled


def retry(
    engine: Engine,
    batch: BatchId,
    states: Sequence[JobState] = RETRYABLE,
    kind: str | None = None,
    *,
    same_seed: bool = False,
) -> int:
    """Queue jobs again that ended without an image, optionally of one error `kind` only; returns the number queued.

    Blocked ones get another seed, unless `same_seed`. Ends a cancellation. Raises UsageError if the batch is archived.
    """
    queued = _until_none(lambda: transitions.retry(engine, batch, states, kind, same_seed=same_seed))
    if not queued:
        _check_is_kept(engine, batch)
    reopen(engine, batch)
    record_batch_events(engine)
    return queued


def retry_retracted(engine: Engine, batch: BatchId) -> int:
    """Queue jobs again whose images were retracted; returns the number queued. See `retry`."""
    queued = _until_none(lambda: transitions.retry_retracted(engine, batch))
    if not queued:
        _check_is_kept(engine, batch)
    reopen(engine, batch)
    record_batch_events(engine)
    return queued


def reopen(engine: Engine, batch: BatchId) -> None:
    """End the batch's cancellation if it has queued jobs again."""
    run(engine, _REOPEN, {"id": batch})


def rejects(engine: Engine, batch: BatchId) -> list[dict[str, Any]]:
    """Return the rejected rows of the manifest, in its order."""
    statement = text('SELECT line, "column", reason, excerpt FROM rejects WHERE batch_id = :id ORDER BY id')
    return [dict(row._mapping) for row in run(engine, statement, {"id": batch})]


def fold_job_counts(engine: Engine, *, limit: int = 10_000) -> int:
    """Replace the rows of `job_counts` by their sums; returns the number of rows replaced. Safe to run concurrently.

    Sums with a single row are left alone, and so are lanes that ended more than a day ago, to which nothing is added.
    """
    statement = text(f"""
        WITH several AS (
            SELECT t.batch_id, lane_id, state
            FROM lanes JOIN job_counts AS t ON t.batch_id = lanes.batch_id AND lane_id = lanes.id
            WHERE {IS_LIVE} OR ended_at > now() - interval '1 day'
            GROUP BY 1, 2, 3 HAVING count(*) > 1
        ), folded AS (
            DELETE FROM job_counts WHERE id IN (
                SELECT id FROM job_counts JOIN several USING (batch_id, lane_id, state)
                ORDER BY id LIMIT :limit FOR UPDATE OF job_counts SKIP LOCKED)
            RETURNING *
        ), kept AS (
            INSERT INTO job_counts (batch_id, lane_id, state, delta)
            SELECT batch_id, lane_id, state, sum(delta) FROM folded GROUP BY 1, 2, 3 HAVING sum(delta) <> 0
        )
        SELECT id FROM folded
    """)
    return len(run(engine, statement, {"limit": limit}))


def _check_is_kept(engine: Engine, batch: BatchId) -> None:
    statement = text("SELECT name FROM batches WHERE id = :id AND archived_at IS NOT NULL")
    for row in run(engine, statement, {"id": batch}):
        raise UsageError(why_archived(row.name))


def why_archived(name: str) -> str:
    """Return why nothing of an archived batch can be queued again."""
    return f"batch {name} is archived, its jobs are gone: submit its manifest again under another --name"


def _lanes(engine: Engine, batch: BatchId) -> list[LaneId]:
    return [row.id for row in run(engine, text("SELECT id FROM lanes WHERE batch_id = :id"), {"id": batch})]


def _until_none(step: Callable[[], int]) -> int:
    total = 0
    while moved := step():
        total += moved
    return total
