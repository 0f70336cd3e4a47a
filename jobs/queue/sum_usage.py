"""What batches, lanes, tenants and workers used: worker seconds, device seconds, joules, images."""

from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.db.usage_tables import QUARTER_S
from jobs.job_dataclasses import BatchId

KEPT_DAYS = 400
"""Usage and what became of workers is kept this long: a year can be compared with the one before."""

Column = Literal["batch_id", "lane_id", "tenant", "worker", "device"]

_SUMS = """
    sum(worker_s) AS worker_s, sum(device_s) AS device_s, sum(joules) AS joules,
    CAST(coalesce(sum(images), 0) AS bigint) AS images"""

_WHERE = """
    (CAST(:since AS timestamptz) IS NULL OR began_at >= CAST(:since AS timestamptz))
    AND (CAST(:batch AS bigint) IS NULL OR batch_id = :batch)
    AND (CAST(:tenant AS text) IS NULL OR tenant = :tenant)"""

_FORGET = text("""
    WITH old AS (
        DELETE FROM worker_events WHERE at < now() - make_interval(days => :days)
    )
    DELETE FROM lane_usage WHERE began_at < now() - make_interval(days => :days) RETURNING lane_id
""")


def quarter_of(moment: datetime) -> datetime:
    """Return the beginning of the quarter of an hour, in UTC, that a moment lies in: usage is counted from there."""
    return datetime.fromtimestamp(moment.timestamp() // QUARTER_S * QUARTER_S, UTC)


def usage_by(
    engine: Engine,
    *columns: Column,
    since: datetime | None = None,
    batch: BatchId | None = None,
    tenant: str | None = None,
) -> list[dict[str, Any]]:
    """Return sums of `worker_s`, `device_s`, `joules` (None: no device counts them) and `images` for each of `columns`.

    `since` counts from the quarter of an hour on that it lies in. What is being rendered is counted when its time slice
    ends. The most worker seconds come first.
    """
    names = ", ".join(columns)
    query = f"SELECT {names}, {_SUMS} FROM lane_usage WHERE {_WHERE} GROUP BY {names} ORDER BY worker_s DESC, {names}"
    values = {"since": since and quarter_of(since), "batch": batch, "tenant": tenant}
    return [dict(row._mapping) for row in run(engine, text(query), values)]


def usage_of(engine: Engine, batch: BatchId) -> dict[str, Any]:
    """Return what a batch used, in all; zeros and None if nothing is known yet."""
    found = usage_by(engine, "batch_id", batch=batch)
    if not found:
        return {"worker_s": 0.0, "device_s": 0.0, "joules": None, "images": 0}
    return {name: value for name, value in found[0].items() if name != "batch_id"}


def forget_usage(engine: Engine) -> int:
    """Delete what is older than KEPT_DAYS; returns the number of rows of usage."""
    return len(run(engine, _FORGET, {"days": KEPT_DAYS}))
