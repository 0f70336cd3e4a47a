"""Which tenants a planned batch would leave with more open jobs than they may have, so that its submit is refused."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine

from jobs.forecast.forecast_result import Forecast
from jobs.queue.tenant_queue_limits import queue_limits
from scheduler.ingest.find_batch import find_batch
from scheduler.ingest.submit_request import SubmitRequest


def exceeded_limits(
    engine: Engine | None, request: SubmitRequest, found: Forecast | None
) -> list[dict[str, Any]]:
    """Return tenant, `max_queued`, `open` jobs and the batch's `jobs` of each; nothing of a batch that is there."""
    if engine is None or found is None:
        return []
    jobs = Counter[str]()
    for each in found.lanes:
        jobs[each.lane.tenant] += each.lane.jobs
    with engine.connect() as connection:
        limits = {} if find_batch(connection, request) is not None else queue_limits(connection)
    return [
        {"tenant": tenant, "max_queued": limit.max_queued, "open": limit.open, "jobs": jobs[tenant]}
        for tenant, limit in sorted(limits.items())
        if jobs[tenant] and limit.open + jobs[tenant] > limit.max_queued
    ]


def limit_note(exceeded: Mapping[str, Any]) -> str:
    """Say what a submit would be refused for."""
    return (
        f"a submit would be refused: tenant {exceeded['tenant']} may have {exceeded['max_queued']:,} open jobs and has "
        f"{exceeded['open']:,}, and this adds {exceeded['jobs']:,}"
    )
