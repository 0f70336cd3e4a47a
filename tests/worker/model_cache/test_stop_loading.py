"""A worker that is asked to stop while it loads models has nothing to finish: it stops at once."""

import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from jobs.job_dataclasses import Lane
from tests.factories import lane_differences, states
from tests.worker.contexts import attempts_of, jobs_of, only_lane, submit
from worker.lanes.lane_session import work
from worker.lanes.worker_context import WorkerContext
from worker.model_cache.cache import ModelCache
from worker.tasks import stop_on_sigterm


class Slow(ModelCache):
    """Takes for ever to load, as models on a busy machine do, through code that passes over errors."""

    def _load(self, lane: Lane) -> NoReturn:  # noqa: ARG002
        signal.raise_signal(signal.SIGTERM)
        while True:
            with suppress(Exception):
                time.sleep(0.01)


@pytest.fixture
def stoppable(context: WorkerContext) -> Iterator[WorkerContext]:
    """A context whose models never get loaded, and which SIGTERM stops."""
    before = signal.getsignal(signal.SIGTERM)
    slow = replace(context, model_cache=Slow(context.settings, 0))
    stop_on_sigterm(slow)
    yield slow
    signal.signal(signal.SIGTERM, before)


def test_its_jobs_go_back_at_once_and_uncharged(stoppable: WorkerContext, tmp_path: Path) -> None:
    batch = submit(stoppable.settings, stoppable.engine, tmp_path, [{"prompt": "a fox"}] * 3)
    work(stoppable, only_lane(stoppable.engine, batch))
    assert stoppable.stopping.is_set()
    assert states(stoppable.engine) == {"queued": 3}
    assert {job["attempt"] for job in jobs_of(stoppable.engine, batch)} == {0}
    assert attempts_of(stoppable.engine, batch) == []
    assert lane_differences(stoppable.engine) == []
    assert stoppable.health.is_healthy(), "nothing is amiss with it"


def test_what_is_not_loading_is_finished(context: WorkerContext) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop_on_sigterm(context)
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert context.stopping.is_set()
