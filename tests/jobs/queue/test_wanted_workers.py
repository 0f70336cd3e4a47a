"""How many workers a pool needs: by work, deadlines, shares and limits; never fewer than are at work."""

from typing import Any

import pytest
from sqlalchemy import Engine, text

from jobs.queue.tenants import set_tenant
from jobs.queue.worker_pools import set_pool, wanted_workers
from jobs.queue.worker_registry import WorkerReport, report_worker
from jobs.states import WorkerActivity
from scheduler.ingest.ingest import Ingested
from tests.factories import change, lanes_of, make_batch, take

S_PER_IMAGE = 10
JOBS = 360  # an hour of work


@pytest.fixture(autouse=True)
def _settings(engine: Engine) -> None:
    """One worker for each half hour of work; new workers are there at once."""
    set_pool(engine, "default", target_s=1800, start_s=0, idle_s=300)


def make_work(engine: Engine, jobs: int = JOBS, tenant: str = "", **columns: Any) -> Ingested:
    """A batch of jobs that take ten seconds each, with values for the columns of its row."""
    batch = make_batch(engine, [{"prompt": f"fox {n}", "tenant": tenant} for n in range(jobs)])
    change(engine, "UPDATE lanes SET image_s = :s WHERE batch_id = :id", s=S_PER_IMAGE, id=batch.id)
    if columns:
        values = ", ".join(f'"{name}" = {value}' for name, value in columns.items())
        change(engine, f"UPDATE batches SET {values} WHERE id = :id", id=batch.id)  # noqa: S608
    return batch


def wanted(engine: Engine, pool: str = "default") -> int | None:
    return wanted_workers(engine, pool)


def test_without_work_none_and_for_one_job_one(engine: Engine) -> None:
    assert wanted(engine) == 0
    make_work(engine, 1)
    assert wanted(engine) == 1
    assert wanted(engine, "nobody") is None


def test_work_without_a_deadline_is_to_be_done_in_the_target_time(engine: Engine) -> None:
    make_work(engine)
    assert wanted(engine) == 2
    set_pool(engine, "default", target_s=600)
    assert wanted(engine) == 6
    set_pool(engine, "default", max_workers=4)
    assert wanted(engine) == 4


@pytest.mark.parametrize(
    ("columns", "workers"),
    [
        ({"paused_at": "now()"}, 0),
        ({"cancelled_at": "now()"}, 0),
        ({"not_before": "now() + interval '1 minute'"}, 0),
        ({"deadline": "now() + interval '30 minutes'"}, 3),
        ({"deadline": "now() + interval '20 minutes'"}, 4),
        ({"deadline": "now() + interval '9 hours'"}, 2),
        ({"deadline": "now() - interval '1 minute'"}, 45),
        (
            {
                "window": "'22:00-07:00 UTC'",
                "opens_at": "now() + interval '1 hour'",
                "closes_at": "now() + interval '2 hours'",
            },
            0,
        ),
        (
            {
                "window": "'22:00-07:00 UTC'",
                "opens_at": "now() - interval '1 hour'",
                "closes_at": "now() + interval '2 hours'",
            },
            2,
        ),
    ],
)
def test_only_what_may_be_worked_at_now_counts_by_its_deadline(
    engine: Engine, columns: dict[str, str], workers: int
) -> None:
    make_work(engine, **columns)
    assert wanted(engine) == workers


def test_before_a_deadline_only_the_windows_open_time_counts(engine: Engine) -> None:
    """Fifteen minutes are left tonight, and an hour tomorrow: the batch has an hour and a quarter, not a day."""
    set_pool(engine, "default", target_s=86_400)
    make_work(
        engine,
        JOBS * 3,
        window="'22:00-07:00 UTC'",
        opens_at="now() - interval '45 minutes'",
        closes_at="now() + interval '15 minutes'",
        deadline="now() + interval '15 minutes' + interval '1 day'",
    )
    assert wanted(engine) == 3, "3 hours of work in 75 minutes"
    change(engine, 'UPDATE batches SET "window" = \'Mon-Fri \' || "window"')
    assert wanted(engine) == 13, "tomorrow may be a Saturday"
    change(engine, "UPDATE batches SET \"window\" = '22:00-07:00 UTC'")
    change(engine, "UPDATE batches SET deadline = now() + interval '15 minutes' + interval '23 hours'")
    assert wanted(engine) == 13, "tomorrow's window opens too late: 3 hours of work in less than 15 minutes"


def test_the_time_that_a_new_worker_takes_is_not_there_before_a_deadline(engine: Engine) -> None:
    make_work(engine, deadline="now() + interval '40 minutes'")
    assert wanted(engine) == 2
    set_pool(engine, "default", start_s=1200)
    assert wanted(engine) == 4


def test_a_tenant_gets_but_its_share_of_the_workers(engine: Engine) -> None:
    set_pool(engine, "default", target_s=86_400)
    make_work(engine, tenant="ada", deadline="now() + interval '1 hour'")
    assert wanted(engine) == 2, "1 would do without a moment to spare"
    make_work(engine, 20 * JOBS, tenant="bob")
    assert wanted(engine) == 3, "half of the workers are ada's"
    set_tenant(engine, "bob", weight=3)
    assert wanted(engine) == 5
    make_work(engine, JOBS, tenant="ada", priority=5)
    assert wanted(engine) == 9, "what goes ahead of it has to be done before"
    change(engine, "UPDATE batches SET priority = -5 WHERE deadline IS NULL")
    assert wanted(engine) == 5


def test_others_with_little_work_don_t_multiply_the_need(engine: Engine) -> None:
    set_pool(engine, "default", target_s=86_400)
    make_work(engine, 6 * JOBS, tenant="ada", deadline="now() + interval '1 hour'")
    make_work(engine, JOBS // 2, tenant="bob")
    assert wanted(engine) == 7, "6.5 hours of work in all"


def test_limits_of_running_jobs_are_heeded(engine: Engine) -> None:
    make_work(engine, tenant="ada", deadline="now() - interval '1 minute'")
    set_tenant(engine, "ada", max_running=16)
    assert wanted(engine) == 2, "a worker takes 8 jobs of this pace"
    set_tenant(engine, "ada", max_running=0)
    assert wanted(engine) == 0
    set_tenant(engine, "ada", max_running=1000)
    set_tenant(engine, "*", max_running=17)
    assert wanted(engine) == 3


@pytest.mark.parametrize(("image_s", "workers"), [(0.01, 12), (2.5, 15), (10, 45), (100, 45)])
def test_no_more_than_find_jobs_to_claim(engine: Engine, image_s: float, workers: int) -> None:
    """A worker claims 32 jobs at once, or what it can render in a minute, but at least eight."""
    make_work(engine, deadline="now() - interval '1 minute'")
    change(engine, "UPDATE lanes SET image_s = :s", s=image_s)
    set_pool(engine, "default", target_s=0.001)
    assert wanted(engine) == workers


def test_what_a_limited_tenant_can_t_use_isn_t_needed_for_its_deadline(engine: Engine) -> None:
    """Eight jobs at once are one worker's, which is a tenth of ten workers."""
    set_pool(engine, "default", target_s=36_000)
    make_work(engine, 10 * JOBS, tenant="ada")
    set_tenant(engine, "ada", weight=9)
    make_work(engine, tenant="bob", deadline="now() + interval '20 minutes'")
    assert wanted(engine) == 31, "an hour of work in twenty minutes, by a tenth of the workers"
    set_tenant(engine, "bob", max_running=8)
    assert wanted(engine) == 10


def test_thousands_of_lanes_are_no_burden(engine: Engine) -> None:
    """Each lane is read a few times, not once for each other: a scrape waits for the answer."""
    batch = make_work(engine, 2, deadline="now() + interval '1 hour'")
    change(
        engine,
        """
        INSERT INTO lanes (batch_id, tenant, model, width, height, upscale)
        SELECT :id, 'tenant-' || n, 'sketcher', 64, 64, 0 FROM generate_series(1, 5000) AS n;
        """,
        id=batch.id,
    )
    change(
        engine,
        "INSERT INTO job_counts (batch_id, lane_id, state, delta) SELECT batch_id, id, 'queued', 2 FROM lanes",
    )
    change(engine, "ANALYZE")
    assert wanted(engine) == 56, "28 hours of work in half an hour each"
    with engine.begin() as connection:
        connection.execute(text("SELECT nightmill_wanted_workers('default')"))
        statement = (
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'lanes'"
        )
        assert connection.execute(text(statement)).scalar_one() <= 10 * 5001


def test_before_its_verdict_only_a_canary_counts(engine: Engine) -> None:
    make_work(engine, canary="16", deadline="now() - interval '1 minute'")
    assert wanted(engine) == 2
    change(engine, "UPDATE batches SET canary_verdict = 'passed'")
    assert wanted(engine) == 45


def test_a_lane_that_was_never_measured_is_taken_for_one_like_it(engine: Engine) -> None:
    make_work(engine, 1)
    change(engine, "UPDATE lanes SET image_s = 100, ended_at = now()")
    new = make_batch(engine, 36)
    change(engine, "UPDATE lanes SET image_s = NULL WHERE batch_id = :id", id=new.id)
    assert wanted(engine) == 2, "36 images of 100 s, in half an hour"


def test_a_lane_counts_for_the_pools_that_name_its_model(engine: Engine) -> None:
    make_work(engine)
    set_pool(engine, "sketch", models=["sketcher"])
    set_pool(engine, "paint", models=["painter"])
    assert [wanted(engine, pool) for pool in ("default", "sketch", "paint")] == [0, 2, 0]


def test_never_fewer_than_are_at_work(engine: Engine) -> None:
    """Not even above the limit, nor when what they work at was paused; a worker that drains is going anyway."""
    batch = make_work(engine, 30)
    set_pool(engine, "default", max_workers=1)
    (lane,) = lanes_of(engine, batch)
    for number in range(3):
        report_worker(engine, WorkerReport(f"w{number}", "cpu", "default"))
        take(engine, lane, 10, worker=f"w{number}")
    change(engine, "UPDATE batches SET paused_at = now()")
    assert wanted(engine) == 3
    report_worker(engine, WorkerReport("w2", "cpu", "default", WorkerActivity.DRAINING))
    assert wanted(engine) == 2


def test_a_worker_may_idle_for_a_while(engine: Engine) -> None:
    report_worker(engine, WorkerReport("w", "cpu", "default", WorkerActivity.IDLE))
    report_worker(engine, WorkerReport("x", "cpu", "default"))
    assert wanted(engine) == 1
    change(engine, "UPDATE workers SET activity_since = now() - interval '299 seconds'")
    assert wanted(engine) == 1
    change(engine, "UPDATE workers SET activity_since = now() - interval '301 seconds'")
    assert wanted(engine) == 0


def test_workers_that_can_do_nothing_are_replaced(engine: Engine) -> None:
    make_work(engine)
    for name in ("w", "x", "y"):
        report_worker(engine, WorkerReport(name, "cuda", "default", WorkerActivity.IDLE))
    change(engine, "UPDATE workers SET state = 'unhealthy', reason = 'broken', since = now()")
    assert wanted(engine) == 4, "2 for the work, and no more than as many for the broken ones"
    set_pool(engine, "default", max_workers=3)
    assert wanted(engine) == 3
