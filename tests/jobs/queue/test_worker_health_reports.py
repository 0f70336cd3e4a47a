"""What workers say of their health, and what follows for batches."""

import pytest
from sqlalchemy import Engine

from jobs.queue import fair_share
from jobs.queue.transitions import complete
from jobs.queue.worker_health_reports import report_health, unhealthy_workers, waiting, wanted_lanes
from tests.factories import change, image, lanes_of, look, make_batch, make_lane, take

WHY = "can't load model 'x': no folder"


def test_an_unhealthy_worker_says_why_and_recovers(engine: Engine) -> None:
    report_health(engine, "w1", "cpu", WHY, next_try_s=5)
    (found,) = unhealthy_workers(engine)
    assert (found.name, found.device, found.reason) == ("w1", "cpu", WHY)
    assert found.next_try_at is not None
    assert 0 < (found.next_try_at - found.since).total_seconds() <= 5
    report_health(engine, "w1", "cpu", "still", next_try_s=9)
    assert unhealthy_workers(engine)[0].since == found.since
    report_health(engine, "w1", "cpu", None)
    assert unhealthy_workers(engine) == []
    (row,) = look(engine, "SELECT state, reason, since, next_try_at FROM workers")
    assert row == {"state": "healthy", "reason": None, "since": None, "next_try_at": None}


def test_workers_that_are_gone_are_not_counted(engine: Engine) -> None:
    report_health(engine, "w1", "cpu", WHY)
    change(engine, "UPDATE workers SET seen_at = now() - interval '5 minutes'")
    assert unhealthy_workers(engine) == []
    assert waiting(engine).everywhere is None


def test_a_batch_waits_when_no_worker_can_work_in_a_lane_of_it(engine: Engine) -> None:
    ill, other = make_batch(engine, 2), make_batch(engine, 2)
    (lane,) = lanes_of(engine, ill)
    report_health(engine, "w1", "cpu", WHY, lane_faults={lane: WHY})
    assert (waiting(engine).reason(ill.id), waiting(engine).reason(other.id)) == (WHY, None)
    report_health(engine, "w2", "cpu", None)
    assert waiting(engine).reason(ill.id) is None, "the second worker hasn't tried yet"
    report_health(engine, "w2", "cpu", "the disk is full")
    assert (waiting(engine).reason(ill.id), waiting(engine).reason(other.id)) == (WHY, None)
    report_health(engine, "w1", "cpu", "the disk is full")
    assert waiting(engine).reason(other.id) == "the disk is full"


def test_a_worker_is_not_given_the_lanes_that_it_avoids(engine: Engine) -> None:
    first, second = make_lane(engine, 1), make_lane(engine, 1)
    picked = fair_share.pick_lane(engine, slice_s=60, preferred=first, avoided=[first])
    assert picked is not None
    assert picked.lane == second
    assert fair_share.pick_lane(engine, slice_s=60, avoided=[first, second]) is None


@pytest.mark.parametrize("end", ["all is done", "the batch is paused", "the batch is gone"])
def test_lanes_that_nobody_wants_any_more(engine: Engine, end: str) -> None:
    lane, kept = make_lane(engine, 2), make_lane(engine, 1)
    assert wanted_lanes(engine, [lane, kept]) == {lane, kept}
    if end == "all is done":
        jobs = take(engine, lane)
        assert wanted_lanes(engine, [lane]) == {lane}, "somebody is at them"
        complete(engine, [image(job) for job in jobs])
    elif end == "the batch is paused":
        change(
            engine,
            "UPDATE batches SET paused_at = now() WHERE id = (SELECT batch_id FROM lanes WHERE id = :l)",
            l=lane,
        )
    else:
        change(engine, "DELETE FROM lanes WHERE id = :lane", lane=lane)
    assert wanted_lanes(engine, [lane, kept]) == {kept}
    assert wanted_lanes(engine, []) == set()
