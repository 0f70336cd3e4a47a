"""The table of workers: each one's pool, what it is doing and since when, and the models that it holds."""

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.metadata import version
from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.job_dataclasses import LaneId
from jobs.queue.sql_predicates import IS_DRAINED_WORKER, IS_LIVE, IS_TARGET
from jobs.queue.worker_health_reports import SEEN_S
from jobs.states import WorkerActivity, WorkerState

RATE_S = 120
"""Over how many seconds a worker's images are counted for its pace."""

_REPORT = text(f"""
    INSERT INTO workers (name, device, pool, activity, activity_since, lane_id, warm_models, version)
    VALUES (:worker, :device, :pool, :activity, now(), CAST(:lane AS bigint), CAST(:warm_models AS text[]), :version)
    ON CONFLICT (name) DO UPDATE SET seen_at = now(), activity = excluded.activity, lane_id = excluded.lane_id,
        warm_models = excluded.warm_models, version = excluded.version, activity_since = CASE
            WHEN workers.activity = excluded.activity THEN workers.activity_since ELSE excluded.activity_since END
    RETURNING {IS_DRAINED_WORKER} AS is_drained
""")

_FORGET = text("DELETE FROM workers WHERE name = :name RETURNING name")

# Images of batches that have ended longer ago aren't looked through: only those of a batch are indexed by their time.
_LIST = text(f"""
    WITH lately AS (
        SELECT worker, count(*) AS images FROM images
        WHERE created_at > now() - make_interval(secs => :rate_s) AND batch_id IN (
            SELECT batch_id FROM lanes WHERE {IS_LIVE} OR ended_at > now() - make_interval(secs => :rate_s))
        GROUP BY 1
    )
    SELECT workers.name, device, pool, workers.state, activity, activity_since, reason, since, workers.started_at,
        seen_at, stored_at, warm_models, version, workers.lane_id AS lane, batches.name AS batch, lanes.model,
        coalesce(images, 0) / greatest(
            1, least(:rate_s, extract(epoch FROM now() - workers.started_at)::float)) AS images_per_s,
        seen_at < now() - make_interval(secs => :seen_s) AS is_lost,
        CASE WHEN version IS NOT NULL THEN (
            SELECT min(since) FROM worker_drains WHERE {IS_TARGET.format("workers.name")}) END AS drained_since
    FROM workers LEFT JOIN lately ON lately.worker = workers.name
        LEFT JOIN lanes ON lanes.id = workers.lane_id LEFT JOIN batches ON batches.id = lanes.batch_id
    ORDER BY pool, workers.name
""")

DRAINED = "drained"
"""A worker that an operator has drained and that has finished what it was at."""

AT_WORK = (WorkerActivity.BUSY, WorkerActivity.DRAINING)
"""Activities of workers that may hold jobs."""

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
    """A worker as it last reported; `batch` and `model` are those of the lane that it is busy with.

    `images_per_s` are those that it stored within the last RATE_S seconds, or since it started.
    """

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
    version: str | None
    lane: int | None
    batch: str | None
    model: str | None
    images_per_s: float
    is_lost: bool
    drained_since: datetime | None
    """When an operator drained it or its host; None also for a worker of a version that doesn't look for that."""

    @property
    def host(self) -> str:
        """The host that it is on, by its name."""
        return self.name.rpartition(":")[0]

    @property
    def shown_state(self) -> str:
        """`lost`, `draining`, `drained`, `unhealthy` or what it is doing; `healthy` for one of an earlier version."""
        if self.is_lost:
            return LOST
        if self.drained_since is not None:
            return WorkerActivity.DRAINING if self.activity in AT_WORK else DRAINED
        return self.state if self.state == WorkerState.UNHEALTHY else self.activity or self.state

    @property
    def shown_since(self) -> datetime:
        """Since when it has been in `shown_state`."""
        if self.is_lost:
            return self.seen_at
        if self.drained_since is not None:
            began = self.activity_since if self.shown_state == DRAINED else None
            return max(self.drained_since, began or self.drained_since)
        return (self.since if self.state == WorkerState.UNHEALTHY else self.activity_since) or self.started_at

    def report(self) -> dict[str, Any]:
        """Return the values that `workers --json` prints."""
        return {
            "worker": self.name,
            "host": self.host,
            "device": self.device,
            "pool": self.pool,
            "state": self.shown_state,
            "since": self.shown_since.isoformat(),
            "reason": self.reason,
            "lane": self.lane,
            "batch": self.batch,
            "model": self.model,
            "images_per_s": round(float(self.images_per_s), 3),
            "warm_models": self.warm_models,
            "version": self.version,
            "started_at": self.started_at.isoformat(),
            "seen_at": self.seen_at.isoformat(),
            "stored_at": self.stored_at and self.stored_at.isoformat(),
        }


def report_worker(engine: Engine, report: WorkerReport) -> bool:
    """Write what a worker reports of itself, and that it lives. Returns whether it is drained."""
    (row,) = run(
        engine,
        _REPORT,
        {
            "worker": report.worker,
            "device": report.device,
            "pool": report.pool,
            "activity": report.activity,
            "lane": report.lane,
            "warm_models": sorted(report.warm_models),
            "version": _own_version(),
        },
    )
    return bool(row.is_drained)


def forget_worker(engine: Engine, worker: str) -> None:
    """Delete the worker from the table."""
    run(engine, _FORGET, {"name": worker})


def workers(engine: Engine) -> list[Worker]:
    """Return all workers that reported within the last hour, by pool and name."""
    values = {"seen_s": SEEN_S, "rate_s": RATE_S}
    return [Worker(**row._mapping) for row in run(engine, _LIST, values)]


@cache
def _own_version() -> str:
    return version("nightmill")
