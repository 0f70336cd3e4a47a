"""Jobs of dead workers are rescued however many leases stand before them that can't be."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from jobs.batches import actions
from jobs.job_dataclasses import Job
from jobs.queue import transitions
from scheduler.ingest.ingest import Ingested
from scheduler.loop import rescue_all
from tests.chaos.invariant import check
from tests.chaos.mutants import RESCUE_STARVES, RESCUE_WAITS, mutated
from tests.chaos.scale import scaled
from tests.factories import change, lanes_of, look, make_batch, take

LOCKED = scaled(10_000, 100_000)
ALIVE = scaled(10_000, 100_000)
DEAD = 100


def running(engine: Engine, count: int) -> tuple[Ingested, list[Job]]:
    """A batch whose jobs all run."""
    batch = make_batch(engine, [{"prompt": "fox", "num_images": 100}] * (count // 100))
    (lane,) = lanes_of(engine, batch)
    return batch, take(engine, lane, count, lease_s=3600)


def expire(engine: Engine, jobs: Sequence[Job], seconds_ago: int) -> None:
    change(
        engine,
        "UPDATE jobs SET lease_until = now() - make_interval(secs => :ago) WHERE id = ANY (:ids)",
        ago=seconds_ago,
        ids=[job.id for job in jobs],
    )


@contextmanager
def locked(engine: Engine, jobs: Sequence[Job]) -> Iterator[None]:
    """Another transaction has the rows, as one that is just ending them has."""
    with engine.begin() as connection:
        statement = text("SELECT id FROM jobs WHERE id = ANY (:ids) FOR UPDATE")
        assert len(connection.execute(statement, {"ids": [job.id for job in jobs]}).all()) == len(jobs)
        yield


def rescued(engine: Engine) -> Counter[int]:
    """How often each job was taken from its worker."""
    return Counter(row["job_id"] for row in look(engine, "SELECT job_id FROM attempts"))


def test_a_hundred_behind_twenty_thousand(engine: Engine) -> None:
    """Two schedulers rescue at once, beside leases that ran out longer ago and are locked, and leases that live."""
    batch, jobs = running(engine, LOCKED + DEAD + ALIVE)
    before, dead = jobs[:LOCKED], jobs[LOCKED : LOCKED + DEAD]
    expire(engine, before, 3600)
    expire(engine, dead, 10)
    with locked(engine, before):
        with mutated(RESCUE_STARVES):
            assert [transitions.rescue(engine) for _ in range(3)] == [0, 0, 0], (
                "the twin looks at the locked ones for ever"
            )
        with mutated(RESCUE_WAITS), engine.connect() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '300ms'"))
            with pytest.raises(OperationalError, match="lock timeout"):
                connection.execute(transitions._RESCUE, {"limit": 1000})
        assert not rescued(engine)
        with ThreadPoolExecutor(2) as threads:
            assert sum(threads.map(rescue_all, [engine] * 2)) == DEAD
    assert rescued(engine) == {job.id: 1 for job in dead}
    assert rescue_all(engine) == LOCKED, "when their turn comes"
    actions.cancel(engine, batch.id)
    facts = check(engine, batch.name, with_objects=False)
    assert facts.states == {"cancelled": LOCKED + DEAD + ALIVE}


def test_a_rescuer_that_is_killed_in_the_middle(engine: Engine) -> None:
    """Its connection ends three times after it changed the jobs and before it commits; it tries again by itself."""
    batch, jobs = running(engine, DEAD)
    expire(engine, jobs, 10)
    with ThreadPoolExecutor(1) as threads:
        with engine.connect() as connection:
            connection.execute(text("LOCK attempts IN EXCLUSIVE MODE"))
            rescuing = threads.submit(rescue_all, engine)
            for _ in range(3):
                assert kill_who_waits(engine)
                assert not rescued(engine)
            connection.rollback()
        assert rescuing.result() == DEAD
    assert rescued(engine) == {job.id: 1 for job in jobs}
    actions.cancel(engine, batch.id)
    check(engine, batch.name, with_objects=False)


def kill_who_waits(engine: Engine) -> bool:
    """End the connection that waits for a lock in this database."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        if look(
            engine,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'",
        ):
            return True
        time.sleep(0.02)
    return False
