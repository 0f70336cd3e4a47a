"""The table of workers: each one's pool, what it is doing and since when, and the models that it holds."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.job_dataclasses import LaneId
from jobs.queue.worker_health_reports import SEEN_S
from jobs.states import WorkerActivity, WorkerState

_REPORT = text("""
    INSERT INTO workers (name, device, pool, activity, activity_since, lane_id, warm_models)
    VALUES (:worker, :device, :pool, :activity, now(), CAST(:lane AS bigint), CAST(:warm_models AS text[]))
    ON CONFLICT (name) DO UPDATE SET seen_at = now(), activity = excluded.activity, lane_id = excluded.lane_id,
        warm_models = excluded.warm_models, activity_since = CASE
            WHEN workers.activity = excluded.activity THEN workers.activity_since ELSE excluded.activity_since END
    RETURNING name
""")

_FORGET = text("DELETE FROM workers WHERE name = :name RETURNING name")

_LIST = text("""
    SELECT w.name, w.device, w.pool, w.state, w.activity, w.activity_since, w.reason, w.since, w.started_at, w.seen_at,
        w.stored_at, w.warm_models, b.name AS batch, l.model,
        w.seen_at < now() - make_interval(secs => :seen_s) AS is_lost
    FROM workers w LEFT JOIN lanes l ON l.id = w.lane_id LEFT JOIN batches b ON b.id = l.batch_id
    ORDER BY w.pool, w.name
""")

LOST = "lost"
"""A worker that has not reported for SEEN_S seconds: its process or host is gone, or it can't reach PostgreSQL."""


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker reports of itself; `lane` is that of a busy worker, `warm_models` are the models that it holds."""

    worker: str
    device: str
    pool: str
    activity: WorkerActivity = WorkerActivity.STARTING
    lane: LaneId | None = None
    warm_models: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as it last reported; `batch` and `model` are those of the lane that it is busy with."""

    name: str
    device: str
    pool: str
    state: str
    activity: str | None
    activity_since: datetime | None
    reason: str | None
    since: datetime | None
    started_at: datetime
    seen_at: datetime
    stored_at: datetime | None
    warm_models: list[str]
    batch: str | None
    model: str | None
    is_lost: bool

    @property
    def shown_state(self) -> str:
        """`lost`, `unhealthy` or what it is doing; `healthy` for a worker of an earlier version."""
        if self.is_lost:
            return LOST
        return self.state if self.state == WorkerState.UNHEALTHY else self.activity or self.state

    @property
    def shown_since(self) -> datetime:
        """Since when it has been in `shown_state`."""
        if self.is_lost:
            return self.seen_at
        return (self.since if self.state == WorkerState.UNHEALTHY else self.activity_since) or self.started_at

    def report(self) -> dict[str, Any]:
        """Return the values that `workers --json` prints."""
        return {
            "worker": self.name,
            "host": self.name.rpartition(":")[0],
            "device": self.device,
            "pool": self.pool,
            "state": self.shown_state,
            "since": self.shown_since.isoformat(),
            "reason": self.reason,
            "batch": self.batch,
            "model": self.model,
            "warm_models": self.warm_models,
            "started_at": self.started_at.isoformat(),
            "seen_at": self.seen_at.isoformat(),
            "stored_at": self.stored_at and self.stored_at.isoformat(),
        }


def report_worker(engine: Engine, report: WorkerReport) -> None:
    """Write what a worker reports of itself, and that it lives."""
    run(
        engine,
        _REPORT,
        {
            "worker": report.worker,
            "device": report.device,
            "pool": report.pool,
            "activity": report.activity,
            "lane": report.lane,
            "warm_models": sorted(report.warm_models),
        },
    )


def forget_worker(engine: Engine, worker: str) -> None:
    """Delete the worker from the table."""
    run(engine, _FORGET, {"name": worker})


def workers(engine: Engine) -> list[Worker]:
    """Return all workers that reported within the last hour, by pool and name."""
    return [Worker(**row._mapping) for row in run(engine, _LIST, {"seen_s": SEEN_S})]
