"""Wake-ups that come ten times, or never: Redis and Celery are real, every job is rendered once."""

import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from sqlalchemy import Engine

from jobs.celery_config import celery_settings
from jobs.errors import LeaseLostError
from jobs.job_dataclasses import LaneId
from jobs.queue import transitions
from jobs.settings import Settings
from jobs.storage.open import S3Options, open_store
from scheduler.send_wakeups import Dispatcher
from tests.chaos.helpers import unfinished, upload
from tests.chaos.invariant import Facts, check
from tests.chaos.ledger import claims, keep_ledger
from tests.chaos.mutants import CLAIMS_UNLOCKED, mutated
from tests.chaos.scale import scaled
from tests.factories import make_batch, states

TASK = "chaos.process_lane"
BATCHES = 4
JOBS_EACH = scaled(40, 1000)


class Careless(Dispatcher):
    """A dispatcher of whose wake-ups 30 % are lost; the others arrive ten times."""

    chance = random.Random(5)
    lost = sent = 0

    def _send(self, lane: LaneId, queue: str) -> None:
        if self.chance.random() < 0.3:
            self.lost += 1
            return
        self.sent += 1
        for _ in range(10):
            self.app.send_task(TASK, (lane,), queue=queue, retry=False, ignore_result=True)


@contextmanager
def workers(settings: Settings, engine: Engine, folder: Path) -> Iterator[None]:
    """A Celery worker of eight threads; its task claims and completes without a model."""
    app = Celery("chaos", set_as_current=False)
    app.conf.update(celery_settings(settings) | {"imports": (), "worker_pool": "threads"})
    store = open_store(str(folder), S3Options())

    @app.task(name=TASK, shared=False)
    def process_lane(lane_id: int) -> None:
        """One claim a wake-up, so that many wake-ups are needed."""
        name = threading.current_thread().name
        if lane := transitions.open_lane(engine, LaneId(lane_id)):
            jobs = transitions.claim(engine, lane.id, limit=3, worker=name, lease_s=30)
            time.sleep(0.01)
            for job in jobs:
                with suppress(LeaseLostError):
                    transitions.complete(engine, [upload(store, lane.batch, job)])

    quiet = {"perform_ping_check": False, "loglevel": logging.getLogger().level}  # the level stays after it
    with start_worker(app, pool="threads", concurrency=8, shutdown_timeout=20, **quiet):
        yield
    app.close()


def run(settings: Settings, engine: Engine, folder: Path, patience_s: float = 20) -> list[Facts]:
    """Four batches, whose wake-ups go wrong, to their end; what runs after that has `patience_s` left."""
    keep_ledger(engine)
    batches = [make_batch(engine, JOBS_EACH, output=str(folder)) for _ in range(BATCHES)]
    dispatcher = Careless(settings, engine)
    deadline = time.monotonic() + scaled(40, 600)
    with workers(settings, engine, folder):
        while states(engine).get("queued"):
            dispatcher.top_up()
            time.sleep(0.02)
            assert time.monotonic() < deadline, "wake-ups that are lost are sent again"
        ends = time.monotonic() + patience_s
        while unfinished(engine) and time.monotonic() < ends:
            time.sleep(0.02)
    dispatcher.close()
    assert dispatcher.lost > 0
    assert dispatcher.sent > 0
    return [check(engine, batch.name, places=[(row, 0) for row in range(JOBS_EACH)]) for batch in batches]


def test_each_job_is_rendered_once(settings: Settings, engine: Engine, tmp_path: Path) -> None:
    for facts in run(settings, engine, tmp_path):
        assert facts.states == {"done": JOBS_EACH}
        assert (facts.attempts, facts.swept) == (JOBS_EACH, 0)
    assert claims(engine) == BATCHES * JOBS_EACH


def test_twin_that_claims_without_a_lock_renders_twice(
    settings: Settings, engine: Engine, tmp_path: Path
) -> None:
    with mutated(CLAIMS_UNLOCKED), pytest.raises(AssertionError, match="things are wrong"):
        run(settings, engine, tmp_path, patience_s=1)
