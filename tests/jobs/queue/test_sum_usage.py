"""What batches, tenants and workers used, and when batches started and ended."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.batches.drop_jobs_and_delete_batches import delete
from jobs.batches.record_batch_end_events import record_batch_events
from jobs.queue import transitions
from jobs.queue.fair_share import SliceUse, end_time_slice, pick_lane
from jobs.queue.sum_usage import forget_usage, usage_by, usage_of
from scheduler.ingest.ingest import Ingested
from tests.factories import change, image, lanes_of, look, make_batch, take


def work(engine: Engine, worker: str, use: SliceUse, device: str = "cpu") -> None:
    picked = pick_lane(engine, slice_s=60)
    assert picked is not None
    for _ in range(2):  # an end whose answer was lost counts once
        end_time_slice(engine, picked, worker, device, use)


def end(engine: Engine, batch: Ingested) -> None:
    transitions.complete(
        engine, [image(job) for lane in lanes_of(engine, batch) for job in take(engine, lane)]
    )
    record_batch_events(engine)


def test_time_slices_are_added_up_by_lane_worker_and_quarter_of_an_hour(engine: Engine) -> None:
    batch = make_batch(engine, [{"prompt": "fox", "tenant": "ada"}] * 9)
    assert usage_of(engine, batch.id) == {"worker_s": 0, "device_s": 0, "joules": None, "images": 0}
    work(engine, "w1", SliceUse(10, device_s=8, images=4))
    work(engine, "w1", SliceUse(20, device_s=16, joules=500, images=3), "H200")
    work(engine, "w2", SliceUse(5, device_s=1, joules=100))
    work(engine, "w2", SliceUse())
    assert usage_of(engine, batch.id) == {"worker_s": 35, "device_s": 25, "joules": 600, "images": 7}
    assert [(use["worker"], use["worker_s"], use["joules"]) for use in usage_by(engine, "worker")] == [
        ("w1", 30, 500),
        ("w2", 5, 100),
    ]
    assert len(look(engine, "SELECT FROM lane_usage")) in (2, 3)  # three, if a quarter began meanwhile


def test_usage_since_a_moment_begins_with_its_quarter_of_an_hour(engine: Engine) -> None:
    make_batch(engine, 9)
    work(engine, "w1", SliceUse(10))
    change(engine, "UPDATE lane_usage SET began_at = '2026-11-28 21:45+00'")
    work(engine, "w1", SliceUse(20))
    late = datetime(2026, 11, 28, 22, 0, tzinfo=UTC)
    assert [use["worker_s"] for use in usage_by(engine, "tenant", since=late)] == [20]
    assert [use["worker_s"] for use in usage_by(engine, "tenant", since=late - timedelta(seconds=1))] == [30]
    assert usage_by(engine, "tenant", tenant="bob") == []


def test_usage_outlives_the_batch_for_a_year(engine: Engine) -> None:
    batch = make_batch(engine, 1)
    work(engine, "w1", SliceUse(10))
    end(engine, batch)
    delete(engine, actions.status(engine, batch.name))
    assert [use["worker_s"] for use in usage_by(engine, "tenant")] == [10]
    change(engine, "UPDATE lane_usage SET began_at = now() - interval '399 days'")
    assert forget_usage(engine) == 0
    change(engine, "UPDATE lane_usage SET began_at = now() - interval '401 days'")
    assert forget_usage(engine) == 1


def test_a_batch_starts_with_the_first_pick_and_ends_when_nothing_is_left(engine: Engine) -> None:
    batch = make_batch(engine, 1)
    before = actions.status(engine, batch.name)
    assert (before.started_at, before.ended_at) == (None, None)
    work(engine, "w1", SliceUse(1))
    started = actions.status(engine, batch.name).started_at
    assert started is not None
    work(engine, "w1", SliceUse(1))
    end(engine, batch)
    after = actions.status(engine, batch.name)
    assert after.started_at == started
    assert after.ended_at is not None
    assert after.ended_at >= started


@pytest.mark.parametrize(("due_s", "late_s"), [(-600, 600), (600, None)])
def test_an_ended_batch_is_late_by_its_end(engine: Engine, due_s: float, late_s: float | None) -> None:
    batch = make_batch(engine, 1, deadline=datetime.now(UTC) + timedelta(hours=1))
    end(engine, batch)
    change(engine, "UPDATE batches SET deadline = ended_at + make_interval(secs => :due_s)", due_s=due_s)
    change(
        engine,
        "UPDATE batches SET ended_at = ended_at - interval '1 day', deadline = deadline - interval '1 day'",
    )
    status = actions.status(engine, batch.name)
    assert status.late_s == late_s, "it is as late as it was when it ended, not as today"
    assert status.misses_deadline is (late_s is not None)
    assert status.report()["late_s"] == late_s
