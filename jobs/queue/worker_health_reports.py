"""Health reports of workers: healthy, or unhealthy with the reason and the lanes that they can't work in."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.job_dataclasses import BatchId, LaneId
from jobs.queue.sql_predicates import HAS_WORK, IS_DRAINED_WORKER, IS_LIVE, IS_OPEN, IS_TARGET
from jobs.states import DrainKind

SEEN_S = 60  # a worker without a report for longer than this is not counted

_REPORT = text("""
    WITH before AS (
        SELECT reason FROM workers WHERE name = :name
    ), event_log AS (
        INSERT INTO worker_events (worker, device, kind, reason)
        SELECT :name, :device, CASE WHEN CAST(:reason AS text) IS NULL THEN 'healthy' ELSE 'unhealthy' END, :reason
        WHERE (SELECT reason FROM before) IS DISTINCT FROM CAST(:reason AS text)
    )
    INSERT INTO workers (name, device, state, reason, since, next_try_at, lane_faults)
    VALUES (:name, :device, CASE WHEN CAST(:reason AS text) IS NULL THEN 'healthy' ELSE 'unhealthy' END, :reason,
        CASE WHEN CAST(:reason AS text) IS NOT NULL THEN now() END,
        now() + make_interval(secs => :next_try_s), CAST(:lane_faults AS jsonb))
    ON CONFLICT (name) DO UPDATE SET state = excluded.state, reason = excluded.reason,
        since = CASE WHEN excluded.reason IS NOT NULL THEN coalesce(workers.since, excluded.since) END,
        next_try_at = excluded.next_try_at, lane_faults = excluded.lane_faults, seen_at = now()
    RETURNING name
""")

_UNHEALTHY = text(f"""
    SELECT name, device, reason, since, next_try_at FROM workers
    WHERE state = 'unhealthy' AND seen_at > now() - make_interval(secs => :seen_s) AND NOT {IS_DRAINED_WORKER}
    ORDER BY since, name
""")

# `live` has the workers that may work.
LIVE = f"""
    seen AS (
        SELECT *, state = 'unhealthy' AND lane_faults = '{{}}' AS is_resting, {IS_DRAINED_WORKER} AS is_drained
        FROM workers WHERE seen_at > now() - make_interval(secs => :seen_s)
    ), live AS (
        SELECT * FROM seen WHERE NOT is_drained
    )"""

# Lanes that no live worker can work in; a row with a null batch_id means that no live worker can work in any lane.
_STUCK = text(f"""
    WITH {LIVE}, stuck AS (
        SELECT DISTINCT CAST(key AS bigint) AS lane FROM live, jsonb_object_keys(lane_faults) AS key
        WHERE NOT EXISTS (SELECT FROM live AS l WHERE NOT (l.lane_faults ? key OR l.is_resting))
    )
    SELECT batch_id, (SELECT lane_faults ->> CAST(lane AS text) FROM live
        WHERE lane_faults ? CAST(lane AS text) ORDER BY since LIMIT 1) AS reason
    FROM stuck JOIN lanes ON lanes.id = lane
    UNION ALL
    SELECT NULL, min(reason) FROM live HAVING bool_and(is_resting)
""")

# Models of unfinished lanes that no live worker's pool serves, while there are workers; `drained` are what keeps those
# that would serve it.
_UNSERVED = text(f"""
    WITH {LIVE}, serving AS (
        SELECT seen.*, models FROM seen JOIN pools ON pools.name = seen.pool
    )
    SELECT DISTINCT batch_id, model, (
            SELECT min(name) FROM pools WHERE models IS NULL OR model = ANY (models)) AS pool, (
            SELECT array_agg(DISTINCT kind || ' ' || target ORDER BY kind || ' ' || target)
            FROM serving JOIN worker_drains ON {IS_TARGET.format("serving.name")}
            WHERE is_drained AND (models IS NULL OR lanes.model = ANY (models))) AS drained
    FROM lanes WHERE {IS_LIVE} AND EXISTS (SELECT FROM seen)
      AND NOT EXISTS (SELECT FROM serving WHERE NOT is_drained AND (models IS NULL OR lanes.model = ANY (models)))
    ORDER BY batch_id, model
""")

_WANTED = text(f"""
    SELECT lanes.id FROM lanes JOIN batches ON batches.id = batch_id
    WHERE lanes.id = ANY (CAST(:lanes AS bigint[])) AND {IS_OPEN}
      AND ({HAS_WORK} OR EXISTS (SELECT FROM jobs WHERE state = 'running' AND lane_id = lanes.id))
""")

_STORED = text("UPDATE workers SET stored_at = now() WHERE name = :name RETURNING name")


@dataclass(frozen=True, slots=True)
class UnhealthyWorker:
    """A worker that can't work in some or all lanes: the reason, since when, and the time of the next try."""

    name: str
    device: str
    reason: str
    since: datetime
    next_try_at: datetime | None

    def report(self) -> dict[str, Any]:
        """Return the values that `status --json` prints."""
        next_try_at = self.next_try_at and self.next_try_at.isoformat()
        return {
            "worker": self.name,
            "device": self.device,
            "reason": self.reason,
            "since": self.since.isoformat(),
            "next_try_at": next_try_at,
        }


@dataclass(frozen=True, slots=True)
class Waiting:
    """The reasons why batches wait that no worker can process; `everywhere` applies to all batches."""

    batches: Mapping[BatchId, str] = field(default_factory=dict)
    everywhere: str | None = None

    def reason(self, batch: BatchId) -> str | None:
        """Return what keeps the workers from this batch; None if a worker can process it, or no worker is live."""
        return self.batches.get(batch, self.everywhere)


def report_health(
    engine: Engine,
    worker: str,
    device: str,
    reason: str | None,
    *,
    next_try_s: float | None = None,
    lane_faults: Mapping[LaneId, str] | None = None,
) -> None:
    """Record a worker's health; `reason` None means healthy.

    `lane_faults` maps lanes to the reason why the worker can't work in them; an unhealthy worker without lane faults
    works in no lane.
    """
    values = {
        "name": worker,
        "device": device,
        "reason": reason,
        "next_try_s": next_try_s,
        "lane_faults": json.dumps(lane_faults or {}),
    }
    run(engine, _REPORT, values)


def unhealthy_workers(engine: Engine) -> list[UnhealthyWorker]:
    """Return the live workers that are unhealthy, the one that has been so for longest first."""
    return [UnhealthyWorker(**row._mapping) for row in run(engine, _UNHEALTHY, {"seen_s": SEEN_S})]


def waiting(engine: Engine) -> Waiting:
    """Return the batches, or batches with lanes, that no live worker can process, with the reasons."""
    rows = run(engine, _STUCK, {"seen_s": SEEN_S})
    everywhere = next((row.reason for row in rows if row.batch_id is None), None)
    unserved = {
        BatchId(row.batch_id): _why_unserved(row.model, row.pool, row.drained)
        for row in run(engine, _UNSERVED, {"seen_s": SEEN_S})
    }
    return Waiting(unserved | {BatchId(row.batch_id): row.reason for row in rows if row.batch_id}, everywhere)


def _why_unserved(model: str, pool: str | None, drained: list[str] | None) -> str:
    if drained:
        return why_drained(
            [(DrainKind(kind), target) for kind, target in (one.split(" ", 1) for one in drained)]
        )
    if pool is None:
        return f"no pool processes the model {model!r}; `nightmill pools` lists them"
    return (
        f"no worker processes the model {model!r}: `nightmill worker --pool {pool}` would, "
        "`nightmill workers` lists those there are"
    )


def why_drained(drained: Sequence[tuple[DrainKind, str]]) -> str:
    """Say what is drained, and how to take that back."""
    hosts = [target for kind, target in drained if kind is DrainKind.HOST]
    alone = [target for kind, target in drained if kind is DrainKind.WORKER]
    whose = [f"the workers of {', '.join(hosts)}"] * bool(hosts) + [", ".join(alone)] * bool(alone)
    verb = "are" if hosts or len(alone) > 1 else "is"
    return f"{' and '.join(whose)} {verb} drained; `nightmill workers undrain {' '.join(hosts + alone)}`"


def wanted_lanes(engine: Engine, lanes: Collection[LaneId]) -> set[LaneId]:
    """Return those of the lanes that are open and have running jobs or jobs that are due."""
    return {row.id for row in run(engine, _WANTED, {"lanes": list(lanes)})} if lanes else set()


def note_stored(engine: Engine, worker: str) -> None:
    """Record that a worker has just stored an image."""
    run(engine, _STORED, {"name": worker})
