"""The lanes of a batch: what its jobs share, and how far each has come."""

from typing import Any

from sqlalchemy import Engine, text

from jobs.database import run
from jobs.job import BatchId

_LANES = text("""
    SELECT model, mode, lora, width, height, upscale, coalesce(jsonb_object_agg(state, total) FILTER (WHERE total > 0),
        '{}') AS counts
    FROM lanes LEFT JOIN (
        SELECT lane_id, state, sum(delta) AS total FROM tallies WHERE batch_id = :batch GROUP BY 1, 2) AS t
    ON lane_id = lanes.id WHERE batch_id = :batch GROUP BY lanes.id ORDER BY lanes.id LIMIT :limit
""")


def lanes(engine: Engine, batch: BatchId, *, limit: int = 50) -> list[dict[str, Any]]:
    """The first lanes in the order of the manifest; `counts` holds jobs by state, those with none left out."""
    rows = run(engine, _LANES, {"batch": batch, "limit": limit})
    return [
        dict(row._mapping) | {"counts": {state: int(n) for state, n in row.counts.items()}} for row in rows
    ]
