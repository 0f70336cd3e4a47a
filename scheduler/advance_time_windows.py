"""Maintenance of time windows: moves a batch's opening and closing times on once they have passed."""

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.policy.time_windows import span
from jobs.queue.sql_predicates import IS_LIVE

# Skips batches that have ended; if jobs of one are queued again, that is noticed within a second.
_PASSED = text(f"""
    SELECT id, "window", closes_at, now() AS now FROM batches
    WHERE closes_at <= now() AND EXISTS (SELECT FROM lanes WHERE batch_id = batches.id AND {IS_LIVE})
""")  # noqa: S608 - a constant condition

_MOVE = text("""
    UPDATE batches SET opens_at = :opens_at, closes_at = :closes_at WHERE id = :id AND closes_at = :old RETURNING id
""")


def move_windows(engine: Engine) -> int:
    """Compute the next opening of each window that has closed, by the database's clock; returns how many."""
    moved = 0
    for row in run(engine, _PASSED, {}):
        opens_at, closes_at = span(row.window, row.now)
        values = {"id": row.id, "old": row.closes_at, "opens_at": opens_at, "closes_at": closes_at}
        moved += len(run(engine, _MOVE, values))
    return moved
