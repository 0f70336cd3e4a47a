"""Whose fault it is when job after job fails."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs import queue
from jobs.health import report_health
from jobs.job import Job
from jobs.states import ErrorKind
from tests.factories import failure, image, job_row, look, make_lane, states, take
from worker import breaker
from worker.breaker import STREAK, Breaker
from worker.frame import Frame
from worker.health import BROKEN, Health
from worker.host_faults import HostFaultError
from worker.leases import Leases
from worker.passage import Passage


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is waited for, but for those who are there."""
    monkeypatch.setattr(breaker, "ALONE_S", 0.0)


def frames(jobs: list[Job], kind: ErrorKind = ErrorKind.EXCEPTION) -> list[Frame]:
    return [Frame(job).ended(kind, "CUDA error: device-side assert") for job in jobs]


class Fixed:
    """A worker by the name of w1, its breaker and what it reports to; `pause` is what happens while it waits."""

    def __init__(self, engine: Engine, pause: Callable[[float], bool] = lambda _: False) -> None:
        self.engine = engine
        self.leases = Leases(engine, "w1", "cpu", 30)
        self.health = Health(engine, "w1", "cpu")
        self.breaker = Breaker(engine, "w1", self.health, pause, 600)
        self.passage = Passage(engine, self.leases, self.breaker, retry_delay_s=0)

    def claimed(self, lane: int, limit: int = STREAK) -> list[Job]:
        jobs = take(self.engine, lane, limit)  # type: ignore[arg-type]
        self.leases.add(jobs)
        return jobs

    def fail(self, jobs: list[Job], kind: ErrorKind = ErrorKind.EXCEPTION) -> None:
        self.passage.end(frames(jobs, kind))


@pytest.fixture
def worker(engine: Engine) -> Fixed:
    return Fixed(engine)


def store(engine: Engine, lane: int, count: int, worker: str = "w2") -> None:
    """Another worker stores images."""
    queue.complete(engine, [image(job) for job in take(engine, lane, count, worker)])  # type: ignore[arg-type]


def charged(engine: Engine) -> int:
    return len(look(engine, "SELECT 1 FROM attempts WHERE outcome <> 'returned'"))


def test_where_others_store_images_the_worker_is_broken(engine: Engine, worker: Fixed) -> None:
    lane = make_lane(engine, 30)
    store(engine, lane, 10)
    jobs = worker.claimed(lane)
    worker.fail(jobs[:-1])
    assert charged(engine) == 0, "it isn't known yet"
    with pytest.raises(HostFaultError):
        worker.fail(jobs[-1:])
    assert worker.health.is_resting()
    assert worker.health.must_restart
    assert {job_row(engine, job)["attempt"] for job in jobs} == {0}
    returned = look(engine, "SELECT attempt, outcome, error_kind, worker FROM attempts")
    assert (
        returned
        == [{"attempt": 1, "outcome": "returned", "error_kind": "exception", "worker": "w1"}] * STREAK
    )
    assert not any(map(worker.leases.holds, jobs))


def test_a_job_that_failed_elsewhere_is_to_blame_itself(engine: Engine, worker: Fixed) -> None:
    lane = make_lane(engine, 30)
    store(engine, lane, 10)
    jobs = take(engine, lane, STREAK, "w2")
    queue.give_back(engine, [failure(job) for job in jobs])
    again = worker.claimed(lane)
    assert {job.id for job in again} == {job.id for job in jobs}
    worker.fail(again)
    assert charged(engine) == STREAK
    assert worker.health.is_healthy()


def test_alone_and_without_an_image_the_batch_is_to_blame(engine: Engine, worker: Fixed) -> None:
    lane = make_lane(engine, 3 * STREAK, max_attempts=1)
    for _ in range(3):
        worker.fail(worker.claimed(lane), ErrorKind.NOT_FINITE)
    assert states(engine) == {"failed": 3 * STREAK}
    assert worker.health.is_healthy()


def test_who_has_drawn_and_then_only_raises_starts_anew_once(engine: Engine, worker: Fixed) -> None:
    lane = make_lane(engine, 30)
    worker.passage.went_well(lane)
    with pytest.raises(HostFaultError):
        worker.fail(worker.claimed(lane))
    assert charged(engine) == 0
    after = Fixed(engine)
    after.breaker._since = 1e12  # it began after all that is known
    after.fail(after.claimed(lane))
    assert charged(engine) == STREAK, "a new process that draws nothing has no excuse"


def test_failures_between_images_are_the_jobs_own(engine: Engine, worker: Fixed) -> None:
    lane = make_lane(engine, 30)
    store(engine, lane, 10)
    jobs = worker.claimed(lane, 2 * STREAK)
    for job in jobs:
        worker.fail([job])
        worker.passage.went_well(lane)
    assert charged(engine) == 2 * STREAK


def test_what_is_held_at_the_end_is_charged(engine: Engine, worker: Fixed) -> None:
    lane = make_lane(engine, 3)
    worker.fail(worker.claimed(lane))
    assert states(engine) == {"running": 3}
    worker.passage.close()
    assert charged(engine) == 3


def test_where_all_fail_nobody_waits_for_ever(engine: Engine) -> None:
    lane = make_lane(engine, 30)
    report_health(engine, "w2", "cpu", None)

    def meanwhile(_: float) -> bool:
        report_health(
            engine, "w2", "cpu", "8 jobs in a row failed", lane_faults={lane: "8 jobs in a row failed"}
        )
        return False

    worker = Fixed(engine, meanwhile)
    worker.fail(worker.claimed(lane))
    assert charged(engine) == STREAK


def test_others_that_are_at_work_are_waited_for(engine: Engine) -> None:
    lane = make_lane(engine, 30)
    report_health(engine, "w2", "cpu", None)

    def meanwhile(_: float) -> bool:
        store(engine, lane, 2)
        return False

    worker = Fixed(engine, meanwhile)
    with pytest.raises(HostFaultError):
        worker.fail(worker.claimed(lane))
    assert charged(engine) == 0


def test_a_stop_meanwhile_charges_nothing(engine: Engine) -> None:
    lane = make_lane(engine, 30)
    report_health(engine, "w2", "cpu", None)
    worker = Fixed(engine, pause=lambda _: True)
    jobs = worker.claimed(lane)
    worker.fail(jobs)
    worker.leases.release_all()
    assert {job_row(engine, job)["attempt"] for job in jobs} == {0}


def test_a_rest_is_handed_over_and_grows_until_something_goes_well(engine: Engine, tmp_path: Path) -> None:
    note = tmp_path / "rest-0"
    first = Health(engine, "w1", "cpu", note)
    assert not first.is_resting()
    first.rest("device lost")
    second = Health(engine, "w2", "cpu", note)
    assert second.is_resting()
    assert second.has_rested()
    second.rest("device lost")
    fault = Health(engine, "w3", "cpu", note).fault(BROKEN)
    assert fault is not None
    assert fault.failures == 2
    second.went_well(BROKEN)
    assert not Health(engine, "w4", "cpu", note).has_rested()
    note.write_text("half a no")
    assert not Health(engine, "w5", "cpu", note).has_rested()
