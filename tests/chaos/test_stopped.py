"""SIGTERM to a worker at random moments: it ends in time, gives its jobs back at once, and charges none for it."""

import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.settings import Settings
from tests.chaos.invariant import check
from tests.chaos.mill import Mill, mill, settle
from tests.chaos.scale import scaled
from tests.end_to_end.processes import descendants, end, foxes, gone, until
from tests.factories import look
from tests.worker.contexts import submit

STOPS, JOBS = scaled(6, 200), scaled(90, 5000)
EXIT_S, RELEASE_S = 30, 1

pytestmark = pytest.mark.timeout(scaled(300, 3600))


@pytest.fixture
def patient(settings: Settings) -> Settings:
    """Many jobs in a claim, and leases that don't run out while the test looks."""
    return settings.model_copy(update={"batch_size": 4, "claim": 16, "lease_s": 30})


@dataclass(frozen=True)
class Stop:
    """Workers stopped together: exit codes, seconds until the last was gone, jobs that ran a second later."""

    codes: tuple[int, ...]
    took_s: float
    kept: int


def stop_somewhen(running: Mill, engine: Engine) -> Stop:
    """Stop all workers, at work in four of five cases, else as they start; the keeper starts others."""
    workers = until(running.workers)
    if random.random() < 0.8:
        until(lambda: held(engine))
    time.sleep(random.uniform(0, 1))
    family, began = [child for worker in workers for child in descendants(worker)], time.monotonic()
    with running.hands_off():
        for worker in workers:
            worker.terminate()
            time.sleep(random.uniform(0, 0.3))
        codes = tuple(end(worker, seconds=EXIT_S) for worker in workers)
        ended = time.monotonic()
        assert gone(family, 3), "processes outlive the worker that started them"
        while (kept := held(engine)) and time.monotonic() < ended + RELEASE_S:
            time.sleep(0.05)
    return Stop(codes, ended - began, kept)


def held(engine: Engine) -> int:
    """How many jobs are running."""
    return len(look(engine, "SELECT FROM jobs WHERE state = 'running'"))


def test_stops_are_quick_and_free(patient: Settings, engine: Engine, tmp_path: Path) -> None:
    batch = submit(patient, engine, tmp_path, foxes(JOBS, steps=10))
    with mill(patient, tmp_path / "mill", workers=2) as running:
        stops = [stop_somewhen(running, engine) for _ in range(STOPS // 2)]
        print(f"{STOPS} stops took {max(stop.took_s for stop in stops):.1f} s at most")
        assert {stop.kept for stop in stops} == {0}
        # One that is asked to stop while Python starts has no handler yet, and nothing to give back.
        assert {code for stop in stops for code in stop.codes} <= {0, -signal.SIGTERM}
        assert {
            row["attempt"] for row in look(engine, "SELECT attempt FROM jobs WHERE state = 'queued'")
        } <= {0}
        assert settle(engine, quiet_s=20), running.log()[-3000:]
        assert "Traceback" not in running.log()
    assert look(engine, "SELECT * FROM attempts") == []
    facts = check(engine, batch.name, places=[(row, 0) for row in range(JOBS)])
    assert (facts.states, facts.attempts) == ({"done": JOBS}, JOBS)


def test_a_worker_whose_device_hangs_stops_in_time(patient: Settings, engine: Engine, tmp_path: Path) -> None:
    own = patient.model_copy(update={"shutdown_grace_s": 1})
    submit(own, engine, tmp_path, [{"prompt": "fault:hang:once", "steps": 2}])
    with mill(own, tmp_path / "mill", workers=1) as running:
        until(lambda: list((tmp_path / "mill").glob("had-*")))
        (worker,) = running.workers()
        family = descendants(worker)
        with running.hands_off():
            assert end(worker, seconds=EXIT_S) == 0
            assert gone(family, 3)
        assert "did not stop: killed" in running.log()
    assert held(engine) == 1, "nobody could give it back; its lease runs out"


def test_without_release_a_stop_keeps_its_jobs(patient: Settings, engine: Engine, tmp_path: Path) -> None:
    submit(patient, engine, tmp_path, foxes(60, steps=50))
    with mill(patient, tmp_path / "mill", workers=1, twin="no-release") as running:
        until(lambda: held(engine))
        assert stop_somewhen(running, engine).kept > 0
