"""The output goes away in mid-run and comes back: nothing is failed or charged for it, little is drawn meanwhile."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.queue.worker_health_reports import unhealthy_workers
from jobs.settings import Settings
from jobs.storage.open import S3Options
from tests.chaos.invariant import check
from tests.chaos.mill import Mill, mill, settle
from tests.chaos.proxy import faulty
from tests.chaos.scale import is_long, scaled
from tests.end_to_end.processes import foxes, until
from tests.factories import look, states
from tests.s3 import S3Server
from tests.worker.contexts import submit

JOBS = scaled(200, 2000)
AWAY_S = scaled(2.0, 120.0)
BUFFER = 4 * (4 + 4 + 2)
"""Images of four at work, four that wait, one that is handed over and one that is drawn."""

pytestmark = pytest.mark.timeout(scaled(300, 600))


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Leases that run out within the time that the output is away, unless they are renewed."""
    return settings.model_copy(update={"batch_size": 4, "claim": 32, "lease_s": 2, "retry_delay_s": 0})


def done(engine: Engine) -> int:
    """How many jobs are done."""
    return states(engine).get("done", 0)


@contextmanager
def folder_away(folder: Path) -> Iterator[None]:
    """Within it, a batch's folder can't be written to, as little as any other part of the output."""
    folder.rename(folder.with_name("away"))
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        folder.with_name("away").rename(folder)


def look_on(engine: Engine, running: Mill) -> None:
    """What a worker does while its output is away."""
    until(lambda: unhealthy_workers(engine))
    ends, before = time.monotonic() + AWAY_S, running.renders().total()
    while time.monotonic() < ends:
        time.sleep(0.2)
    assert running.renders().total() <= done(engine) + BUFFER, "it draws on"
    assert states(engine).get("failed", 0) == 0
    assert before


def test_nothing_is_failed_or_drawn_twice(quick: Settings, engine: Engine, tmp_path: Path) -> None:
    batch = submit(quick, engine, tmp_path, foxes(JOBS), max_attempts="1")
    with mill(quick, tmp_path / "mill", workers=1, step_s=0.005) as running:
        until(lambda: done(engine) >= 8)
        with folder_away(Path(quick.output) / batch.name):
            look_on(engine, running)
        assert settle(engine, quiet_s=30), running.log()[-3000:]
        assert running.renders().total() == JOBS
        until(lambda: not unhealthy_workers(engine))
    assert check(engine, batch.name).states == {"done": JOBS}
    assert look(engine, "SELECT count(*) AS n FROM attempts") == [{"n": 0}]


@pytest.mark.skipif(not is_long(), reason="boto3 tries for long before it says that a store is away")
def test_an_s3_that_answers_503_for_two_minutes(
    quick: Settings, engine: Engine, s3: S3Server, tmp_path: Path
) -> None:
    with faulty(s3.endpoint_url, share=0, hang_s=0) as proxy:
        reaching = {"s3_endpoint_url": proxy.endpoint_url, "s3_region": "us-east-1"}
        own = quick.model_copy(update=reaching)
        output = f"{s3.uri}/{tmp_path.name}"
        batch = submit(own, engine, tmp_path, foxes(JOBS), max_attempts="1", output=output)
        with mill(own, tmp_path / "mill", workers=1, step_s=0.005) as running:
            until(lambda: done(engine) >= 8)
            proxy.is_away = True
            look_on(engine, running)
            proxy.is_away = False
            assert settle(engine, quiet_s=60), running.log()[-3000:]
    facts = check(engine, batch.name, s3=S3Options(s3.endpoint_url, "us-east-1"))
    assert facts.states == {"done": JOBS}
    assert look(engine, "SELECT count(*) AS n FROM attempts") == [{"n": 0}]


def test_a_worker_that_does_not_wait_fails_its_jobs(quick: Settings, engine: Engine, tmp_path: Path) -> None:
    batch = submit(quick, engine, tmp_path, foxes(JOBS), max_attempts="1")
    with mill(quick, tmp_path / "mill", workers=1, step_s=0.005, twin="no-waiting") as running:
        until(lambda: done(engine) >= 8)
        with folder_away(Path(quick.output) / batch.name):
            until(lambda: states(engine).get("failed", 0) > 0)
        assert settle(engine, quiet_s=30), running.log()[-3000:]
    assert check(engine, batch.name).states["failed"] > 0
