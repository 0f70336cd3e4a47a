"""Tenants: owners of jobs, each with a weight (its share of the workers) and a limit of concurrently running jobs."""

from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.errors import UsageError
from jobs.states import EVERYBODY, NO_LIMIT

_LIST = text("""
    SELECT name, coalesce(weight, 1) AS weight, max_running, coalesce(queued, 0) AS queued,
        coalesce(running, 0) AS running, coalesce(done, 0) AS done
    FROM (
        SELECT tenant AS name, sum(delta) FILTER (WHERE state = 'queued') AS queued,
            sum(delta) FILTER (WHERE state = 'running') AS running, sum(delta) FILTER (WHERE state = 'done') AS done
        FROM lanes LEFT JOIN job_counts ON lane_id = lanes.id GROUP BY 1
    ) AS working FULL JOIN tenants USING (name)
    UNION ALL SELECT :everybody, 1, max_running, 0, 0, 0 FROM fair_share WHERE max_running IS NOT NULL
    ORDER BY name
""")

_SET = text("""
    INSERT INTO tenants (name, weight, max_running) VALUES (:name, coalesce(:weight, 1), :max_running)
    ON CONFLICT (name) DO UPDATE SET weight = coalesce(:weight, tenants.weight),
        max_running = CASE WHEN :keeps_limit THEN tenants.max_running ELSE :max_running END
    RETURNING name
""")

_SET_COMMON = text("""
    INSERT INTO fair_share (max_running) VALUES (:max_running)
    ON CONFLICT (id) DO UPDATE SET max_running = excluded.max_running RETURNING id
""")

_FORGET_COMMON = text("UPDATE fair_share SET max_running = NULL WHERE max_running IS NOT NULL RETURNING id")

_FORGET = text("DELETE FROM tenants WHERE name = :name RETURNING name")

MOST_RUNNING = 1_000_000_000


def tenants(engine: Engine) -> list[dict[str, Any]]:
    """List the tenants by name with weight, max_running and job counts ("": rows without tenant; "*": all tenants)."""
    rows = run(engine, _LIST, {"everybody": EVERYBODY})
    return [
        {
            key: int(value) if key in ("queued", "running", "done") else value
            for key, value in row._mapping.items()
        }
        for row in rows
    ]


def set_tenant(
    engine: Engine, name: str, *, weight: int | None = None, max_running: int | None = None
) -> None:
    """Set a tenant's weight, limit or both; a `max_running` of NO_LIMIT removes the limit.

    The name "*" stands for all tenants together, which can have a limit only. Raises UsageError if a number is out of
    range.
    """
    if weight is not None and not 1 <= weight <= 1000:
        raise UsageError(f"a weight is between 1 and 1000, not {weight}")
    if name == EVERYBODY and weight is not None:
        raise UsageError(f"{EVERYBODY} stands for all tenants together, who have no weight")
    if max_running is not None and not NO_LIMIT <= max_running <= MOST_RUNNING:
        raise UsageError(f"a limit of running jobs is between 0 and {MOST_RUNNING:,}, not {max_running}")
    limit = None if max_running == NO_LIMIT else max_running
    if name == EVERYBODY:
        run(engine, _SET_COMMON, {"max_running": limit})
        return
    values = {"name": name, "weight": weight, "max_running": limit, "keeps_limit": max_running is None}
    run(engine, _SET, values)


def forget_tenant(engine: Engine, name: str) -> None:
    """Reset a tenant to weight 1 without limit, for "*": without common limit; UsageError if nothing was set."""
    found = run(engine, _FORGET_COMMON, {}) if name == EVERYBODY else run(engine, _FORGET, {"name": name})
    if not found:
        raise UsageError(f"nothing is set for tenant {name!r}; `nightmill tenants` shows those there are")
