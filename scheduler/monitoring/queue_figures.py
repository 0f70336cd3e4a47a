"""Figures of the queue for Prometheus, by one statement that reads job counts and never the jobs that have ended."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from jobs.batches.eta import LaneWork, finish, seconds_left
from jobs.batches.status import RATE_WINDOW_S
from jobs.monitoring import metrics
from jobs.monitoring.metric_types import Sample
from jobs.queue.sql_predicates import HAS_WORK, IS_DRAINED_WORKER, IS_LIVE, IS_OPEN, IS_PAST_CANARY
from jobs.queue.worker_health_reports import SEEN_S
from jobs.queue.worker_registry import AT_WORK, DRAINED
from jobs.states import OPEN, JobState, WorkerActivity, WorkerState, sql_list

LONGEST_MS = 10_000
"""The statement is cancelled after this time."""

_IN_LANE = "FROM jobs WHERE lane_id BETWEEN lanes.id AND lanes.id AND state = 'queued'"

_FIGURES = text(f"""
    WITH unfinished AS MATERIALIZED (
        SELECT DISTINCT batch_id AS id FROM lanes WHERE {IS_LIVE}
    ), counted AS MATERIALIZED (
        SELECT batch_id, state, sum(delta) AS n FROM job_counts WHERE batch_id IN (SELECT id FROM unfinished)
        GROUP BY 1, 2
    ), remaining AS (
        SELECT batch_id FROM counted WHERE state IN ({sql_list(OPEN)}) GROUP BY 1 HAVING sum(n) > 0
    ), shown AS MATERIALIZED (
        SELECT * FROM batches WHERE id IN (SELECT batch_id FROM remaining)
        ORDER BY paused_at IS NULL AND cancelled_at IS NULL DESC, priority DESC, id LIMIT :most
    ), lane AS (
        SELECT lanes.batch_id, image_s, sum(delta) AS remaining,
            coalesce(sum(delta) FILTER (WHERE state = 'running'), 0) AS running
        FROM lanes JOIN job_counts ON job_counts.batch_id = lanes.batch_id AND lane_id = lanes.id
        WHERE {IS_LIVE} AND state IN ({sql_list(OPEN)}) AND lanes.batch_id IN (SELECT id FROM shown)
        GROUP BY lanes.id HAVING sum(delta) > 0
    ), lately AS (
        SELECT batch_id, count(*) / greatest(extract(epoch FROM now() - min(created_at)), 0.1) AS images_per_s
        FROM images WHERE created_at > now() - make_interval(secs => :rate_s)
          AND batch_id IN (SELECT id FROM shown) GROUP BY 1
    ), claimable AS (
        SELECT chosen_at, greatest(created_at, batches.not_before, opens_at) AS since,
            CASE WHEN {IS_PAST_CANARY} THEN (
                SELECT id {_IN_LANE} AND jobs.not_before IS NULL AND id > low_watermark ORDER BY lane_id, id LIMIT 1
            ) IS NOT NULL END AS has_fresh,
            (SELECT jobs.not_before {_IN_LANE} AND jobs.not_before <= now()
             ORDER BY lane_id, jobs.not_before, jobs.id LIMIT 1) AS due_since
        FROM lanes JOIN batches ON batches.id = batch_id WHERE {IS_LIVE} AND {IS_OPEN} AND {HAS_WORK}
    ), writing AS (
        SELECT min(xact_start) AS since FROM pg_stat_activity WHERE backend_xid IS NOT NULL
        UNION ALL SELECT min(prepared) FROM pg_prepared_xacts
    ), live AS (
        SELECT pool, CASE WHEN is_drained AND activity = ANY (CAST(:at_work AS text[])) THEN 'draining'
                WHEN is_drained THEN '{DRAINED}'
                WHEN state = 'unhealthy' THEN state ELSE coalesce(activity, 'idle') END AS state,
            count(*) AS n, count(*) FILTER (WHERE NOT is_drained) AS available
        FROM workers, LATERAL (SELECT {IS_DRAINED_WORKER} AS is_drained) AS d
        WHERE seen_at > now() - make_interval(secs => :seen_s) GROUP BY 1, 2
    )
    SELECT now() AS now, (SELECT count(*) FROM remaining) AS unfinished,
        (SELECT jsonb_object_agg(state, n) FROM (SELECT state, sum(n) AS n FROM counted GROUP BY 1) AS s) AS jobs,
        (SELECT jsonb_agg(jsonb_build_array(pool, state, n)) FROM live) AS workers,
        (SELECT coalesce(sum(available), 0) FROM live) AS available,
        (SELECT jsonb_object_agg(name, nightmill_wanted_workers(name)) FROM pools) AS wanted,
        (SELECT extract(epoch FROM now() - min(
            CASE WHEN has_fresh THEN since ELSE greatest(since, due_since) END)) FROM claimable) AS oldest_s,
        (SELECT extract(epoch FROM now() - min(greatest(since, chosen_at))) FROM claimable) AS wait_s,
        (SELECT count(*) FROM lanes WHERE {IS_LIVE} AND NOT EXISTS (
            SELECT FROM pools WHERE models IS NULL OR lanes.model = ANY (models))) AS unserved,
        (SELECT extract(epoch FROM clock_timestamp() - min(since)) FROM writing) AS lag_s,
        (SELECT jsonb_agg(jsonb_build_object('name', name, 'deadline', extract(epoch FROM deadline),
            'is_stopped', paused_at IS NOT NULL OR cancelled_at IS NOT NULL, 'window', "window",
            'not_before', not_before,
            'counts', (SELECT jsonb_object_agg(state, n) FROM counted WHERE batch_id = shown.id),
            'images_per_s', (SELECT images_per_s FROM lately WHERE batch_id = shown.id),
            'work', (SELECT jsonb_agg(jsonb_build_array(remaining, running, image_s)) FROM lane
                     WHERE batch_id = shown.id))) FROM shown) AS batches
""")  # noqa: S608 - put together from constants of ours

_LIMIT = text(f"SET LOCAL statement_timeout = {LONGEST_MS}")


def queue_figures(engine: Engine) -> list[Sample]:
    """Return the figures of the queue; raises SQLAlchemyError if PostgreSQL doesn't answer."""
    try:
        return list(_samples(_look(engine)))
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
    return list(_samples(_look(engine)))  # only the connection of the last time was broken


def _look(engine: Engine) -> Any:
    values = {
        "most": metrics.MOST_BATCHES,
        "rate_s": RATE_WINDOW_S,
        "seen_s": SEEN_S,
        "at_work": list(AT_WORK),
    }
    with engine.begin() as connection:
        connection.execute(_LIMIT)
        return connection.execute(_FIGURES, values).one()


def _samples(row: Any) -> Iterator[Sample]:
    yield metrics.DATABASE_UP.sample(1)
    yield metrics.UNFINISHED_BATCHES.sample(row.unfinished)
    jobs = row.jobs or {}
    for state in JobState:
        yield metrics.JOBS.sample(jobs.get(state, 0), state)
    yield from _worker_samples(row)
    yield metrics.OLDEST_CLAIMABLE.sample(max(0, row.oldest_s or 0))
    yield metrics.LANE_WAIT.sample(max(0, row.wait_s or 0))
    yield metrics.UNSERVED_LANES.sample(row.unserved)
    yield metrics.FEED_LAG.sample(max(0, row.lag_s or 0))
    for batch in row.batches or ():
        yield from _batch_samples(batch, row.now, int(row.available))


def _worker_samples(row: Any) -> Iterator[Sample]:
    counts = {(pool, state): count for pool, state, count in row.workers or ()}
    pools = {*row.wanted, *(pool for pool, _ in counts)}
    for pool in sorted(pools):
        for state in (*WorkerActivity, DRAINED, WorkerState.UNHEALTHY):
            yield metrics.WORKERS.sample(counts.get((pool, state), 0), pool, state)
    for pool, wanted in row.wanted.items():
        yield metrics.WANTED_WORKERS.sample(wanted, pool)


def _batch_samples(batch: Mapping[str, Any], now: datetime, workers: int) -> Iterator[Sample]:
    name = batch["name"]
    for state in JobState:
        yield metrics.BATCH_JOBS.sample(batch["counts"].get(state, 0), name, state)
    if batch["deadline"] is not None:
        yield metrics.BATCH_DEADLINE.sample(batch["deadline"], name)
    if (end := _end(batch, now, workers)) is not None:
        yield metrics.BATCH_ETA.sample((end - now).total_seconds(), name)


def _end(batch: Mapping[str, Any], now: datetime, workers: int) -> datetime | None:
    """Return when the batch is expected to be finished, as `status` tells it; None if that is unknown."""
    if batch["is_stopped"]:
        return None
    lanes = [LaneWork(int(left), int(running), image_s) for left, running, image_s in batch["work"] or ()]
    left_s = seconds_left(lanes, float(batch["images_per_s"] or 0), workers)
    not_before = batch["not_before"] and datetime.fromisoformat(batch["not_before"])
    return None if left_s is None else finish(left_s, now, not_before, batch["window"])
