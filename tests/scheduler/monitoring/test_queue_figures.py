"""The figures of the queue are those of the job table and of `status`."""

from collections.abc import Mapping

import pytest
from sqlalchemy import Engine, text

from jobs.batches.status import status
from jobs.monitoring import metrics
from jobs.queue import transitions
from jobs.queue.lane_counts_and_low_watermarks import end_lanes
from jobs.queue.worker_drains import drain
from jobs.queue.worker_health_reports import report_health
from jobs.queue.worker_pools import set_pool, wanted_workers
from jobs.queue.worker_registry import WorkerReport, report_worker
from jobs.states import DrainKind, WorkerActivity
from scheduler.monitoring.queue_figures import queue_figures
from tests.factories import change, failure, image, look, make_batch, make_lane, take


def figures(engine: Engine) -> Mapping[str, float]:
    """Samples by name and label values, without the prefix that all have."""
    return {
        " ".join([name, *labels]).removeprefix("nightmill_"): values[0]
        for name, labels, values in queue_figures(engine)
    }


def test_an_empty_queue_has_figures(engine: Engine) -> None:
    found = dict(figures(engine))
    assert found.pop("database_up") == 1
    found.pop("feed_lag_seconds")  # of the whole cluster, which other tests use
    assert found.keys() >= {
        "jobs queued",
        "jobs done",
        "workers default idle",
        "wanted_workers default",
        "unfinished_batches",
    }
    assert set(found.values()) == {0}


def test_jobs_are_counted_in_all_states_until_their_batch_is_finished(engine: Engine) -> None:
    lane = make_lane(engine, 5, name="foxes", max_attempts=1)
    done, failed, _running = take(engine, lane, 3)
    transitions.complete(engine, [image(done)])
    transitions.fail(engine, [failure(failed)], delay_s=0)
    ended = make_lane(engine, 1, name="owls")
    transitions.complete(engine, [image(job) for job in take(engine, ended)])
    end_lanes(engine)
    found = figures(engine)
    counts = {"queued": 2, "running": 1, "done": 1, "failed": 1, "blocked": 0, "cancelled": 0}
    assert {state: found[f"jobs {state}"] for state in counts} == counts
    assert {state: found[f"batch_jobs foxes {state}"] for state in counts} == counts
    assert found["unfinished_batches"] == 1
    assert "batch_jobs owls done" not in found


def test_no_more_batches_than_twenty_have_series_of_their_own(engine: Engine) -> None:
    for number in range(metrics.MOST_BATCHES + 3):
        make_batch(engine, 1, name=f"b{number}", priority=number)
    change(engine, "UPDATE batches SET paused_at = now() WHERE name = 'b22'")
    found = figures(engine)
    named = {name.split()[1] for name in found if name.startswith("batch_jobs")}
    assert named == {f"b{number}" for number in range(2, metrics.MOST_BATCHES + 2)}
    assert found["unfinished_batches"] == found["jobs queued"] == metrics.MOST_BATCHES + 3


def test_the_eta_is_that_of_status_and_a_paused_batch_has_none(engine: Engine) -> None:
    make_lane(engine, 40, name="foxes")
    report_health(engine, "w1", "cpu", None)
    assert "batch_eta_seconds foxes" not in figures(engine), "nothing was measured"
    change(
        engine,
        "UPDATE lanes SET image_s = 3; "
        "UPDATE batches SET deadline = to_timestamp(2e9), not_before = now() + interval '1h'",
    )
    found = figures(engine)
    assert found["batch_eta_seconds foxes"] == pytest.approx(3600 + 120, abs=5)
    assert found["batch_eta_seconds foxes"] == pytest.approx(status(engine, "foxes").eta_s, abs=5)
    assert found["batch_deadline_seconds foxes"] == 2e9
    change(engine, "UPDATE batches SET paused_at = now()")
    assert "batch_eta_seconds foxes" not in figures(engine)


def test_the_oldest_claimable_job_is_one_that_a_worker_could_claim(engine: Engine) -> None:
    lane = make_lane(engine, 2)
    change(engine, "UPDATE batches SET created_at = now() - interval '100s'")
    assert figures(engine)["oldest_claimable_job_age_seconds"] == pytest.approx(100, abs=3)
    change(engine, "UPDATE batches SET not_before = now() - interval '50s'")
    assert figures(engine)["oldest_claimable_job_age_seconds"] == pytest.approx(50, abs=3)
    jobs = take(engine, lane)
    assert figures(engine)["oldest_claimable_job_age_seconds"] == 0
    transitions.release(engine, [(jobs[0].id, jobs[0].lease)])
    change(engine, "UPDATE jobs SET not_before = now() - interval '20s' WHERE state = 'queued'")
    assert figures(engine)["oldest_claimable_job_age_seconds"] == pytest.approx(20, abs=3)
    change(engine, "UPDATE batches SET paused_at = now()")
    assert figures(engine)["oldest_claimable_job_age_seconds"] == 0


def test_a_lane_waits_from_when_it_was_picked_last(engine: Engine) -> None:
    make_lane(engine, 2)
    change(engine, "UPDATE batches SET created_at = now() - interval '100s'")
    assert figures(engine)["lane_wait_seconds"] == pytest.approx(100, abs=3)
    change(engine, "UPDATE lanes SET chosen_at = now() - interval '30s'")
    assert figures(engine)["lane_wait_seconds"] == pytest.approx(30, abs=3)


def test_workers_are_counted_by_pool_and_what_they_do(engine: Engine) -> None:
    report_health(engine, "w1", "cpu", None)
    report_health(engine, "w2", "cpu", None)
    report_health(engine, "w3", "cpu", "its disk is full")
    report_health(engine, "w4", "cpu", None)
    change(engine, "UPDATE workers SET seen_at = now() - interval '2 minutes' WHERE name = 'w4'")
    report_worker(engine, WorkerReport("w5", "cpu", "farm", WorkerActivity.DRAINING))
    found = figures(engine)
    assert (found["workers default idle"], found["workers default unhealthy"]) == (2, 1)
    assert (found["workers farm draining"], found["workers farm idle"]) == (1, 0)


def test_drained_workers_are_counted_apart(engine: Engine) -> None:
    for name, activity in (("gpu:1", WorkerActivity.IDLE), ("gpu:2", WorkerActivity.BUSY)):
        report_worker(engine, WorkerReport(name, "cpu", "default", activity))
    batch = make_batch(engine, 10)
    change(engine, "UPDATE lanes SET image_s = 10")
    assert figures(engine)[f"batch_eta_seconds {batch.name}"] == pytest.approx(50)
    drain(engine, [(DrainKind.HOST, "gpu")], drained_by="anna@desk")
    found = figures(engine)
    assert (found["workers default drained"], found["workers default draining"]) == (1, 1)
    assert (found["workers default idle"], found["workers default busy"]) == (0, 0)
    assert f"batch_eta_seconds {batch.name}" not in found


def test_the_number_of_wanted_workers_is_that_of_the_pool(engine: Engine) -> None:
    make_lane(engine, 100)
    set_pool(engine, "farm", models=["other"])
    found = figures(engine)
    assert found["wanted_workers default"] == wanted_workers(engine, "default") > 0
    assert found["wanted_workers farm"] == 0


def test_lanes_whose_model_no_pool_processes_are_counted_until_they_end(engine: Engine) -> None:
    lane = make_lane(engine, 2)
    (found,) = look(engine, "SELECT model FROM lanes")
    assert figures(engine)["unserved_lanes"] == 0, "the pool default processes all models"
    set_pool(engine, "default", models=["other"])
    assert figures(engine)["unserved_lanes"] == 1
    set_pool(engine, "farm", models=["another", found["model"]])
    assert figures(engine)["unserved_lanes"] == 0
    set_pool(engine, "farm", models=["another"])
    assert figures(engine)["unserved_lanes"] == 1
    transitions.complete(engine, [image(job) for job in take(engine, lane)])
    end_lanes(engine)
    assert figures(engine)["unserved_lanes"] == 0


def test_an_open_transaction_that_has_written_holds_back_the_feed(engine: Engine) -> None:
    with engine.connect() as reader, engine.connect() as writer:
        reader.execute(text("SELECT 1"))
        writer.execute(text("SELECT pg_current_xact_id()"))
        writer.execute(text("SELECT pg_sleep(1.1)"))
        assert 1 <= figures(engine)["feed_lag_seconds"] < 30
