"""Tenants: whose jobs they are, what share of the workers they get, how many of their jobs may run at once."""

from typing import Any

from sqlalchemy import Engine, text

from jobs.database import run
from jobs.errors import UsageError
from jobs.queue import EVERYBODY

_LIST = text(f"""
    SELECT name, coalesce(weight, 1) AS weight, max_running, coalesce(queued, 0) AS queued,
        coalesce(running, 0) AS running, coalesce(done, 0) AS done
    FROM (
        SELECT tenant AS name, sum(delta) FILTER (WHERE state = 'queued') AS queued,
            sum(delta) FILTER (WHERE state = 'running') AS running, sum(delta) FILTER (WHERE state = 'done') AS done
        FROM lanes LEFT JOIN tallies ON lane_id = lanes.id GROUP BY 1
    ) AS working FULL JOIN tenants USING (name)
    WHERE name <> '{EVERYBODY}' OR max_running IS NOT NULL ORDER BY name
""")

_SET = text("""
    INSERT INTO tenants (name, weight, max_running) VALUES (:name, coalesce(:weight, 1), :max_running)
    ON CONFLICT (name) DO UPDATE SET weight = coalesce(:weight, tenants.weight),
        max_running = CASE WHEN :keeps_limit THEN tenants.max_running ELSE :max_running END
    RETURNING name
""")

_FORGET = text("DELETE FROM tenants WHERE name = :name RETURNING name")

NO_LIMIT = -1


def tenants(engine: Engine) -> list[dict[str, Any]]:
    """All tenants by name ("": rows without one; "*": all together) with weight, max_running and their jobs' counts."""
    rows = run(engine, _LIST, {})
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
    """Change what is given; a `max_running` of NO_LIMIT lifts the limit. UsageError where a number is out of range."""
    if weight is not None and not 1 <= weight <= 1000:
        raise UsageError(f"a weight is between 1 and 1000, not {weight}")
    if name == EVERYBODY and weight is not None:
        raise UsageError(f"{EVERYBODY} stands for all tenants together, who have no weight")
    if max_running is not None and max_running < NO_LIMIT:
        raise UsageError(f"a limit of running jobs is 0 or more, not {max_running}")
    limit = None if max_running == NO_LIMIT else max_running
    values = {"name": name, "weight": weight, "max_running": limit, "keeps_limit": max_running is None}
    run(engine, _SET, values)


def forget_tenant(engine: Engine, name: str) -> None:
    """Back to a weight of 1 and no limit; UsageError if nothing else was set."""
    if not run(engine, _FORGET, {"name": name}):
        raise UsageError(
            f"nothing is set for tenant {name!r}; `nightmill tenants list` shows those there are"
        )
