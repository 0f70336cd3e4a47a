"""The lanes of a batch: what its jobs share, and how far each has come."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, text

from jobs.db.engine import run, transact
from jobs.job import BatchId, Lane, LaneId
from jobs.queue.sql_predicates import HAS_OPEN_JOBS, IS_LIVE

ABOVE_ALL = 2**63 - 1

# Ids of a lane's jobs only grow, and what comes back to the queue is found otherwise: below the lowest job that waits
# for its first claim, none will ever wait again.
_RAISE_FLOORS = text(f"""
    WITH found AS (
        SELECT id, coalesce((
            SELECT jobs.id - 1 FROM jobs
            WHERE lane_id BETWEEN lanes.id AND lanes.id AND state = 'queued' AND not_before IS NULL AND jobs.id > floor
            ORDER BY lane_id, jobs.id LIMIT 1), :top) AS lowest
        FROM lanes WHERE {IS_LIVE} AND floor < :top
    ), raised AS (
        SELECT lanes.id, lowest FROM lanes JOIN found ON found.id = lanes.id WHERE lowest > floor
        ORDER BY lanes.id FOR NO KEY UPDATE OF lanes SKIP LOCKED
    )
    UPDATE lanes SET floor = lowest FROM raised WHERE lanes.id = raised.id RETURNING lanes.id
""")

# Lanes are locked by the first, and looked at again by the second, which sees what was committed until then: who queues
# jobs in a lane writes to it (`jobs.queue.sql_predicates.reopening`), and so waits for this or is waited for.
_SEEMINGLY_ENDED = text(f"""
    SELECT id FROM lanes WHERE {IS_LIVE} AND lanes.id > :after AND NOT {HAS_OPEN_JOBS}
    ORDER BY id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
""")
_END = text(f"""
    UPDATE lanes SET ended_at = now() WHERE id = ANY (CAST(:ids AS bigint[])) AND NOT {HAS_OPEN_JOBS} RETURNING id
""")

_LANES = text("""
    SELECT tenant, model, mode, lora, width, height, upscale, image_s,
        coalesce(jsonb_object_agg(state, total) FILTER (WHERE total > 0), '{}') AS counts
    FROM lanes LEFT JOIN (
        SELECT lane_id, state, sum(delta) AS total FROM tallies WHERE batch_id = :batch GROUP BY 1, 2) AS t
    ON lane_id = lanes.id WHERE batch_id = :batch GROUP BY lanes.id ORDER BY lanes.id LIMIT :limit
""")

_JOBS = text("""
    SELECT coalesce(sum(delta), 0) AS total FROM tallies WHERE batch_id = :batch AND lane_id = :lane
""")


def job_count(engine: Engine, lane: Lane) -> int:
    """All jobs of the lane, whatever became of them."""
    return int(run(engine, _JOBS, {"batch": lane.batch_id, "lane": lane.id})[0].total)


def raise_floors(engine: Engine) -> int:
    """Let claims begin where jobs still wait, so that they needn't step over what was claimed; returns how many."""
    return len(run(engine, _RAISE_FLOORS, {"top": ABOVE_ALL}))


def end_lanes(engine: Engine, *, limit: int = 1_000) -> int:
    """Note which lanes have no job left to do, so that nobody looks at them any more; returns how many."""

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
    """The first lanes in the order of the manifest; `counts` holds jobs by state, those with none left out.

    `image_s` is how many seconds of one worker an image takes, None before that was measured.
    """
    rows = run(engine, _LANES, {"batch": batch, "limit": limit})
    return [
        dict(row._mapping) | {"counts": {state: int(n) for state, n in row.counts.items()}} for row in rows
    ]
