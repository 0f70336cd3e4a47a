"""What holds when several want the same job: one has it, the others learn that they don't."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from uuid import uuid4

import pytest
from sqlalchemy import Engine, event, text

from jobs.batches import actions
from jobs.errors import LeaseLostError
from jobs.job_dataclasses import Job
from jobs.queue import transitions
from jobs.states import ErrorKind
from tests.factories import (
    expire,
    failure,
    held,
    image,
    job_row,
    lane_differences,
    look,
    make_batch,
    make_lane,
    states,
    take,
    take_one,
)

WRITES: dict[str, Callable[[Engine, list[Job]], object]] = {
    "complete": lambda engine, jobs: transitions.complete(engine, [image(job) for job in jobs]),
    "fail": lambda engine, jobs: transitions.fail(engine, [failure(job) for job in jobs], delay_s=0),
    "block": lambda engine, jobs: transitions.block(engine, [failure(job, ErrorKind.SAFETY) for job in jobs]),
}
AFTER = {"complete": "done", "fail": "queued", "block": "blocked"}


@pytest.fixture(autouse=True)
def _job_counts_are_the_truth(engine: Engine) -> Iterator[None]:
    yield
    assert lane_differences(engine) == []


def superseded(engine: Engine) -> tuple[Job, Job]:
    """A job as a stale worker holds it, and as the worker that has it now."""
    lane = make_lane(engine, 1)
    stale = take_one(engine, lane, "stale")
    expire(engine, stale)
    transitions.rescue(engine)
    return stale, take_one(engine, lane, "owner")


@pytest.mark.parametrize("write", WRITES)
def test_a_stale_worker_changes_nothing(engine: Engine, write: str) -> None:
    stale, owner = superseded(engine)
    before = job_row(engine, owner)
    with pytest.raises(LeaseLostError, match=rf"jobs {stale.id} were given"):
        WRITES[write](engine, [stale])
    assert job_row(engine, owner) == before
    assert look(engine, "SELECT * FROM images") == []
    assert len(look(engine, "SELECT * FROM attempts")) == 1, "the expired one"
    transitions.complete(engine, [image(owner)])
    assert look(engine, "SELECT worker, attempt FROM images") == [{"worker": "owner", "attempt": 2}]


@pytest.mark.parametrize("write", WRITES)
def test_a_worker_that_has_a_job_again_may_bring_both_leases(engine: Engine, write: str) -> None:
    stale, owner = superseded(engine)
    WRITES[write](engine, [stale, owner])
    assert job_row(engine, owner)["state"] == AFTER[write]
    stored = look(engine, "SELECT sha256 FROM images")
    assert stored == [{"sha256": image(owner).sha256}] * (write == "complete")


def test_a_stale_worker_neither_extends_nor_releases(engine: Engine) -> None:
    stale, owner = superseded(engine)
    before = job_row(engine, owner)
    assert transitions.extend(engine, held(stale), 999) == set()
    assert transitions.release(engine, held(stale)) == set()
    assert job_row(engine, owner) == before


@pytest.mark.parametrize("write", WRITES)
def test_what_is_still_held_is_stored_in_the_same_call(engine: Engine, write: str) -> None:
    lane = make_lane(engine, 3)
    first, lost, last = take(engine, lane)
    expire(engine, lost)
    transitions.rescue(engine)
    with pytest.raises(LeaseLostError, match=f"jobs {lost.id} were"):
        WRITES[write](engine, [first, lost, last])
    assert [job_row(engine, job)["state"] for job in (first, last)] == [AFTER[write]] * 2
    assert (job_row(engine, lost)["state"], job_row(engine, lost)["error_kind"]) == ("queued", "crash")


@pytest.mark.parametrize("write", WRITES)
def test_nothing_can_be_written_twice(engine: Engine, write: str) -> None:
    job = take_one(engine, make_lane(engine, 1))
    WRITES[write](engine, [job])
    after = job_row(engine, job)
    for again in WRITES.values():
        with pytest.raises(LeaseLostError):
            again(engine, [job])
    assert job_row(engine, job) == after


@pytest.mark.parametrize("write", WRITES)
def test_a_lease_that_ran_out_holds_until_somebody_takes_the_job(engine: Engine, write: str) -> None:
    job = take_one(engine, make_lane(engine, 1))
    expire(engine, job)
    assert transitions.extend(engine, held(job), 60) == {job.id}
    assert transitions.rescue(engine) == 0
    WRITES[write](engine, [job])
    assert states(engine) == {AFTER[write]: 1}


def test_extend_renews_what_is_held_and_leaves_out_the_rest(engine: Engine) -> None:
    jobs = take(engine, make_lane(engine, 3), lease_s=1)
    transitions.complete(engine, [image(jobs[0])])
    guessed = [(jobs[2].id, uuid4())]
    assert transitions.extend(engine, held(*jobs[:2]) + guessed, 3600) == {jobs[1].id}
    renewed = look(engine, "SELECT ordinal FROM jobs WHERE lease_until > now() + interval '59 minutes'")
    assert [row["ordinal"] for row in renewed] == [1]


def test_empty_lists_are_fine(engine: Engine) -> None:
    assert transitions.extend(engine, [], 60) == transitions.release(engine, []) == set()
    transitions.complete(engine, [])
    transitions.fail(engine, [], delay_s=1)
    transitions.block(engine, [])


@pytest.mark.parametrize("write", WRITES)
def test_a_job_cancelled_while_it_runs_is_lost_to_its_worker(engine: Engine, write: str) -> None:
    batch = make_batch(engine, 1)
    job = take_one(engine, look(engine, "SELECT id FROM lanes")[0]["id"])
    actions.cancel(engine, batch.id)
    with pytest.raises(LeaseLostError, match="cancelled"):
        WRITES[write](engine, [job])
    assert states(engine) == {"cancelled": 1}
    assert look(engine, "SELECT * FROM images") == []


def test_eight_claimers_get_each_job_exactly_once(engine: Engine) -> None:
    lane = make_lane(engine, 600)

    def work(number: int) -> list[int]:
        taken: list[int] = []
        while jobs := take(engine, lane, 1 + number, f"w{number}"):
            taken += [job.id for job in jobs]
            transitions.complete(engine, [image(job) for job in jobs])
        return taken

    with ThreadPoolExecutor(8) as threads:
        per_worker = list(threads.map(work, range(8)))
    assert sum(bool(taken) for taken in per_worker) > 1, "they didn't run at once"
    assert Counter(job for taken in per_worker for job in taken) == Counter(
        row["job_id"] for row in look(engine, "SELECT job_id FROM images")
    )
    assert states(engine) == {"done": 600}


def test_a_claim_passes_over_jobs_that_another_is_taking(engine: Engine) -> None:
    lane = make_lane(engine, 4)
    with engine.begin() as other:
        other.execute(text("SELECT id FROM jobs WHERE ordinal < 2 FOR UPDATE"))
        assert [job.ordinal for job in take(engine, lane)] == [2, 3]
    assert [job.ordinal for job in take(engine, lane)] == [0, 1]


def test_a_rescue_passes_over_jobs_that_another_is_rescuing(engine: Engine) -> None:
    expire(engine, *take(engine, make_lane(engine, 2)))
    with engine.begin() as other:
        assert len(other.execute(transitions._RESCUE, {"limit": 1}).all()) == 1
        assert transitions.rescue(engine) == 1
    assert states(engine) == {"queued": 2}
    assert len(look(engine, "SELECT * FROM attempts")) == 2


def test_a_cancel_waits_for_a_claim_and_still_ends_its_jobs(engine: Engine) -> None:
    """Otherwise a claim that began before the cancel would run on in a cancelled batch."""
    batch = make_batch(engine, 2)
    with engine.connect() as claiming, ThreadPoolExecutor(1) as threads:
        claiming.execute(
            text("""UPDATE jobs SET state = 'running', attempt = 1, lease = gen_random_uuid(), worker = 'w',
                started_at = now(), lease_until = now() + interval '1 minute' WHERE ordinal = 0""")
        )
        claiming.execute(
            text("""INSERT INTO job_counts (batch_id, lane_id, state, delta)
                SELECT batch_id, id, s, d FROM lanes, (VALUES ('queued', -1), ('running', 1)) AS v (s, d)""")
        )
        cancelled = threads.submit(actions.cancel, engine, batch.id)
        waiting = "datname = current_database() AND wait_event_type = 'Lock'"
        while not look(engine, f"SELECT 1 AS x FROM pg_stat_activity WHERE {waiting}"):  # noqa: S608
            assert not cancelled.done()
            time.sleep(0.01)
        claiming.commit()
        assert cancelled.result() == 2
    assert states(engine) == {"cancelled": 2}


def test_time_is_the_databases(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """No statement is given a time of ours, and a clock that is a century off changes nothing."""
    given: list[object] = []

    def note(_connection, _cursor, _statement, parameters, *_) -> None:
        given.extend(parameters.values())

    event.listen(engine, "before_cursor_execute", note)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    lane = make_lane(engine, 4)
    given.clear()
    lost, failed, released, done = take(engine, lane, lease_s=60)
    assert transitions.rescue(engine) == 0
    expire(engine, lost)
    assert transitions.rescue(engine) == 1
    transitions.fail(engine, [failure(failed)], delay_s=5)
    transitions.release(engine, held(released))
    transitions.extend(engine, held(done), 60)
    transitions.complete(engine, [image(done)])
    assert len(given) > 10
    assert [value for value in given if isinstance(value, datetime)] == []
    assert [value for value in given if isinstance(value, int | float) and value > 1e6] == []
    far = """
        SELECT t FROM (SELECT unnest(array[started_at, finished_at, not_before]) AS t FROM jobs) AS times
        WHERE abs(extract(epoch FROM now() - t)) > 120
    """
    assert look(engine, far) == []
