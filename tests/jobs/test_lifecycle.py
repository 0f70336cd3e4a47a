"""Any order of what workers, the rescuer and a person may do: what always holds of the job table."""

from collections.abc import Callable, Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine

from jobs import batches, queue
from jobs.errors import LeaseLostError
from jobs.job import Job
from jobs.states import RETRYABLE, ErrorKind, JobState
from tests.factories import (
    change,
    expire,
    failure,
    held,
    image,
    job_row,
    lane_differences,
    lanes_of,
    look,
    make_batch,
    take,
)

ROWS = [{"prompt": f"fox {i}", "width": 64 + 8 * (i % 2)} for i in range(6)]
MAX_ATTEMPTS = 3

databases: list[Engine] = []


@pytest.fixture(autouse=True)
def _database(engine: Engine) -> Iterator[None]:
    databases.append(engine)
    yield
    databases.clear()


class Lifecycle(RuleBasedStateMachine):
    """One batch of two lanes; a claim stays known to its worker after it was lost."""

    claims = Bundle("claims")

    @initialize()
    def submit(self) -> None:
        (self.engine,) = databases
        change(self.engine, "TRUNCATE batches, lanes, tallies, jobs, attempts, images, rejects")
        self.batch = make_batch(self.engine, ROWS, max_attempts=MAX_ATTEMPTS)
        self.lanes = lanes_of(self.engine, self.batch)
        self.owners: dict[int, Job] = {}
        self.pictures: dict[int, str] = {}

    @rule(
        target=claims, worker=st.sampled_from(["w1", "w2"]), lane=st.integers(0, 1), limit=st.integers(1, 3)
    )
    def claim(self, worker: str, lane: int, limit: int) -> object:
        jobs = take(self.engine, self.lanes[lane], limit, worker)
        for job in jobs:
            assert job.id not in self.owners, "it belongs to a worker"
            assert job.id not in self.pictures, "it has its image"
            self.owners[job.id] = job
        return multiple(*jobs)

    @rule(job=consumes(claims))
    def complete(self, job: Job) -> None:
        if self._is_still_his(job, lambda: queue.complete(self.engine, [image(job)])):
            self.pictures[job.id] = image(job).sha256

    @rule(job=consumes(claims), kind=st.sampled_from(ErrorKind))
    def fail(self, job: Job, kind: ErrorKind) -> None:
        if self._is_still_his(job, lambda: queue.fail(self.engine, [failure(job, kind)], delay_s=0)):
            again = job.attempt < min(MAX_ATTEMPTS, kind.most_attempts)
            assert job_row(self.engine, job)["state"] == ("queued" if again else "failed")

    @rule(job=consumes(claims))
    def block(self, job: Job) -> None:
        self._is_still_his(job, lambda: queue.block(self.engine, [failure(job, ErrorKind.SAFETY)]))

    @rule(jobs=st.lists(claims, max_size=3, unique_by=lambda job: job.id))
    def release(self, jobs: list[Job]) -> None:
        owned = {job.id for job in jobs if self.owners.get(job.id) == job}
        assert queue.release(self.engine, held(*jobs)) == owned
        for job in owned:
            del self.owners[job]

    @rule(jobs=st.lists(claims, max_size=3, unique_by=lambda job: job.id))
    def extend(self, jobs: list[Job]) -> None:
        owned = {job.id for job in jobs if self.owners.get(job.id) == job}
        assert queue.extend(self.engine, held(*jobs), 60) == owned

    @rule(job=claims)
    def fall_silent(self, job: Job) -> None:
        if self.owners.get(job.id) == job:
            expire(self.engine, job)

    @rule()
    def rescue(self) -> None:
        expired = {row["id"] for row in look(self.engine, "SELECT id FROM jobs WHERE lease_until < now()")}
        assert queue.rescue(self.engine) == len(expired)
        for job in expired:
            del self.owners[job]

    @rule()
    def pause(self) -> None:
        batches.pause(self.engine, self.batch.id)

    @rule()
    def resume(self) -> None:
        batches.resume(self.engine, self.batch.id)

    @rule()
    def cancel(self) -> None:
        batches.cancel(self.engine, self.batch.id)
        self.owners.clear()

    @rule(states=st.sets(st.sampled_from(RETRYABLE), min_size=1), kind=st.none() | st.sampled_from(ErrorKind))
    def retry(self, states: set[JobState], kind: ErrorKind | None) -> None:
        batches.retry(self.engine, self.batch.id, sorted(states), kind)

    @rule()
    def fold(self) -> None:
        batches.fold_tallies(self.engine, limit=5)

    @invariant()
    def the_counts_are_true(self) -> None:
        assert lane_differences(self.engine) == []

    @invariant()
    def every_done_job_has_its_image_and_no_other_has_one(self) -> None:
        stored = {
            row["job_id"]: row["sha256"] for row in look(self.engine, "SELECT job_id, sha256 FROM images")
        }
        done = {row["id"] for row in look(self.engine, "SELECT id FROM jobs WHERE state = 'done'")}
        assert stored == self.pictures
        assert done == set(stored)

    @invariant()
    def what_runs_is_what_the_workers_hold(self) -> None:
        running = look(self.engine, "SELECT id, lease FROM jobs WHERE state = 'running'")
        assert {row["id"]: row["lease"] for row in running} == {
            id: job.lease for id, job in self.owners.items()
        }

    @invariant()
    def no_job_is_tried_too_often(self) -> None:
        assert look(self.engine, f"SELECT id FROM jobs WHERE attempt NOT BETWEEN 0 AND {MAX_ATTEMPTS}") == []  # noqa: S608

    def _is_still_his(self, job: Job, write: Callable[[], None]) -> bool:
        before = job_row(self.engine, job)
        if self.owners.get(job.id) == job:
            write()
            del self.owners[job.id]
            return True
        with pytest.raises(LeaseLostError):
            write()
        assert job_row(self.engine, job) == before
        return False


def test_any_order_of_events_keeps_the_table_true() -> None:
    run_state_machine_as_test(
        Lifecycle,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
