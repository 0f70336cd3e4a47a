"""Forgets workers that haven't reported for an hour, and records that they were lost."""

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.states import WorkerEventKind

_IS_OLD = "seen_at < now() - interval '1 hour'"
_OLD = text(f"SELECT name FROM workers WHERE {_IS_OLD}")  # noqa: S608 - constants, as below
_FORGET = text(f"""
    WITH gone AS (
        DELETE FROM workers WHERE name = ANY (CAST(:names AS text[])) AND {_IS_OLD} RETURNING name, device, seen_at
    )
    INSERT INTO worker_events (worker, device, kind, at)
    SELECT name, device, '{WorkerEventKind.LOST}', seen_at FROM gone RETURNING worker
""")  # noqa: S608


class LostWorkers:
    """Workers that have been silent at two looks in a row.

    One look doesn't do: after an outage of PostgreSQL, those that live have been silent for as long as it lasted.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._silent = set[str]()

    def forget(self) -> int:
        """Forget those that were silent at the look before, too; returns how many."""
        before, self._silent = self._silent, {row.name for row in run(self._engine, _OLD, {})}
        lost = before & self._silent
        return len(run(self._engine, _FORGET, {"names": sorted(lost)})) if lost else 0
