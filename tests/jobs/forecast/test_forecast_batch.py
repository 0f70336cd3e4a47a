"""Forecasts from made-up measurements: ends, spare time, workers needed, windows, work ahead, devices, costs."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.forecast.forecast_batch import forecast
from jobs.forecast.forecast_result import Forecast
from jobs.forecast.queued_lanes import QueuedLane
from jobs.forecast.work_kinds_and_ranges import Range
from jobs.policy.batch_policy import BatchPolicy
from jobs.queue import transitions
from jobs.queue.tenants import set_tenant
from jobs.queue.worker_pools import set_pool
from jobs.queue.worker_registry import WorkerReport, report_worker
from jobs.setting_values.device_hour_prices import DevicePrices
from jobs.states import WorkerActivity
from tests.factories import change, image, make_batch, make_lane, take
from tests.jobs.forecast.made_up_measurements import add_quarters, measured, planned, start_workers

NOW = datetime(2026, 11, 29, 21, 0, tzinfo=UTC)
STEADY = [2.0] * 4


def hours(number: float) -> datetime:
    return NOW + timedelta(hours=number)


def look_ahead(engine: Engine, lanes: list[QueuedLane], prices: str = "", **policy: Any) -> Forecast:
    return forecast(engine, lanes, BatchPolicy(**policy), NOW, DevicePrices.parse(prices))


def test_a_range_reaches_from_the_quick_quarters_to_the_slow_ones(engine: Engine) -> None:
    measured(engine, [1, 2, 2, 2, 2, 2, 2, 2, 3, 9])
    start_workers(engine, 1)
    found = look_ahead(engine, planned(engine, 3600))
    assert (found.earliest.ends_at, found.latest.ends_at) == (hours(2), hours(2))
    add = [3.0] * 10
    measured(engine, add)
    assert look_ahead(engine, planned(engine, 3600)).latest.ends_at == hours(3)


def test_the_same_call_gives_the_same_answer(engine: Engine) -> None:
    measured(engine, [1.5, 2, 2.5])
    start_workers(engine, 2)
    lanes = planned(engine, 100)
    first, second = (look_ahead(engine, lanes, deadline=hours(1)).report() for _ in range(2))
    assert first == second
    assert first["ends_at_earliest"] < first["ends_at_latest"]


def test_few_measurements_make_a_wide_range(engine: Engine) -> None:
    measured(engine, [2.0])
    (found,) = look_ahead(engine, planned(engine, 10)).lanes
    assert found.times[0].seconds == Range(1.6, 2.5)


def test_a_deadline_that_fits(engine: Engine) -> None:
    measured(engine, STEADY)
    start_workers(engine, 2)
    found = look_ahead(engine, planned(engine, 3600), deadline=hours(3)).report()
    assert (found["verdict"], found["spare_s"], found["workers"]) == ("fits", 7200, 2)
    assert (found["more_workers_needed"], found["ends_at_latest"]) == (0, "2026-11-29T22:00:00+00:00")


def test_a_deadline_that_is_missed_and_the_workers_that_would_do(engine: Engine) -> None:
    """12 hours of one worker; with k more, which start after ten minutes, 4 h + k (4 h - 10 min) until the deadline."""
    measured(engine, STEADY)
    start_workers(engine, 1)
    found = look_ahead(engine, planned(engine, 6 * 3600), deadline=hours(4)).report()
    assert (found["verdict"], found["spare_s"], found["spare_s_at_most"]) == ("misses", -8 * 3600, -8 * 3600)
    assert found["more_workers_needed"] == 3
    set_pool(engine, "default", start_s=0)
    assert look_ahead(engine, planned(engine, 6 * 3600), deadline=hours(4)).more_workers_needed == 2


def test_a_deadline_that_may_be_missed(engine: Engine) -> None:
    measured(engine, [1.0] * 5 + [3.0] * 5)
    start_workers(engine, 1)
    found = look_ahead(engine, planned(engine, 3600), deadline=hours(2)).report()
    assert (found["verdict"], found["spare_s"], found["spare_s_at_most"]) == ("may miss", -3600, 3600)


def test_a_window_that_closes_in_between(engine: Engine) -> None:
    measured(engine, STEADY)
    start_workers(engine, 1)
    lanes = planned(engine, 3 * 3600, window="22:00-02:00 UTC")
    found = look_ahead(engine, lanes, window="22:00-02:00 UTC", deadline=hours(20)).report()
    assert (found["starts_at"], found["ends_at_latest"]) == (
        "2026-11-29T22:00:00+00:00",
        "2026-12-01T00:00:00+00:00",
    )
    assert (found["windows_at_most"], found["more_workers_needed"]) == (2, 1)


def test_no_number_of_workers_opens_a_window_earlier(engine: Engine) -> None:
    measured(engine, STEADY)
    lanes = planned(engine, 10, window="22:00-02:00 UTC")
    found = look_ahead(engine, lanes, window="22:00-02:00 UTC", deadline=hours(0.5))
    assert (found.verdict, found.more_workers_needed) == ("misses", None)


def queue(engine: Engine, jobs: int, **options: Any) -> None:
    """Another batch with so many jobs, by its counts."""
    columns = {key: options.pop(key) for key in ("tenant",) if key in options}
    batch = make_batch(engine, [{"prompt": "owl"} | columns], **options)
    change(engine, "UPDATE job_counts SET delta = :jobs WHERE batch_id = :id", jobs=jobs, id=batch.id)


@pytest.mark.parametrize(
    ("options", "earliest", "latest"),
    [
        ({"priority": 1}, 2, 2),
        ({"priority": 0}, 2, 2),
        ({"priority": -1}, 1, 1),
        ({"tenant": "bob"}, 2, 2),
        ({"window": "12:00-13:00 UTC"}, 1, 1),
    ],
)
def test_a_batch_ahead_of_it(engine: Engine, options: dict[str, Any], earliest: float, latest: float) -> None:
    measured(engine, STEADY)
    start_workers(engine, 1)
    lanes = planned(engine, 1800)
    queue(engine, 1800, **options)
    found = look_ahead(engine, lanes)
    assert (found.earliest.ends_at, found.latest.ends_at) == (hours(earliest), hours(latest))


def test_equals_share_or_are_first(engine: Engine) -> None:
    measured(engine, STEADY)
    start_workers(engine, 1)
    lanes = planned(engine, 1800)
    queue(engine, 3600)
    found = look_ahead(engine, lanes)
    assert (found.earliest.ends_at, found.latest.ends_at) == (hours(2), hours(3))


def test_tenants_share_by_their_weights(engine: Engine) -> None:
    measured(engine, STEADY)
    start_workers(engine, 1)
    set_tenant(engine, "ada", weight=3)
    lanes = planned(engine, 2700, tenant="ada")
    queue(engine, 36_000, tenant="bob", priority=5)
    found = look_ahead(engine, lanes)
    assert (found.earliest.ends_at, found.latest.ends_at) == (hours(2), hours(2))
    assert found.report()["jobs_ahead"] == 36_000


def test_paused_batches_are_not_ahead(engine: Engine) -> None:
    measured(engine, STEADY)
    lanes = planned(engine, 1800)
    queue(engine, 1800)
    change(engine, "UPDATE batches SET paused_at = now()")
    assert look_ahead(engine, lanes).report()["batches_ahead"] == []


def test_what_nobody_has_measured_is_said_and_not_guessed(engine: Engine) -> None:
    measured(engine, STEADY)
    start_workers(engine, 1)
    other = planned(engine, 5, width=128)
    found = look_ahead(engine, [*planned(engine, 1800), *other], deadline=hours(3)).report()
    assert (found["jobs_unmeasured"], found["ends_at_latest"], found["verdict"]) == (5, None, "unknown")
    assert (found["ends_at_earliest"], found["worker_s_high"]) == ("2026-11-29T22:00:00+00:00", None)
    assert [lane["source"] for lane in found["lanes"]] == ["workers", None]


def test_workers_that_are_there_keep_this_machine_from_being_measured(engine: Engine) -> None:
    lanes = planned(engine, 60)

    def here(lane: QueuedLane) -> Range:
        assert lane.jobs
        return Range(1, 2)

    alone = forecast(engine, lanes, BatchPolicy(), NOW, DevicePrices(), here)
    assert [lane["source"] for lane in alone.report()["lanes"]] == ["this machine"]
    assert (alone.is_assumed, alone.latest.ends_at) == (True, NOW + timedelta(minutes=2))
    start_workers(engine, 1)
    assert forecast(engine, lanes, BatchPolicy(), NOW, DevicePrices(), here).unmeasured == lanes


def test_two_devices_work_at_their_own_pace(engine: Engine) -> None:
    """One worker renders an image in 1 s, one in 3 s: together four in 3 s."""
    lane = measured(engine, [1.0] * 4, "H200", joules=300)
    add_quarters(engine, lane, [3.0] * 4, "L4", joules=200)
    start_workers(engine, 1, "H200")
    start_workers(engine, 1, "L4")
    found = look_ahead(engine, planned(engine, 4800), prices="H200=4,L4=1").report()
    assert found["ends_at_latest"] == "2026-11-29T22:00:00+00:00"
    assert (found["worker_s_high"], found["cost_low"], found["cost_high"]) == (7200, 5, 5)
    assert found["joules_high"] == 3600 * 300 + 1200 * 200
    assert [(lane["device"], lane["image_s_low"]) for lane in found["lanes"]] == [("H200", 1), ("L4", 3)]


def test_a_device_that_was_not_measured_is_not_counted(engine: Engine) -> None:
    measured(engine, STEADY)
    start_workers(engine, 1, "H200")
    start_workers(engine, 5, "L4")
    found = look_ahead(engine, planned(engine, 1800), prices="1").report()
    assert (found["workers"], found["ends_at_latest"]) == (1, "2026-11-29T22:00:00+00:00")
    assert (found["joules_high"], found["cost_high"]) == (None, 1)
    assert found["workers_not_measured"] == {"L4": 5}


def test_only_pools_that_serve_the_model_count(engine: Engine) -> None:
    measured(engine, STEADY)
    set_pool(engine, "others", models=["elsewhere"])
    start_workers(engine, 3, pool="others")
    found = look_ahead(engine, planned(engine, 1800)).report()
    assert (found["workers"], found["lanes"][0]["is_served"], found["ends_at_earliest"]) == (0, False, None)


def test_other_loras_and_lanes_without_usage_count_if_nothing_else_does(engine: Engine) -> None:
    lane = make_lane(engine)
    change(engine, "UPDATE lanes SET chosen_at = now(), image_s = 2 WHERE id = :id", id=lane)
    change(engine, "UPDATE batches SET cancelled_at = now()")
    start_workers(engine, 1)
    (found,) = look_ahead(engine, planned(engine, 10)).lanes
    assert (found.times[0].seconds, found.times[0].joules) == (Range(1.6, 2.5), None)


def test_a_short_time_in_a_lane_went_into_loading_models(engine: Engine) -> None:
    measured(engine, [2.0] * 4, images=100)
    start_workers(engine, 1)
    change(engine, "UPDATE lane_usage SET device_s = worker_s / 4")
    (short,) = look_ahead(engine, planned(engine, 10)).lanes
    change(
        engine, "UPDATE lane_usage SET worker_s = worker_s * 2, device_s = device_s * 2, images = images * 2"
    )
    (long,) = look_ahead(engine, planned(engine, 10)).lanes
    assert (short.times[0].seconds, long.times[0].seconds) == (Range(0.5, 2), Range(2, 2))


def test_images_tell_the_steps_and_how_many_were_copied(engine: Engine) -> None:
    """Of two images in four seconds one was copied; the other took ten steps, the planned one takes twenty."""
    lane = make_lane(engine, 2)
    first, second = take(engine, lane)
    transitions.complete(engine, [image(first), image(second)])
    change(engine, "UPDATE jobs SET steps = 10")
    change(engine, "UPDATE images SET steps = 10")
    change(engine, "UPDATE images SET reused_from = 0 WHERE job_id = :id", id=second.id)
    change(engine, "UPDATE lanes SET chosen_at = now()")
    add_quarters(engine, lane, [2.0] * 4, images=2, joules=50)
    start_workers(engine, 1)
    (same,) = look_ahead(engine, planned(engine, 10, steps=10)).lanes
    (twice,) = look_ahead(engine, planned(engine, 10, steps=20)).lanes
    assert (same.times[0].seconds, same.times[0].joules, same.times[0].is_scaled) == (
        Range(4, 4),
        Range(100, 100),
        False,
    )
    assert (twice.times[0].seconds, twice.times[0].is_scaled) == (Range(6, 8), True)


def test_steps_scale_what_was_measured() -> None:
    assert Range(2, 4).scaled_by_steps(2) == Range(3, 8)
    assert Range(2, 4).scaled_by_steps(0.5) == Range(1, 3)
    assert Range(2, 4).scaled_by_steps(1) == Range(2, 4)


@pytest.mark.parametrize("host", ["host", "new-host"], ids=["measured on its host", "on another host"])
def test_workers_that_register_by_their_place_have_the_pace_of_the_device(engine: Engine, host: str) -> None:
    """As real ones do: cuda:0 is the place of what `lane_usage` calls an H200."""
    measured(engine, STEADY)
    report_worker(engine, WorkerReport(f"{host}:7", "cuda:0", "default", activity=WorkerActivity.IDLE))
    found = look_ahead(engine, planned(engine, 3600), prices="H200=1.5")
    assert found.latest.ends_at == hours(2)
    assert found.latest.cost == (3.0 if host == "host" else None)
