"""Tenants: owners of jobs, with a weight (share of the workers), limits of running and open jobs, and prompt terms."""

from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.errors import UsageError
from jobs.job_dataclasses import LaneId
from jobs.states import EVERYBODY, NO_LIMIT

_LIST = text("""
    SELECT name, coalesce(weight, 1) AS weight, max_running, max_queued, coalesce(queued, 0) AS queued,
        coalesce(running, 0) AS running, coalesce(done, 0) AS done, prompt_terms
    FROM (
        SELECT tenant AS name, sum(delta) FILTER (WHERE state = 'queued') AS queued,
            sum(delta) FILTER (WHERE state = 'running') AS running, sum(delta) FILTER (WHERE state = 'done') AS done
        FROM lanes LEFT JOIN job_counts ON lane_id = lanes.id GROUP BY 1
    ) AS working FULL JOIN tenants USING (name)
    UNION ALL SELECT :everybody, 1, max_running, NULL, 0, 0, 0, NULL FROM fair_share WHERE max_running IS NOT NULL
    ORDER BY name
""")

_NAMES = text(
    "SELECT tenant AS name FROM lanes UNION SELECT name FROM tenants UNION SELECT tenant FROM lane_usage"
)

_SET = text("""
    INSERT INTO tenants (name, weight, max_running, max_queued, prompt_terms)
    VALUES (:name, coalesce(:weight, 1), :max_running, :max_queued, nullif(:prompt_terms, ''))
    ON CONFLICT (name) DO UPDATE SET weight = coalesce(:weight, tenants.weight),
        max_running = CASE WHEN :keeps_running THEN tenants.max_running ELSE :max_running END,
        max_queued = CASE WHEN :keeps_queued THEN tenants.max_queued ELSE :max_queued END,
        prompt_terms = CASE WHEN CAST(:prompt_terms AS text) IS NULL THEN tenants.prompt_terms
            ELSE nullif(:prompt_terms, '') END
    RETURNING name
""")

_SET_COMMON = text("""
    INSERT INTO fair_share (max_running) VALUES (:max_running)
    ON CONFLICT (id) DO UPDATE SET max_running = excluded.max_running RETURNING id
""")

_FORGET_COMMON = text("UPDATE fair_share SET max_running = NULL WHERE max_running IS NOT NULL RETURNING id")

_OF_LANE = text("""
    SELECT tenant, prompt_terms FROM lanes LEFT JOIN tenants ON tenants.name = tenant WHERE lanes.id = :lane
""")

_TERMS = text("SELECT prompt_terms FROM tenants WHERE name = :name")

_ALL_TERMS = text("SELECT name, prompt_terms FROM tenants WHERE prompt_terms IS NOT NULL")

_FORGET = text("DELETE FROM tenants WHERE name = :name RETURNING name")

MOST_JOBS = 1_000_000_000


def tenants(engine: Engine) -> list[dict[str, Any]]:
    """List the tenants by name with weight, limits, job counts and prompt terms, as text.

    The name "" stands for rows without tenant, "*" for all tenants.
    """
    rows = run(engine, _LIST, {"everybody": EVERYBODY})
    return [
        {
            key: int(value) if key in ("queued", "running", "done") else value
            for key, value in row._mapping.items()
        }
        for row in rows
    ]


def tenant_names(engine: Engine) -> list[str]:
    """Return the names of tenants that have or had jobs, or for which something is set."""
    return [row.name for row in run(engine, _NAMES, {})]


def set_tenant(
    engine: Engine,
    name: str,
    *,
    weight: int | None = None,
    max_running: int | None = None,
    max_queued: int | None = None,
    prompt_terms: str | None = None,
) -> None:
    """Set a tenant's weight, limits and prompt terms, those that are given; NO_LIMIT removes a limit, "" the terms.

    The name "*" stands for all tenants together, which can have a limit of running jobs only. Raises UsageError if a
    number is out of range.
    """
    if weight is not None and not 1 <= weight <= 1000:
        raise UsageError(f"a weight is between 1 and 1000, not {weight}")
    if name == EVERYBODY and weight is not None:
        raise UsageError(f"{EVERYBODY} stands for all tenants together, who have no weight")
    if name == EVERYBODY and max_queued is not None:
        raise UsageError(f"{EVERYBODY} stands for all tenants together: open jobs are limited for each")
    if name == EVERYBODY and prompt_terms is not None:
        raise UsageError(
            f"{EVERYBODY} stands for all tenants together: their terms are NIGHTMILL_PROMPT_TERMS"
        )
    for limit, what in ((max_running, "running"), (max_queued, "open")):
        if limit is not None and not NO_LIMIT <= limit <= MOST_JOBS:
            raise UsageError(f"a limit of {what} jobs is between 0 and {MOST_JOBS:,}, not {limit}")
    limits = {
        "max_running": None if max_running == NO_LIMIT else max_running,
        "max_queued": None if max_queued == NO_LIMIT else max_queued,
    }
    if name == EVERYBODY:
        run(engine, _SET_COMMON, {"max_running": limits["max_running"]})
        return
    keeps = {"keeps_running": max_running is None, "keeps_queued": max_queued is None}
    values = {"name": name, "weight": weight, "prompt_terms": prompt_terms, **limits, **keeps}
    run(engine, _SET, values)


def tenant_of_lane(engine: Engine, lane: LaneId) -> tuple[str, str | None]:
    """Return the tenant of a lane ("": none), and its prompt terms as they were set; None if it has none of its own."""
    rows = run(engine, _OF_LANE, {"lane": lane})
    return (rows[0].tenant, rows[0].prompt_terms) if rows else ("", None)


def prompt_terms_of(engine: Engine, name: str) -> str | None:
    """Return the prompt terms of a tenant as they were set, one a line; None if it has none of its own."""
    rows = run(engine, _TERMS, {"name": name})
    return rows[0].prompt_terms if rows else None


def prompt_terms_by_tenant(engine: Engine) -> dict[str, str]:
    """Return the prompt terms of all tenants that have some of their own, by name, as they were set."""
    return {row.name: row.prompt_terms for row in run(engine, _ALL_TERMS, {})}


def forget_tenant(engine: Engine, name: str) -> None:
    """Reset a tenant to weight 1 without limits and prompt terms, for "*" without common limit.

    Raises UsageError if nothing was set.
    """
    found = run(engine, _FORGET_COMMON, {}) if name == EVERYBODY else run(engine, _FORGET, {"name": name})
    if not found:
        raise UsageError(f"nothing is set for tenant {name!r}; `nightmill tenants` shows those there are")
