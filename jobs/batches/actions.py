"""Batches: what a person may do to them."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import Engine, text, update

from jobs.batches.policy import SCHEDULE, Policy
from jobs.batches.status import BatchStatus, status, statuses
from jobs.batches.time_windows import span
from jobs.db import schema
from jobs.db.engine import run
from jobs.errors import UsageError
from jobs.job import BatchId, LaneId
from jobs.queue import transitions
from jobs.queue.sql_predicates import IS_LIVE
from jobs.states import RETRYABLE, JobState

__all__ = [
    "BatchStatus",
    "cancel",
    "change",
    "fold_tallies",
    "pause",
    "rejects",
    "reopen",
    "resume",
    "retry",
    "status",
    "statuses",
]

# Looks at what is queued, not at what this retry moved: an earlier one may have been cut off just before this.
_REOPEN = text("""
    UPDATE batches SET cancelled_at = NULL WHERE id = :id AND EXISTS (
        SELECT FROM lanes JOIN jobs ON lane_id = lanes.id WHERE lanes.batch_id = :id AND state = 'queued')
    RETURNING id
""")


def pause(engine: Engine, batch: BatchId) -> None:
    """No more claims; workers stop after the device batch that they are at."""
    run(
        engine,
        text("UPDATE batches SET paused_at = coalesce(paused_at, now()) WHERE id = :id RETURNING id"),
        {"id": batch},
    )


def resume(engine: Engine, batch: BatchId) -> None:
    """Claims again, whatever a canary said."""
    statement = text("""
        UPDATE batches SET paused_at = NULL, stopped_because = NULL,
            canary_verdict = CASE WHEN canary_verdict = 'stopped' THEN 'overruled' ELSE canary_verdict END
        WHERE id = :id RETURNING id
    """)
    run(engine, statement, {"id": batch})


def change(engine: Engine, batch: BatchId, schedule: Mapping[str, Any]) -> None:
    """Give the batch another priority, window, not_before or deadline; workers heed it from their next claim on."""
    values = {key: getattr(Policy.model_validate(dict(schedule)), key) for key in schedule if key in SCHEDULE}
    if "window" in values:
        values["opens_at"], values["closes_at"] = span(values["window"], datetime.now(UTC))
    batches = schema.batches
    run(engine, update(batches).where(batches.c.id == batch).values(values).returning(batches.c.id), {})


def cancel(engine: Engine, batch: BatchId) -> int:
    """End all jobs that aren't finished; returns how many were cancelled. Images that are done stay."""
    run(
        engine,
        text("UPDATE batches SET cancelled_at = coalesce(cancelled_at, now()) WHERE id = :id RETURNING id"),
        {"id": batch},
    )
    return sum(_until_none(partial(transitions.cancel, engine, lane)) for lane in _lanes(engine, batch))


def retry(
    engine: Engine, batch: BatchId, states: Sequence[JobState] = RETRYABLE, kind: str | None = None
) -> int:
    """Queue jobs without an image again, `kind` narrowing to one error; returns how many. Ends a cancellation.

    Raises UsageError where the batch is archived.
    """
    queued = _until_none(lambda: transitions.retry(engine, batch, states, kind))
    if not queued:
        _check_is_kept(engine, batch)
    reopen(engine, batch)
    return queued


def reopen(engine: Engine, batch: BatchId) -> None:
    """End a cancellation where jobs are queued again."""
    run(engine, _REOPEN, {"id": batch})


def rejects(engine: Engine, batch: BatchId) -> list[dict[str, Any]]:
    """The rows of the manifest that could not be used, in its order."""
    statement = text('SELECT line, "column", reason, excerpt FROM rejects WHERE batch_id = :id ORDER BY id')
    return [dict(row._mapping) for row in run(engine, statement, {"id": batch})]


def fold_tallies(engine: Engine, *, limit: int = 10_000) -> int:
    """Replace tally rows by their sums; returns how many rows went. Any number of processes may do it at once.

    Sums that stand alone stay as they are, and so do lanes that ended long ago: nothing is added to them any more.
    """
    statement = text(f"""
        WITH several AS (
            SELECT t.batch_id, lane_id, state
            FROM lanes JOIN tallies AS t ON t.batch_id = lanes.batch_id AND lane_id = lanes.id
            WHERE {IS_LIVE} OR ended_at > now() - interval '1 day'
            GROUP BY 1, 2, 3 HAVING count(*) > 1
        ), folded AS (
            DELETE FROM tallies WHERE id IN (
                SELECT id FROM tallies JOIN several USING (batch_id, lane_id, state)
                ORDER BY id LIMIT :limit FOR UPDATE OF tallies SKIP LOCKED)
            RETURNING *
        ), kept AS (
            INSERT INTO tallies (batch_id, lane_id, state, delta)
            SELECT batch_id, lane_id, state, sum(delta) FROM folded GROUP BY 1, 2, 3 HAVING sum(delta) <> 0
        )
        SELECT id FROM folded
    """)
    return len(run(engine, statement, {"limit": limit}))


def _check_is_kept(engine: Engine, batch: BatchId) -> None:
    statement = text("SELECT name FROM batches WHERE id = :id AND archived_at IS NOT NULL")
    for row in run(engine, statement, {"id": batch}):
        raise UsageError(
            f"batch {row.name} is archived, its jobs are gone: submit its manifest again under another --name"
        )


def _lanes(engine: Engine, batch: BatchId) -> list[LaneId]:
    return [row.id for row in run(engine, text("SELECT id FROM lanes WHERE batch_id = :id"), {"id": batch})]


def _until_none(step: Callable[[], int]) -> int:
    total = 0
    while moved := step():
        total += moved
    return total
