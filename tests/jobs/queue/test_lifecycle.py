"""Any order of what workers, the rescuer and a person may do: what always holds of the job table."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.errors import LeaseLostError, UsageError
from jobs.job_dataclasses import Job, JobId
from jobs.queue import lane_counts_and_low_watermarks as lane_counts
from jobs.queue import transitions
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
    states,
    take,
)

ROWS = [{"prompt": f"fox {i}", "width": 64 + 8 * (i % 2)} for i in range(6)]
MAX_ATTEMPTS = 3

# Faster than to truncate tables of a few rows.
EMPTY = """
    DELETE FROM events; DELETE FROM images; DELETE FROM attempts; DELETE FROM jobs; DELETE FROM job_counts;
    DELETE FROM lanes; DELETE FROM batches
"""
TABLE = """
    SELECT (SELECT json_agg(j) FROM (SELECT id, state, lease, attempt FROM jobs) AS j) AS jobs,
        (SELECT json_object_agg(job_id, sha256) FROM images) AS images,
        (SELECT json_object_agg(outcome, n) FROM (
            SELECT outcome, count(*) AS n FROM attempts GROUP BY 1) AS a) AS outcomes
"""

ENDED_TOO_SOON = """
    SELECT lanes.id FROM lanes JOIN jobs ON lane_id = lanes.id
    WHERE ended_at IS NOT NULL AND state IN ('queued', 'running')
"""

databases: list[Engine] = []


@contextmanager
def on(engine: Engine) -> Iterator[None]:
    """Machines that begin inside the block work on this database."""
    databases.append(engine)
    try:
        yield
    finally:
        databases.clear()


class Lifecycle(RuleBasedStateMachine):
    """One batch of two lanes; a claim stays known to its worker after it was lost."""

    claims = Bundle("claims")

    @initialize(target=claims)
    def submit(self) -> object:
        (self.engine,) = databases
        change(self.engine, EMPTY)
        self.batch = make_batch(self.engine, ROWS, max_attempts=MAX_ATTEMPTS)
        self.lanes = lanes_of(self.engine, self.batch)
        self.owners: dict[int, Job] = {}
        self.silent: set[int] = set()
        self.delayed: set[int] = set()
        self.charged: Counter[int] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.pictures: dict[int, str] = {}
        self.retracted: set[int] = set()
        self.unfinished = len(ROWS)
        self.is_paused = self.is_folded = False
        return multiple(*(job for lane in (0, 1) for job in self._claimed("w1", lane, 1)))

    @rule(
        target=claims, worker=st.sampled_from(["w1", "w2"]), lane=st.integers(0, 1), limit=st.integers(1, 3)
    )
    def claim(self, worker: str, lane: int, limit: int) -> object:
        return multiple(*self._claimed(worker, lane, limit))

    def _claimed(self, worker: str, lane: int, limit: int) -> list[Job]:
        jobs = take(self.engine, self.lanes[lane], limit, worker)
        assert len(jobs) <= limit
        assert not self.is_paused if jobs else not self._has_work(lane)
        self.is_folded = False
        for job in jobs:
            assert job.id not in self.owners, "it belongs to a worker"
            assert job.id not in self.pictures, "it has its image"
            assert job.id not in self.delayed, "it waits"
            self.charged[job.id] += 1
            assert job.attempt == self.charged[job.id]
            self.owners[job.id] = job
        return jobs

    @rule(job=consumes(claims))
    def complete(self, job: Job) -> None:
        if self._is_still_his(job, lambda: transitions.complete(self.engine, [image(job)])):
            self.pictures[job.id] = image(job).sha256

    @rule(job=consumes(claims), kind=st.sampled_from(ErrorKind), delay_s=st.sampled_from([0, 0, 3600]))
    def fail(self, job: Job, kind: ErrorKind, delay_s: float) -> None:
        if self._is_still_his(
            job, lambda: transitions.fail(self.engine, [failure(job, kind)], delay_s=delay_s)
        ):
            again = job.attempt < min(MAX_ATTEMPTS, kind.most_attempts)
            assert job_row(self.engine, job)["state"] == ("queued" if again else "failed")
            self.outcomes["retried" if again else "failed"] += 1
            if again and delay_s:
                self.delayed.add(job.id)

    @rule(job=consumes(claims))
    def block(self, job: Job) -> None:
        if self._is_still_his(job, lambda: transitions.block(self.engine, [failure(job, ErrorKind.SAFETY)])):
            self.outcomes["blocked"] += 1

    @rule(jobs=st.lists(claims, max_size=3, unique_by=lambda job: job.id))
    def release(self, jobs: list[Job]) -> None:
        owned = {job.id for job in jobs if self.owners.get(job.id) == job}
        assert transitions.release(self.engine, held(*jobs)) == owned
        for job in owned:
            self.charged[job] -= 1
            self._lose(job)

    @rule(jobs=st.lists(claims, max_size=3, unique_by=lambda job: job.id))
    def extend(self, jobs: list[Job]) -> None:
        owned = {job.id for job in jobs if self.owners.get(job.id) == job}
        assert transitions.extend(self.engine, held(*jobs), 60) == owned
        self.silent -= owned

    @rule(job=claims)
    def fall_silent(self, job: Job) -> None:
        if self.owners.get(job.id) == job:
            expire(self.engine, job)
            self.silent.add(job.id)

    @rule(job=claims)
    def die(self, job: Job) -> None:
        if self.owners.get(job.id) == job:
            self.fall_silent(job)
            self.rescue()

    @precondition(lambda self: self.owners)
    @rule()
    def rescue(self) -> None:
        expired = sorted(self.silent)
        assert transitions.rescue(self.engine) == len(expired)
        for job in expired:
            again = self.charged[job] < MAX_ATTEMPTS
            assert job_row(self.engine, JobId(job))["state"] == ("queued" if again else "failed")
            self.outcomes["expired"] += 1
            self._lose(job)

    @precondition(lambda self: self.delayed)
    @rule()
    def wait(self) -> None:
        change(self.engine, "UPDATE jobs SET not_before = now() WHERE not_before > now()")
        self.delayed.clear()

    @precondition(lambda self: not self.is_paused)
    @rule()
    def pause(self) -> None:
        (mark,) = look(self.engine, "SELECT cancelled_at IS NOT NULL AS is_cancelled FROM batches")
        if mark["is_cancelled"]:
            with pytest.raises(UsageError, match="a cancelled batch"):
                actions.pause(self.engine, self.batch.id)
            return
        actions.pause(self.engine, self.batch.id)
        self.is_paused = True

    @precondition(lambda self: self.is_paused)
    @rule()
    def resume(self) -> None:
        actions.resume(self.engine, self.batch.id)
        self.is_paused = False

    @precondition(lambda self: self.unfinished)
    @rule()
    def cancel(self) -> None:
        actions.cancel(self.engine, self.batch.id)
        assert not states(self.engine).keys() & {"queued", "running"}
        for job in list(self.owners):
            self._lose(job)
        self.delayed.clear()

    @precondition(lambda self: self.unfinished + len(self.pictures) < len(ROWS))
    @rule(states=st.sets(st.sampled_from(RETRYABLE), min_size=1), kind=st.none() | st.sampled_from(ErrorKind))
    def retry(self, states: set[JobState], kind: ErrorKind | None) -> None:
        ended = look(self.engine, "SELECT id, state, error_kind FROM jobs")
        again = [row["id"] for row in ended if row["state"] in states and kind in (None, row["error_kind"])]
        assert actions.retry(self.engine, self.batch.id, sorted(states), kind) == len(again)
        for job in again:
            assert job_row(self.engine, job)["state"] == "queued"
            self.charged[job] = 0

    @precondition(lambda self: self.pictures)
    @rule(is_wanted=st.booleans())
    def take_back(self, is_wanted: bool) -> None:
        job = min(self.pictures)
        rows = [
            (row["id"], row["key"])
            for row in look(self.engine, "SELECT * FROM images WHERE job_id = :job", job=job)
        ]
        if is_wanted:
            assert transitions.render_again(self.engine, self.batch.id, rows, "lost") == 1
            actions.reopen(self.engine, self.batch.id)
            self.charged[job] = 0
        else:
            kept = {"is_archived": False, "keeps_file": False}
            assert transitions.retract(self.engine, self.batch.id, rows, "bad", **kept) == {job}
            self.retracted.add(job)
        del self.pictures[job]

    @precondition(lambda self: self.retracted)
    @rule()
    def retry_retracted(self) -> None:
        assert actions.retry_retracted(self.engine, self.batch.id) == len(self.retracted)
        for job in self.retracted:
            self.charged[job] = 0
        self.retracted.clear()

    @precondition(lambda self: not self.is_folded)
    @rule()
    def fold(self) -> None:
        actions.fold_job_counts(self.engine, limit=5)
        self.is_folded = True

    @precondition(lambda self: self.unfinished < len(ROWS))
    @rule()
    def end_lanes(self) -> None:
        lane_counts.end_lanes(self.engine)

    @invariant()
    def the_tables_are_as_the_workers_know_them(self) -> None:
        (table,) = look(self.engine, TABLE)
        jobs = table["jobs"]
        running = {job["id"]: job["lease"] for job in jobs if job["state"] == "running"}
        assert running == {id: str(job.lease) for id, job in self.owners.items()}
        assert {job["id"] for job in jobs if job["state"] == "done"} == self.pictures.keys()
        assert {int(job): sha256 for job, sha256 in (table["images"] or {}).items()} == self.pictures
        assert {job["id"]: job["attempt"] for job in jobs} == {
            job["id"]: self.charged[job["id"]] for job in jobs
        }
        assert max(self.charged.values(), default=0) <= MAX_ATTEMPTS
        assert Counter(table["outcomes"] or {}) == self.outcomes
        self.unfinished = sum(job["state"] in ("queued", "running") for job in jobs)

    @invariant()
    def lanes_with_work_have_not_ended(self) -> None:
        assert look(self.engine, ENDED_TOO_SOON) == []

    @invariant()
    def the_counts_are_true(self) -> None:
        assert lane_differences(self.engine) == []

    def _has_work(self, lane: int) -> bool:
        """Whether a claim should have found something."""
        statement = """
            SELECT id FROM jobs
            WHERE lane_id = :lane AND state = 'queued' AND (not_before IS NULL OR not_before <= now())
        """
        found = look(self.engine, statement, lane=self.lanes[lane])
        return bool(found) and not self.is_paused

    def _lose(self, job: int) -> None:
        del self.owners[job]
        self.silent.discard(job)

    def _is_still_his(self, job: Job, write: Callable[[], None]) -> bool:
        before = job_row(self.engine, job)
        if self.owners.get(job.id) == job:
            write()
            self._lose(job.id)
            return True
        try:
            write()
        except LeaseLostError:
            pass
        else:
            raise AssertionError(f"a lease that was lost ended job {job.id}")
        assert job_row(self.engine, job) == before
        return False


def test_any_order_of_events_keeps_the_table_true(engine: Engine) -> None:
    with on(engine):
        run_state_machine_as_test(
            Lifecycle,
            settings=settings(
                max_examples=15,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
