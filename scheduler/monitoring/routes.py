"""What the scheduler serves over HTTP: metrics with the figures of the queue, and health checks."""

import json
import threading
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus

from sqlalchemy import Engine

from jobs.monitoring import metrics
from jobs.monitoring.cached_lookup import CachedLookup, Failure
from jobs.monitoring.exposition import CONTENT_TYPE, Totals, exposition
from jobs.monitoring.http_server import Answer, Route
from jobs.monitoring.liveness_and_readiness import Liveness, readiness
from jobs.monitoring.metric_types import Sample, collect
from jobs.queue.worker_pools import pools
from scheduler.monitoring.queue_figures import queue_figures


def scheduler_routes(engine: Engine, liveness: Liveness) -> Mapping[str, Route]:
    """Return the routes; figures of the queue are at most some seconds old, however often they are asked for."""
    figures = CachedLookup(lambda: queue_figures(engine))
    wanted = CachedLookup(lambda: {pool.name: pool.wanted for pool in pools(engine)})
    page = _MetricsPage(figures)
    return {
        "/metrics": page.answer,
        "/healthz": liveness.check,
        "/readyz": readiness(lambda: [found] if isinstance(found := figures.get(), Failure) else []),
        "/scale/": partial(_scale, wanted),
    }


def _scale(wanted: CachedLookup[dict[str, int]], pool: str) -> Answer:
    """Answer how many workers a pool needs. Without PostgreSQL that is no number: an autoscaler would act on it."""
    found = wanted.get()
    if isinstance(found, Failure):
        return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"pool": pool, "error": found})
    if pool not in found:
        return _json(HTTPStatus.NOT_FOUND, {"pool": pool, "error": f"there are {', '.join(sorted(found))}"})
    return _json(HTTPStatus.OK, {"pool": pool, "wanted": found[pool]})


def _json(status: int, content: dict[str, object]) -> Answer:
    return Answer(status, json.dumps(content).encode(), "application/json")


class _MetricsPage:
    """What this process has counted, and the figures of the queue."""

    def __init__(self, figures: CachedLookup[list[Sample]]) -> None:
        self._figures = figures
        self._totals = Totals(metrics.SCHEDULER)
        self._lock = threading.Lock()

    def answer(self, _: str) -> Answer:
        """Answer a scrape; without figures of the queue if PostgreSQL doesn't answer in time, or with an error."""
        figures = self._figures.get()
        if isinstance(figures, Failure):
            figures = [metrics.DATABASE_UP.sample(figures is Failure.ERROR)]
        with self._lock:
            self._totals.add(collect().counts)
            samples = self._totals.samples()
        return Answer(200, exposition([*samples, *figures]), CONTENT_TYPE)
