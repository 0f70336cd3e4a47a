"""Queries that help to decide whether failures are caused by the jobs or by the worker that ran them.

`own` holds the names of a worker process and of its predecessors in the same slot; they don't count as independent
evidence for each other.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.job_dataclasses import JobId, LaneId
from jobs.queue.worker_health_reports import LIVE, SEEN_S

# A worker's failure counts against the job if the worker has stored an image since, or up to 60 s before.
_IS_ABLE = "stored_at > {} - make_interval(secs => 60)"

# Reads at most 1000 images and 1000 attempts.
_PEERS = text(f"""
    WITH made AS (
        SELECT i.worker, count(*) AS stored FROM (
            SELECT job_id, worker FROM images WHERE batch_id = (SELECT batch_id FROM lanes WHERE id = :lane)
              AND created_at > now() - make_interval(secs => :within_s) ORDER BY created_at DESC LIMIT 1000) AS i
        JOIN jobs ON jobs.id = job_id WHERE lane_id = :lane GROUP BY 1
    ), lost AS (
        SELECT a.worker, count(*) AS failed, max(ended_at) AS failed_at FROM (
            SELECT job_id, worker, ended_at FROM attempts WHERE ended_at > now() - make_interval(secs => :within_s)
            ORDER BY id DESC LIMIT 1000) AS a
        JOIN jobs ON jobs.id = job_id WHERE lane_id = :lane GROUP BY 1
    )
    SELECT worker, coalesce(stored, 0) AS stored, coalesce(failed, 0) AS failed,
        coalesce((SELECT {_IS_ABLE.format("failed_at")} FROM workers WHERE name = worker), false) AS is_able
    FROM made FULL JOIN lost USING (worker) WHERE worker <> ALL (CAST(:own AS text[]))
""")

_ABLE = text(f"""
    WITH {LIVE}
    SELECT EXISTS (
        SELECT FROM live WHERE name <> ALL (CAST(:besides AS text[]))
        AND NOT (is_resting OR lane_faults ? CAST(:lane AS text))) AS is_there
""")

_TO_BLAME = text(f"""
    SELECT DISTINCT job_id FROM attempts AS a WHERE job_id = ANY (CAST(:jobs AS bigint[])) AND (
        outcome = 'retried' OR worker <> ALL (CAST(:own AS text[])) AND EXISTS (
            SELECT FROM workers WHERE name = a.worker AND {_IS_ABLE.format("a.ended_at")}))
""")

_RETURNS = text("""
    SELECT coalesce(max(n), 0) AS most, coalesce(extract(epoch FROM now() - min(first)), 0) AS since_s FROM (
        SELECT count(*) AS n, min(ended_at) AS first FROM attempts
        WHERE job_id = ANY (CAST(:jobs AS bigint[])) AND outcome = 'returned' GROUP BY job_id) AS counted
""")


@dataclass(frozen=True, slots=True)
class Peer:
    """Recent results of another worker in a lane: images stored and attempts failed.

    `is_able`: the worker has stored an image, in any lane, since its last failure or up to 60 s before it.
    """

    worker: str
    stored: int
    failed: int
    is_able: bool


def peers(engine: Engine, lane: LaneId, own: Collection[str], within_s: float) -> list[Peer]:
    """Return the results of other workers in the lane during the last `within_s` seconds."""
    rows = run(engine, _PEERS, {"lane": lane, "own": list(own), "within_s": within_s})
    return [Peer(row.worker, row.stored, row.failed, row.is_able) for row in rows]


def others_may_work(engine: Engine, lane: LaneId, besides: Collection[str]) -> bool:
    """Whether a live worker that isn't in `besides` can work in the lane, as far as it has reported."""
    (row,) = run(engine, _ABLE, {"lane": lane, "besides": list(besides), "seen_s": SEEN_S})
    return bool(row.is_there)


def to_blame(engine: Engine, jobs: Collection[JobId], own: Collection[str]) -> set[JobId]:
    """Return the jobs with an earlier charged failure, or with a failure on another worker that is able to work."""
    return {row.job_id for row in run(engine, _TO_BLAME, {"jobs": list(jobs), "own": list(own)})}


@dataclass(frozen=True, slots=True)
class Returns:
    """The highest number of uncharged returns of any of the jobs, and the seconds since the first such return."""

    most: int
    since_s: float


def returns_of(engine: Engine, jobs: Collection[JobId]) -> Returns:
    """Return how often these jobs were given back without being charged an attempt."""
    (row,) = run(engine, _RETURNS, {"jobs": list(jobs)})
    return Returns(int(row.most), float(row.since_s))
