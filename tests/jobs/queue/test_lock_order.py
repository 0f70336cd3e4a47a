"""Those who change several jobs at once lock them in one order, and so never wait for one another in a circle."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, text

from jobs.job_dataclasses import Job
from jobs.queue import transitions
from tests.factories import failure, held, image, look, make_lane, take, wait_for_lock

CHANGES: dict[str, Callable[[Engine, list[Job]], object]] = {
    "complete": lambda engine, jobs: transitions.complete(engine, [image(job) for job in jobs]),
    "fail": lambda engine, jobs: transitions.fail(engine, [failure(job) for job in jobs], delay_s=1),
    "block": lambda engine, jobs: transitions.block(engine, [failure(job) for job in jobs]),
    "release": lambda engine, jobs: transitions.release(engine, held(*jobs)),
    "extend": lambda engine, jobs: transitions.extend(engine, held(*jobs), 60),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_renewal_beside_a_change_in_another_order_is_no_deadlock(engine: Engine, how: str) -> None:
    """The change, given the jobs backwards, waits in the middle; the renewal takes what it finds from the other end."""
    first, middle, last = take(engine, make_lane(engine, 3))
    with ThreadPoolExecutor(2) as threads, engine.begin() as connection:
        connection.execute(text("SELECT id FROM jobs WHERE id = :id FOR UPDATE"), {"id": middle.id})
        changing = threads.submit(CHANGES[how], engine, [last, middle, first])
        wait_for_lock(engine)
        renewing = threads.submit(transitions.extend, engine, held(first, last), 60)
        wait_for_lock(engine, 2)
        connection.commit()
        changing.result()
        renewing.result()
    (found,) = look(
        engine,
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
    )
    assert found["deadlocks"] == 0
