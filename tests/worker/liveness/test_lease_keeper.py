import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.db.engine import connect
from jobs.job_dataclasses import Job
from jobs.monitoring import metrics
from jobs.queue import transitions
from tests.factories import change, job_row, look, make_batch, make_lane, states, take
from worker.liveness.lease_keeper import LeaseKeeper

LEASE_S = 0.8


@pytest.fixture
def leases(engine: Engine) -> Iterator[LeaseKeeper]:
    leases = LeaseKeeper(engine, "w1", "cpu", LEASE_S)
    leases.start()
    yield leases
    leases.stop()


def claimed(engine: Engine, leases: LeaseKeeper, count: int = 2) -> list[Job]:
    jobs = take(engine, make_lane(engine, count), lease_s=LEASE_S)
    assert len(jobs) == count
    leases.add(jobs)
    return jobs


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def test_renewal_keeps_a_lease_past_its_time(engine: Engine, leases: LeaseKeeper) -> None:
    jobs = claimed(engine, leases)
    forgotten = take(engine, make_lane(engine, 1), lease_s=LEASE_S)
    time.sleep(3 * LEASE_S)
    assert transitions.rescue(engine) == 1
    assert job_row(engine, forgotten[0])["state"] == "queued"
    assert all(leases.holds(job) for job in jobs)
    assert [job_row(engine, job)["lease"] for job in jobs] == [job.lease for job in jobs]


def test_a_lost_job_is_no_longer_held(engine: Engine, leases: LeaseKeeper) -> None:
    lost, kept = claimed(engine, leases)
    transitions.release(engine, [(lost.id, lost.lease)])
    until(lambda: not leases.holds(lost))
    assert leases.holds(kept)


def test_a_job_that_was_claimed_anew_is_still_held(engine: Engine, leases: LeaseKeeper) -> None:
    before = claimed(engine, leases)
    leases.release(before)
    again = take(engine, before[0].lane_id, lease_s=LEASE_S)
    leases.add(again)
    leases.drop(before)
    leases.release(before)
    assert len(again) == 2
    assert all(leases.holds(job) for job in again)


def test_a_cancelled_job_is_no_longer_held(engine: Engine, leases: LeaseKeeper) -> None:
    batch = make_batch(engine, 1)
    (job,) = take(engine, look(engine, "SELECT id FROM lanes")[0]["id"], lease_s=LEASE_S)
    leases.add([job])
    actions.cancel(engine, batch.id)
    until(lambda: not leases.holds(job))


def test_another_claim_of_the_same_job_is_told_apart(engine: Engine, leases: LeaseKeeper) -> None:
    (first,) = claimed(engine, leases, 1)
    leases.release([first])
    (again,) = take(engine, first.lane_id, lease_s=LEASE_S)
    leases.add([again])
    assert again.id == first.id
    assert leases.holds(again)
    assert not leases.holds(first)
    leases.release([first])
    assert job_row(engine, again)["state"] == "running"


def test_releasing_gives_back_at_once_and_uncharged(engine: Engine, leases: LeaseKeeper) -> None:
    jobs = claimed(engine, leases, 5)
    leases.drop(jobs[:1])
    leases.release(jobs[:3])
    assert states(engine) == {"running": 3, "queued": 2}
    leases.release_all()
    assert states(engine) == {"running": 1, "queued": 4}
    assert not any(leases.holds(job) for job in jobs)
    assert [job_row(engine, job)["attempt"] for job in jobs] == [1, 0, 0, 0, 0]


def test_jobs_whose_end_was_refused_are_given_back_uncharged_unless_they_are_lost(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases, counted = LeaseKeeper(engine, "w1", "cpu", LEASE_S), list[float]()
    monkeypatch.setattr(metrics.LEASES_LOST, "add", counted.append)
    refused, lost, claimed_anew = claimed(engine, leases, 3)
    transitions.release(engine, [(lost.id, lost.lease), (claimed_anew.id, claimed_anew.lease)])
    change(engine, "UPDATE jobs SET not_before = now() + interval '1 hour' WHERE id = :id", id=lost.id)
    (again,) = take(engine, refused.lane_id, lease_s=LEASE_S)
    leases.add([again])
    leases.refused((job.id, job.lease) for job in (refused, lost, claimed_anew))
    assert [job_row(engine, job)["state"] for job in (refused, lost, again)] == [
        "queued",
        "queued",
        "running",
    ]
    assert job_row(engine, refused)["attempt"] == 0
    assert [leases.holds(job) for job in (refused, lost, again)] == [False, False, True]
    assert counted == [1]


def test_a_worker_is_seen_while_it_lives(engine: Engine) -> None:
    leases = LeaseKeeper(engine, "w2", "cuda:1", LEASE_S)
    leases.start()
    until(lambda: bool(look(engine, "SELECT * FROM workers WHERE name = 'w2' AND seen_at > started_at")))
    assert look(engine, "SELECT device FROM workers")[0]["device"] == "cuda:1"
    leases.stop()
    assert not look(engine, "SELECT * FROM workers")


def test_renewal_survives_a_lost_connection(engine: Engine, leases: LeaseKeeper) -> None:
    (job,) = claimed(engine, leases, 1)
    other = connect(engine.url.render_as_string(hide_password=False))
    for _ in range(3):
        look(
            other,
            """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()""",
        )
        time.sleep(LEASE_S)
    other.dispose()
    assert leases.holds(job)
    assert transitions.rescue(engine) == 0


def test_renewal_goes_on_after_whatever_went_wrong(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    went_wrong = iter([KeyError("what nobody thought of")])
    extend = transitions.extend

    def extended(*given: Any) -> Any:
        for error in went_wrong:
            raise error
        return extend(*given)

    monkeypatch.setattr(transitions, "extend", extended)
    leases = LeaseKeeper(engine, "w1", "cpu", LEASE_S)
    (job,) = take(engine, make_lane(engine, 1), lease_s=60)
    leases.add([job])
    leases.start()
    until(lambda: "what nobody thought of" in caplog.text)
    before = job_row(engine, job)["lease_until"]
    until(lambda: job_row(engine, job)["lease_until"] != before)
    leases.stop()
    assert "Traceback" in caplog.text
