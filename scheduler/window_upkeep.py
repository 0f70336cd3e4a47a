"""Upkeep of time windows: the instants between which a batch is open, moved on when they have passed."""

from sqlalchemy import Engine, text

from jobs.batches.time_windows import span
from jobs.db.engine import run
from jobs.queue.sql_predicates import IS_LIVE

# None of a batch that has ended: what is queued again there is seen within a second.
_PASSED = text(f"""
    SELECT id, "window", closes_at, now() AS now FROM batches
    WHERE closes_at <= now() AND EXISTS (SELECT FROM lanes WHERE batch_id = batches.id AND {IS_LIVE})
""")  # noqa: S608 - a condition of ours

_MOVE = text("""
    UPDATE batches SET opens_at = :opens_at, closes_at = :closes_at WHERE id = :id AND closes_at = :old RETURNING id
""")


def move_windows(engine: Engine) -> int:
    """Work out the next opening of each window that has closed, by the database's clock; returns how many."""
    moved = 0
    for row in run(engine, _PASSED, {}):
        opens_at, closes_at = span(row.window, row.now)
        values = {"id": row.id, "old": row.closes_at, "opens_at": opens_at, "closes_at": closes_at}
        moved += len(run(engine, _MOVE, values))
    return moved
