"""Busy workers are stopped and killed, as when a farm shrinks: nothing fails, little is drawn twice."""

import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

from jobs.settings import Settings
from tests.chaos.invariant import check
from tests.chaos.mill import Mill, mill, settle
from tests.chaos.scale import scaled
from tests.end_to_end.processes import descendants, foxes, kill, until
from tests.factories import look
from tests.worker.contexts import submit

STOPS, KILLS, JOBS = scaled(9, 100), scaled(3, 20), scaled(400, 6000)
ROWS, CLAIM = 4, 8

# The worker's name in the table of workers ends in the process id of the child that renders.
BUSY = """
    SELECT split_part(worker, ':', -1)::int AS pid FROM jobs
    WHERE state = 'running' AND lease_until > now() GROUP BY worker
"""

pytestmark = pytest.mark.timeout(scaled(300, 3600))


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Claims of two device batches, and leases that outlast a stop but not the test."""
    return settings.model_copy(update={"batch_size": ROWS, "claim": CLAIM, "lease_s": 4, "tick_s": 0.1})


def busy_worker(running: Mill, engine: Engine) -> psutil.Popen:
    """The parent process of a worker that has jobs."""

    def find() -> psutil.Popen | None:
        pids = {row["pid"] for row in look(engine, BUSY)}
        found = [one for one in running.workers() if pids & {child.pid for child in descendants(one)}]
        return random.choice(found) if found else None

    found: psutil.Popen = until(find)
    return found


def shrink(running: Mill, engine: Engine, stops: int, kills: int) -> None:
    """Stop and kill busy workers at random moments of a device batch, in random order; each is replaced."""
    signals = [signal.SIGTERM] * stops + [signal.SIGKILL] * kills
    random.shuffle(signals)
    for number in signals:
        worker = busy_worker(running, engine)
        time.sleep(random.uniform(0, 0.3))
        family = descendants(worker)
        worker.send_signal(number)
        if number == signal.SIGKILL:  # as of a machine: all its processes at once
            for child in family:
                kill(child)
        until(lambda: worker.poll() is not None)  # noqa: B023 - called at once


def test_workers_that_are_taken_away(quick: Settings, engine: Engine, tmp_path: Path) -> None:
    batch = submit(quick, engine, tmp_path, foxes(JOBS), max_attempts="50")
    with mill(quick, tmp_path / "mill", workers=3, step_s=0.15) as running:
        shrink(running, engine, STOPS, KILLS)
        assert look(engine, "SELECT FROM jobs WHERE finished_at IS NULL LIMIT 1"), "all was done too soon"
        assert settle(engine, quiet_s=20), running.log()[-3000:]
        repeated = running.renders().total() - JOBS
    facts = check(engine, batch.name, places=[(row, 0) for row in range(JOBS)])
    assert facts.states == {"done": JOBS}
    charged = look(engine, "SELECT outcome FROM attempts")
    print(f"{STOPS} stopped, {KILLS} killed: {len(charged)} attempts charged, {repeated} images drawn again")
    assert {row["outcome"] for row in charged} <= {"expired"}
    assert len(charged) <= KILLS * (CLAIM + ROWS), "only jobs of killed workers are charged"
    assert repeated <= KILLS * (CLAIM + ROWS) + STOPS * ROWS


def test_without_release_stops_are_charged(quick: Settings, engine: Engine, tmp_path: Path) -> None:
    submit(quick, engine, tmp_path, foxes(60), max_attempts="50")
    with mill(quick, tmp_path / "mill", workers=2, step_s=0.15, twin="no-release") as running:
        shrink(running, engine, 3, 0)
        until(lambda: look(engine, "SELECT FROM attempts WHERE outcome = 'expired'"), 20)
