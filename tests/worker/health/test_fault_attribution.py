"""Whose fault it is when job after job fails."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.job_dataclasses import Job, LaneId
from jobs.queue import transitions
from jobs.queue.worker_health_reports import report_health, unhealthy_workers
from jobs.states import ErrorKind
from models.errors import ModelError
from tests.factories import change, failure, image, job_row, look, make_lane, states, take
from worker.health import fault_attribution, lane_backoff
from worker.health.error_classification import LaneDoubtedError
from worker.health.fault_attribution import STREAK, CircuitBreaker
from worker.health.lane_backoff import BROKEN, Health
from worker.item import PipelineItem
from worker.lanes.run_stages_and_report_ends import StageRunner
from worker.liveness.lease_keeper import LeaseKeeper
from worker.monitoring.job_traces import JobTraces


def broken_device() -> None:
    raise ModelError("cpu doesn't compute any more")


def items(jobs: list[Job], kind: ErrorKind = ErrorKind.EXCEPTION) -> list[PipelineItem]:
    return [PipelineItem(job).ended(kind, "CUDA error: device-side assert") for job in jobs]


class Fixed:
    """A worker by the name of w1, its breaker and what it reports to."""

    def __init__(
        self,
        engine: Engine,
        check: Callable[[], None] = lambda: None,
        handover: Path | None = None,
        name: str = "w1",
    ) -> None:
        self.engine, self.name = engine, name
        self.leases = LeaseKeeper(engine, name, "cpu", 30)
        self.health = Health(engine, name, "cpu", handover)
        self.breaker = CircuitBreaker(engine, self.health, check, 0 if self.health.has_rested() else 600)
        self.stage_runner = StageRunner(
            engine, self.leases, self.breaker, retry_delay_s=0, traces=JobTraces()
        )
        report_health(engine, name, "cpu", None)

    def claimed(self, lane: LaneId, limit: int = STREAK) -> list[Job]:
        jobs = take(self.engine, lane, limit, self.name)
        self.leases.add(jobs)
        return jobs

    def fail(self, jobs: list[Job], kind: ErrorKind = ErrorKind.EXCEPTION) -> None:
        self.stage_runner.end(items(jobs, kind))

    def slice(self, lane: LaneId, limit: int = STREAK, kind: ErrorKind = ErrorKind.EXCEPTION) -> list[Job]:
        """A time slice in which each job of a claim fails."""
        jobs = self.claimed(lane, limit)
        with suppress(LaneDoubtedError):
            self.fail(jobs, kind)
        self.stage_runner.close()
        return jobs

    def store(self, lane: LaneId, count: int = 1) -> None:
        """Another slice in which images are stored."""
        store(self.engine, lane, count, self.name)
        self.stage_runner.went_well(lane)
        self.health.stored()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane that is doubted is left for a while."""
    monkeypatch.setattr(lane_backoff, "FIRST_PAUSE_S", 1.0)


@pytest.fixture
def worker(engine: Engine) -> Fixed:
    return Fixed(engine)


@pytest.fixture
def other(engine: Engine) -> Fixed:
    return Fixed(engine, name="w2")


def store(engine: Engine, lane: LaneId, count: int, worker: str = "w2") -> None:
    """A worker stores images."""
    transitions.complete(engine, [image(job) for job in take(engine, lane, count, worker)])


def charged(engine: Engine) -> int:
    return len(look(engine, "SELECT 1 FROM attempts WHERE outcome <> 'returned'"))


def test_where_others_store_images_jobs_go_back(engine: Engine, worker: Fixed) -> None:
    lane = make_lane(engine, 30)
    store(engine, lane, 10)
    jobs = worker.claimed(lane)
    worker.fail(jobs[:-1])
    assert charged(engine) == 0, "it isn't known yet"
    with pytest.raises(LaneDoubtedError):
        worker.fail(jobs[-1:])
    assert {job_row(engine, job)["attempt"] for job in jobs} == {0}
    returned = look(engine, "SELECT attempt, outcome, error_kind, worker FROM attempts")
    assert (
        returned
        == [{"attempt": 1, "outcome": "returned", "error_kind": "exception", "worker": "w1"}] * STREAK
    )
    assert not any(map(worker.leases.holds, jobs))
    assert worker.health.avoided() == {lane}
    assert not worker.health.is_resting(), "it may be this lane alone that it can't work in"


def test_small_lanes_count_together(engine: Engine, worker: Fixed, other: Fixed) -> None:
    lanes = [make_lane(engine, 5) for _ in range(3)]
    worker.slice(lanes[0])
    assert worker.health.is_healthy()
    worker.slice(lanes[1])
    assert worker.health.is_resting()
    assert worker.health.must_restart
    assert charged(engine) == 0
    assert states(engine) == {"queued": 15}
    other.store(lanes[0], 5)
    assert charged(engine) == 0


def test_the_same_lane_again_with_no_image_between_is_the_workers_fault(
    engine: Engine, worker: Fixed, other: Fixed
) -> None:
    lane = make_lane(engine, 100)
    worker.slice(lane)
    assert not worker.health.is_resting()
    worker.slice(lane, 2 * STREAK)
    assert worker.health.is_resting()
    assert charged(engine) == 0
    assert other.health.is_healthy()


def test_an_image_of_another_lane_between_tells_that_the_jobs_are_to_blame(
    engine: Engine, worker: Fixed, other: Fixed
) -> None:
    bad, good = make_lane(engine, 5, max_attempts=1), make_lane(engine, 5)
    worker.slice(bad)
    assert charged(engine) == 0
    worker.store(good)
    worker.slice(bad)
    assert charged(engine) == 5
    assert worker.health.is_healthy()
    assert other.health.is_healthy()


def test_a_lane_that_others_can_work_in_is_avoided_and_the_others_are_not(
    engine: Engine, worker: Fixed
) -> None:
    ill, good = make_lane(engine, 100), make_lane(engine, 20)
    store(engine, ill, 10)
    for _ in range(4):
        worker.slice(ill)
        worker.store(good)
    assert charged(engine) == 0
    assert not worker.health.is_resting()
    assert worker.health.avoided() == {ill}
    (told,) = unhealthy_workers(engine)
    assert "other workers do such jobs" in told.reason


def test_a_job_that_failed_on_a_worker_that_can_work_is_to_blame_itself(
    engine: Engine, worker: Fixed, other: Fixed
) -> None:
    lane, good = make_lane(engine, 30), make_lane(engine, 2)
    other.store(good)
    jobs = other.slice(lane)
    assert charged(engine) == 0
    again = worker.claimed(lane)
    assert {job.id for job in again} == {job.id for job in jobs}
    worker.fail(again)
    assert charged(engine) == STREAK
    assert worker.health.is_healthy()


def test_a_worker_that_stores_nothing_is_no_witness(engine: Engine, worker: Fixed, other: Fixed) -> None:
    lane = make_lane(engine, STREAK)
    other.slice(lane)
    worker.slice(lane)
    assert charged(engine) == 0


def test_the_process_before_this_one_is_no_witness(engine: Engine, tmp_path: Path, other: Fixed) -> None:
    lanes = [make_lane(engine, 5) for _ in range(2)]
    before = Fixed(engine, handover=tmp_path / "rest")
    for lane in lanes:
        before.slice(lane)
    assert before.health.must_restart
    change(engine, "UPDATE workers SET stored_at = now() WHERE name = 'w1'")
    after = Fixed(engine, handover=tmp_path / "rest", name="w3")
    after.slice(lanes[0])
    assert charged(engine) == 0
    assert after.health.must_restart, "one lane is enough for a worker that was started anew for this"
    assert other.health.is_healthy()


def test_what_has_failed_before_by_its_own_fault_is_charged_at_once(engine: Engine, worker: Fixed) -> None:
    lane = make_lane(engine, 2)
    (job,) = worker.claimed(lane, 1)
    transitions.fail(engine, [failure(job)], delay_s=0)
    worker.fail(worker.claimed(lane, 1))
    assert charged(engine) == 2


def test_alone_and_without_an_image_the_batch_is_to_blame(engine: Engine, worker: Fixed) -> None:
    lane = make_lane(engine, 3 * STREAK, max_attempts=1)
    for _ in range(2):
        worker.slice(lane, kind=ErrorKind.NOT_FINITE)
    assert charged(engine) == 0
    for _ in range(3):
        worker.slice(lane, 100, ErrorKind.NOT_FINITE)
    assert states(engine) == {"failed": 3 * STREAK}
    assert worker.health.is_healthy()


def test_who_is_alone_waits_for_others_first(
    engine: Engine, worker: Fixed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fault_attribution, "ALONE_S", 10.0)
    lane = make_lane(engine, STREAK, max_attempts=1)
    for _ in range(5):
        worker.slice(lane)
    assert charged(engine) == 0
    change(engine, "UPDATE attempts SET ended_at = ended_at - interval '10 s'")
    worker.slice(lane)
    assert charged(engine) == STREAK


def test_a_device_that_does_not_compute_is_to_blame_though_alone(engine: Engine) -> None:
    worker = Fixed(engine, broken_device)
    lane = make_lane(engine, STREAK)
    for _ in range(5):
        worker.slice(lane)
    assert charged(engine) == 0
    assert "doesn't compute any more" in unhealthy_workers(engine)[0].reason
    assert worker.health.must_restart


def test_failures_between_images_are_the_jobs_own(engine: Engine, worker: Fixed) -> None:
    lane = make_lane(engine, 30)
    store(engine, lane, 10)
    jobs = worker.claimed(lane, 2 * STREAK)
    for job in jobs:
        worker.fail([job])
        worker.stage_runner.went_well(lane)
    assert charged(engine) == 2 * STREAK


def test_a_few_failures_after_images_of_the_lane_are_the_jobs_own(engine: Engine, worker: Fixed) -> None:
    lane = make_lane(engine, 10)
    worker.store(lane)
    worker.fail(worker.claimed(lane, 3))
    assert states(engine) == {"done": 1, "queued": 6, "running": 3}
    worker.stage_runner.close()
    assert charged(engine) == 3


def test_two_workers_at_which_all_fails_end_the_batch(engine: Engine, worker: Fixed, other: Fixed) -> None:
    lane = make_lane(engine, 2 * STREAK, max_attempts=1)
    for _ in range(8):
        for one in (worker, other):
            one.slice(lane, 100)
        if worker.health.is_resting():
            change(engine, "DELETE FROM workers WHERE name = 'w1'")
    assert states(engine) == {"failed": 2 * STREAK}


def lacking_a_folder(jobs: list[Job]) -> list[PipelineItem]:
    return [PipelineItem(job).ended(ErrorKind.BAD_INPUT, "no folder", is_of_host=True) for job in jobs]


def test_a_folder_that_is_missing_here_is_never_charged_to_a_whole_lane(
    engine: Engine, worker: Fixed
) -> None:
    lane, good = make_lane(engine, 5), make_lane(engine, 20)
    for _ in range(4):
        worker.stage_runner.end(lacking_a_folder(worker.claimed(lane)))
        worker.stage_runner.close()
        worker.store(good)
    assert charged(engine) == 0
    assert not worker.health.is_resting()
    assert worker.health.avoided() == {lane}
    assert "no folder" in unhealthy_workers(engine)[0].reason


def test_nor_at_once_to_a_job_among_others(
    engine: Engine, worker: Fixed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fault_attribution, "ALONE_S", 10.0)
    lane = make_lane(engine, 20)
    for n in range(3):
        change(engine, "UPDATE jobs SET not_before = now() WHERE not_before > now()")
        change(engine, "UPDATE attempts SET ended_at = ended_at - interval '10 s'")
        worker.stage_runner.end(lacking_a_folder(worker.claimed(lane, 1)))
        worker.store(lane)
        assert charged(engine) == (n == 2)
        later = look(engine, "SELECT 1 FROM jobs WHERE not_before > now()")
        assert len(later) == (n < 2), "others may try, and then this worker again"
    assert states(engine) == {"done": 3, "failed": 1, "queued": 16}


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
    second.stored()
    assert not Health(engine, "w4", "cpu", note).has_rested()
    note.write_text("half a no")
    assert not Health(engine, "w5", "cpu", note).has_rested()
