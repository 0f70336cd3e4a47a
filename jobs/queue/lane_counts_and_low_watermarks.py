"""Lanes of a batch: list them with their job counts, raise their low watermarks, and mark those that have ended."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, text

from jobs.db.engine import run, transact
from jobs.job_dataclasses import BatchId, Lane, LaneId
from jobs.queue.sql_predicates import HAS_OPEN_JOBS, IS_LIVE

ABOVE_ALL = 2**63 - 1

# Job ids in a lane only grow, and jobs that return to the queue are found by `not_before`: no job below the lowest one
# that waits for its first claim will ever wait for a first claim again.
_RAISE_LOW_WATERMARKS = text(f"""
    WITH found AS (
        SELECT id, coalesce((
            SELECT jobs.id - 1 FROM jobs
            WHERE lane_id BETWEEN lanes.id AND lanes.id AND state = 'queued' AND not_before IS NULL
              AND jobs.id > low_watermark
            ORDER BY lane_id, jobs.id LIMIT 1), :top) AS lowest
        FROM lanes WHERE {IS_LIVE} AND low_watermark < :top
    ), raised AS (
        SELECT lanes.id, lowest FROM lanes JOIN found ON found.id = lanes.id WHERE lowest > low_watermark
        ORDER BY lanes.id FOR NO KEY UPDATE OF lanes SKIP LOCKED
    )
    UPDATE lanes SET low_watermark = lowest FROM raised WHERE lanes.id = raised.id RETURNING lanes.id
""")

# The first statement locks the lanes. The second checks them again and sees everything committed until then: a
# transaction that queues jobs also writes to their lane (`jobs.queue.sql_predicates.reopening`), so that one of the two
# waits for the other.
_SEEMINGLY_ENDED = text(f"""
    SELECT id FROM lanes WHERE {IS_LIVE} AND lanes.id > :after AND NOT {HAS_OPEN_JOBS}
    ORDER BY id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
""")
_END = text(f"""
    UPDATE lanes SET ended_at = now() WHERE id = ANY (CAST(:ids AS bigint[])) AND NOT {HAS_OPEN_JOBS} RETURNING id
""")

_LANES = text("""
    SELECT tenant, model, mode, lora, width, height, upscale, image_s,
        coalesce(max(used.worker_s), 0) AS worker_s, coalesce(max(used.device_s), 0) AS device_s,
        max(used.joules) AS joules,
        coalesce(jsonb_object_agg(state, total) FILTER (WHERE total > 0), '{}') AS counts
    FROM lanes LEFT JOIN (
        SELECT lane_id, state, sum(delta) AS total FROM job_counts WHERE batch_id = :batch GROUP BY 1, 2) AS t
    ON t.lane_id = lanes.id LEFT JOIN (
        SELECT lane_id, sum(worker_s) AS worker_s, sum(device_s) AS device_s, sum(joules) AS joules
        FROM lane_usage WHERE batch_id = :batch GROUP BY 1) AS used
    ON used.lane_id = lanes.id WHERE batch_id = :batch GROUP BY lanes.id ORDER BY lanes.id LIMIT :limit
""")

_JOBS = text("""
    SELECT coalesce(sum(delta), 0) AS total FROM job_counts WHERE batch_id = :batch AND lane_id = :lane
""")


def job_count(engine: Engine, lane: Lane) -> int:
    """Return the number of jobs of the lane in any state."""
    return int(run(engine, _JOBS, {"batch": lane.batch_id, "lane": lane.id})[0].total)


def raise_low_watermarks(engine: Engine) -> int:
    """Raise the low watermarks of lanes, so that claims don't scan jobs claimed before; returns the number of lanes."""
    return len(run(engine, _RAISE_LOW_WATERMARKS, {"top": ABOVE_ALL}))


def end_lanes(engine: Engine, *, limit: int = 1_000) -> int:
    """Mark lanes without unfinished jobs as ended, so that queries skip them; returns the number of lanes."""

    def end(connection: Connection, after: LaneId) -> tuple[Sequence[LaneId], int]:
        ids = connection.execute(_SEEMINGLY_ENDED, {"after": after, "limit": limit}).scalars().all()
        return ids, len(connection.execute(_END, {"ids": list(ids)}).all()) if ids else 0

    total = 0
    seen: Sequence[LaneId] = [LaneId(0)]
    while seen:
        after = seen[-1]
        seen, ended = transact(engine, lambda connection: end(connection, after))  # noqa: B023 - called at once
        total += ended
    return total


def lanes(engine: Engine, batch: BatchId, *, limit: int = 50) -> list[dict[str, Any]]:
    """Return the first lanes in the order of the manifest; `counts` holds the jobs by state, without zero counts.

    `image_s` is the time in worker seconds that one image takes, None if not measured yet; `worker_s`, `device_s` and
    `joules` are what was used so far, None for joules that nothing counted.
    """
    rows = run(engine, _LANES, {"batch": batch, "limit": limit})
    return [
        dict(row._mapping) | {"counts": {state: int(n) for state, n in row.counts.items()}} for row in rows
    ]
