"""One worker that can do nothing beside one that can: every job is done, and none is charged for the broken one."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.queue.worker_health_reports import unhealthy_workers
from jobs.settings import Settings
from tests.chaos.invariant import check
from tests.chaos.mill import mill, settle
from tests.chaos.scale import scaled
from tests.end_to_end.processes import foxes, until
from tests.factories import look
from tests.worker.contexts import submit

JOBS = scaled(600, 2000)
LANES = scaled(40, 400)
LANE = 5
"""Jobs of a lane, fewer than are judged alone."""
FAILS = {"load": "the model is not there", "device": "device-side assert"}
"""What the broken worker's log says, once it has tried."""

pytestmark = pytest.mark.timeout(scaled(300, 600))


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Large device batches; what failed is tried again at once."""
    return settings.model_copy(update={"batch_size": 16, "claim": 32, "lease_s": 30, "retry_delay_s": 0})


def sizes(lanes: int) -> list[dict[str, Any]]:
    """Rows of so many small lanes."""
    return [
        row | {"steps": 1, "width": 64 + 8 * (n // LANE % 24), "height": 64 + 8 * (n // LANE // 24)}
        for n, row in enumerate(foxes(lanes * LANE))
    ]


def rendered(
    settings: Settings, engine: Engine, folder: Path, rows: list[dict[str, Any]], **options: Any
) -> dict[str, int]:
    """How the jobs of a batch ended by a broken worker and a sound one; `charged` is how many had failed attempts."""
    batch = submit(settings, engine, folder, rows, max_attempts="3", watermark="off", parameters="off")
    actions.pause(engine, batch.id)
    with mill(settings, folder / "mill", workers=2, step_s=0.001, **options) as running:
        until(lambda: len(look(engine, "SELECT name FROM workers")) == 2)
        actions.resume(engine, batch.id)
        assert settle(engine, quiet_s=30), running.log()[-3000:]
        told = running.log()
    assert FAILS[options["broken"]] in told or options.get("twin"), told[-3000:]
    states = dict(check(engine, batch.name).states)
    charged = look(engine, "SELECT count(DISTINCT job_id) AS n FROM attempts WHERE outcome <> 'returned'")
    return states | {"charged": charged[0]["n"]}


@pytest.mark.parametrize("broken", ["load", "device"])
def test_a_broken_host_costs_no_job(quick: Settings, engine: Engine, tmp_path: Path, broken: str) -> None:
    rows = [row | {"steps": 1} for row in foxes(JOBS)]
    assert rendered(quick, engine, tmp_path, rows, broken=broken) == {"done": JOBS, "charged": 0}


def test_nor_where_all_lanes_are_small(quick: Settings, engine: Engine, tmp_path: Path) -> None:
    found = rendered(quick, engine, tmp_path, sizes(LANES), broken="device")
    assert found == {"done": LANES * LANE, "charged": 0}


@pytest.mark.parametrize(
    ("broken", "twin", "rows"),
    [
        ("load", "charged", [row | {"steps": 1} for row in foxes(JOBS)]),
        ("device", "no-breaker", sizes(LANES)),
        ("device", "lane-breaker", sizes(LANES)),
    ],
)
def test_without_it_jobs_fail(
    quick: Settings, engine: Engine, tmp_path: Path, broken: str, twin: str, rows: list[dict[str, Any]]
) -> None:
    ended = rendered(quick, engine, tmp_path, rows, broken=broken, twin=twin)
    assert ended["charged"] > 32
    assert ended["failed"] > 0


def test_a_device_that_is_lost_costs_no_job_though_nobody_else_is_there(
    quick: Settings, engine: Engine, tmp_path: Path
) -> None:
    submit(quick, engine, tmp_path, sizes(8), max_attempts="1")
    with mill(quick, tmp_path / "mill", workers=1, step_s=0.001, broken="lost") as running:
        until(lambda: running.log().count("rests for") >= 3)
        (worker,) = until(lambda: unhealthy_workers(engine))
    assert "doesn't compute any more" in worker.reason
    assert look(engine, "SELECT DISTINCT state, attempt FROM jobs") == [{"state": "queued", "attempt": 0}]


def test_a_bad_lane_among_good_ones_fails_by_itself(quick: Settings, engine: Engine, tmp_path: Path) -> None:
    bad = [{"prompt": f"number {n} fault:exception", "steps": 1, "height": 256} for n in range(LANE)]
    rows = [*sizes(20), *bad, *sizes(40)[20 * LANE :]]
    batch = submit(quick, engine, tmp_path, rows, max_attempts="2")
    with mill(quick, tmp_path / "mill", workers=2, step_s=0.001) as running:
        assert settle(engine, quiet_s=30), running.log()[-3000:]
        assert "rests for" not in running.log()
        until(lambda: not unhealthy_workers(engine))
    assert check(engine, batch.name).states == {"failed": LANE, "done": 40 * LANE}
    charged = look(
        engine, "SELECT outcome, count(*) AS n FROM attempts WHERE outcome <> 'returned' GROUP BY 1"
    )
    assert {row["outcome"]: row["n"] for row in charged} == {"retried": LANE, "failed": LANE}


def test_a_batch_whose_jobs_fail_everywhere_ends(quick: Settings, engine: Engine, tmp_path: Path) -> None:
    rows = [{"prompt": f"number {n} fault:nan", "steps": 1} for n in range(60)]
    batch = submit(quick, engine, tmp_path, rows)
    with mill(quick, tmp_path / "mill", workers=2, step_s=0.001) as running:
        assert settle(engine, quiet_s=30), running.log()[-3000:]
    assert check(engine, batch.name).states == {"failed": 60}
