"""`kill -9` of children, parents and schedulers at random moments: every job is done once, little is drawn twice."""

import random
import time
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.settings import Settings
from tests.chaos.invariant import check
from tests.chaos.mill import Mill, mill, settle
from tests.chaos.scale import scaled
from tests.end_to_end.processes import foxes, until
from tests.factories import look
from tests.worker.contexts import submit

JOBS, KILLS, CLAIM = scaled(200, 5000), scaled(8, 200), 8
UNFINISHED = "SELECT FROM jobs WHERE finished_at IS NULL LIMIT 1"
RUNNING = "SELECT FROM jobs WHERE state = 'running' LIMIT 1"

pytestmark = pytest.mark.timeout(scaled(300, 3600))


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Claims of two device batches, and leases that run out soon."""
    return settings.model_copy(update={"batch_size": 4, "claim": CLAIM, "lease_s": 1.5, "tick_s": 0.1})


def strikes(running: Mill, engine: Engine, count: int) -> Counter[str]:
    """Kill at random moments while jobs are being rendered; what was killed."""
    struck: Counter[str] = Counter()
    while struck.total() < count and look(engine, UNFINISHED):
        until(lambda: not look(engine, UNFINISHED) or look(engine, RUNNING))
        time.sleep(random.uniform(0, 0.6))
        if kind := running.strike():
            struck[kind] += 1
    return struck


def test_nothing_is_lost_and_little_is_drawn_twice(quick: Settings, engine: Engine, tmp_path: Path) -> None:
    batch = submit(quick, engine, tmp_path, foxes(JOBS), max_attempts="50")
    with mill(quick, tmp_path / "mill", schedulers=2, step_s=0.1) as running:
        struck = strikes(running, engine, KILLS)
        assert settle(engine, quiet_s=20), running.log()[-3000:]
    facts = check(engine, batch.name, places=[(row, 0) for row in range(JOBS)])
    assert facts.states == {"done": JOBS}
    lost = look(engine, "SELECT outcome, error_kind FROM attempts")
    assert facts.attempts == JOBS + len(lost)
    assert {(row["outcome"], row["error_kind"]) for row in lost} <= {("expired", "crash")}
    repeated = running.renders().total() - JOBS
    assert struck.total() == KILLS, "the jobs were done before all was killed"
    print(f"killed {dict(struck)}: {len(lost)} attempts lost, {repeated} pictures of {JOBS} drawn again")
    assert len(running.renders()) == JOBS
    assert repeated <= (struck["child"] + struck["parent"]) * CLAIM


def test_without_rescue_jobs_are_lost(quick: Settings, engine: Engine, tmp_path: Path) -> None:
    batch = submit(quick, engine, tmp_path, foxes(24), max_attempts="50")
    with mill(quick, tmp_path / "mill", workers=1, step_s=0.1, twin="no-rescue") as running:
        until(lambda: look(engine, RUNNING))
        for child in running.children():
            child.kill()
        assert not settle(engine, quiet_s=4)
    with pytest.raises(AssertionError, match="is running"):
        check(engine, batch.name)


def test_without_renewal_live_workers_draw_twice(quick: Settings, engine: Engine, tmp_path: Path) -> None:
    hasty = quick.model_copy(update={"lease_s": 0.8})
    batch = submit(hasty, engine, tmp_path, foxes(4, steps=100), max_attempts="50")
    with mill(hasty, tmp_path / "mill", workers=1, twin="no-renewal") as running:
        until(lambda: running.renders().total() > batch.jobs)
