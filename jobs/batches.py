"""Batches: how they stand, and what a person may do to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from functools import partial
from typing import Any

from sqlalchemy import Engine, text

from jobs import queue
from jobs.database import run
from jobs.errors import UsageError
from jobs.job import BatchId, LaneId
from jobs.states import RETRYABLE, BatchState, JobState

RATE_WINDOW_S = 60

_STATUS = text("""
    SELECT b.id, b.name, b.manifest, b.output, b.rows, b.rejected, b.jobs, b.created_at, b.paused_at, b.cancelled_at,
        coalesce((
            SELECT jsonb_object_agg(state, total) FROM (
                SELECT state, sum(delta) AS total FROM tallies WHERE batch_id = b.id GROUP BY state) AS t
        ), '{}') AS counts,
        (SELECT count(*) / greatest(extract(epoch FROM now() - min(created_at)), 0.1) FROM images
         WHERE batch_id = b.id AND created_at > now() - make_interval(secs => :window)) AS images_per_s
    FROM batches b WHERE CAST(:name AS text) IS NULL OR name = :name ORDER BY b.id
""")

# Looks at what is queued, not at what this retry moved: an earlier one may have been cut off just before this.
_REOPEN = text("""
    UPDATE batches SET cancelled_at = NULL WHERE id = :id AND EXISTS (
        SELECT FROM lanes JOIN jobs ON lane_id = lanes.id WHERE lanes.batch_id = :id AND state = 'queued')
    RETURNING id
""")


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """Where a batch stands; `images_per_s` is over the last minute, `eta_s` None while nothing moves."""

    id: BatchId
    name: str
    state: BatchState
    counts: dict[str, int]
    rows: int
    rejected: int
    images_per_s: float
    eta_s: float | None
    manifest: str
    output: str
    created_at: datetime

    @property
    def remaining(self) -> int:
        """Jobs that are neither done nor ended otherwise."""
        return self.counts["queued"] + self.counts["running"]

    def report(self) -> dict[str, Any]:
        """As `status --json` prints it."""
        return {
            "batch": self.id,
            "name": self.name,
            "state": self.state,
            "counts": self.counts,
            "rejected": self.rejected,
            "images_per_s": round(self.images_per_s, 3),
            "eta_s": self.eta_s and round(self.eta_s, 1),
            "rows": self.rows,
            "manifest": self.manifest,
            "output": self.output,
            "created_at": self.created_at.isoformat(),
        }


def statuses(engine: Engine) -> list[BatchStatus]:
    """All batches, oldest first."""
    return [_status(row) for row in run(engine, _STATUS, {"name": None, "window": RATE_WINDOW_S})]


def status(engine: Engine, batch: str) -> BatchStatus:
    """One batch by name or id; UsageError with near names if there is none."""
    rows = run(engine, _STATUS, {"name": _name_of(engine, batch), "window": RATE_WINDOW_S})
    return _status(rows[0])


def pause(engine: Engine, batch: BatchId) -> None:
    """No more claims; workers stop after the device batch that they are at."""
    run(
        engine,
        text("UPDATE batches SET paused_at = coalesce(paused_at, now()) WHERE id = :id RETURNING id"),
        {"id": batch},
    )


def resume(engine: Engine, batch: BatchId) -> None:
    """Claims again."""
    run(engine, text("UPDATE batches SET paused_at = NULL WHERE id = :id RETURNING id"), {"id": batch})


def cancel(engine: Engine, batch: BatchId) -> int:
    """End all jobs that aren't finished; returns how many were cancelled. Images that are done stay."""
    run(
        engine,
        text("UPDATE batches SET cancelled_at = coalesce(cancelled_at, now()) WHERE id = :id RETURNING id"),
        {"id": batch},
    )
    return sum(_until_none(partial(queue.cancel, engine, lane)) for lane in _lanes(engine, batch))


def retry(
    engine: Engine, batch: BatchId, states: Sequence[JobState] = RETRYABLE, kind: str | None = None
) -> int:
    """Queue jobs without an image again, `kind` narrowing to one error; returns how many. Ends a cancellation."""
    queued = _until_none(lambda: queue.retry(engine, batch, states, kind))
    run(engine, _REOPEN, {"id": batch})
    return queued


def rejects(engine: Engine, batch: BatchId) -> list[dict[str, Any]]:
    """The rows of the manifest that could not be used, in its order."""
    statement = text('SELECT line, "column", reason, excerpt FROM rejects WHERE batch_id = :id ORDER BY id')
    return [dict(row._mapping) for row in run(engine, statement, {"id": batch})]


def failures(engine: Engine, batch: BatchId, *, limit: int = 20) -> list[dict[str, Any]]:
    """The first jobs that ended failed or blocked, with why."""
    statement = text("""
        SELECT id AS job, ordinal, row_id, state, attempt, error_kind, error_text, left(prompt, 200) AS prompt,
            init_image FROM jobs
        WHERE batch_id = :id AND state IN ('failed', 'blocked') ORDER BY id LIMIT :limit
    """)
    return [dict(row._mapping) for row in run(engine, statement, {"id": batch, "limit": limit})]


def fold_tallies(engine: Engine, *, limit: int = 10_000) -> int:
    """Replace tally rows by their sums; returns how many rows went. Any number of processes may do it at once."""
    statement = text("""
        WITH folded AS (
            DELETE FROM tallies WHERE id IN (SELECT id FROM tallies ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED)
            RETURNING *
        ), kept AS (
            INSERT INTO tallies (batch_id, lane_id, state, delta)
            SELECT batch_id, lane_id, state, sum(delta) FROM folded GROUP BY 1, 2, 3 HAVING sum(delta) <> 0
        )
        SELECT id FROM folded
    """)
    return len(run(engine, statement, {"limit": limit}))


def _name_of(engine: Engine, batch: str) -> str:
    names: dict[str, str] = {}
    rows = run(engine, text("SELECT id, name FROM batches ORDER BY id"), {})
    names |= {row.name: row.name for row in rows}
    names |= {str(row.id): row.name for row in rows if str(row.id) not in names}
    if batch not in names:
        near = get_close_matches(batch, names, 1)
        hint = f"did you mean {near[0]!r}?" if near else "`nightmill status` lists those there are"
        raise UsageError(f"no batch {batch!r}: {hint}")
    return names[batch]


def _lanes(engine: Engine, batch: BatchId) -> list[LaneId]:
    return [row.id for row in run(engine, text("SELECT id FROM lanes WHERE batch_id = :id"), {"id": batch})]


def _until_none(step: Callable[[], int]) -> int:
    total = 0
    while moved := step():
        total += moved
    return total


def _status(row: Any) -> BatchStatus:
    counts = {state.value: int(row.counts.get(state, 0)) for state in JobState}
    remaining = counts["queued"] + counts["running"]
    rate = float(row.images_per_s or 0)
    return BatchStatus(
        id=row.id,
        name=row.name,
        state=_state(row, counts, remaining),
        counts=counts,
        rows=row.rows,
        rejected=row.rejected,
        images_per_s=rate,
        eta_s=0.0 if remaining == 0 else (remaining / rate if rate else None),
        manifest=row.manifest,
        output=row.output,
        created_at=row.created_at,
    )


def _state(row: Any, counts: dict[str, int], remaining: int) -> BatchState:
    if row.cancelled_at and (remaining or counts["cancelled"]):
        return BatchState.CANCELLED
    if remaining == 0:
        return BatchState.DONE
    if row.paused_at:
        return BatchState.PAUSED
    return BatchState.RUNNING if counts["running"] else BatchState.QUEUED
