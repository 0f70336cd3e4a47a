"""One worker that can do nothing beside one that can: every job is done, and none is charged for the broken one."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs import batches
from jobs.settings import Settings
from tests.chaos.invariant import check
from tests.chaos.mill import mill, settle
from tests.chaos.scale import scaled
from tests.end_to_end.kit import foxes, until
from tests.factories import look
from tests.worker.desk import submit

JOBS = scaled(600, 2000)

pytestmark = pytest.mark.timeout(scaled(120, 600))


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Large device batches; what failed is tried again at once."""
    return settings.model_copy(update={"gpu_rows": 16, "claim": 32, "lease_s": 30, "retry_delay_s": 0})


def rendered(settings: Settings, engine: Engine, folder: Path, **options: Any) -> dict[str, int]:
    """How the jobs of a batch ended by a broken worker and a sound one; `charged` is how many had failed attempts."""
    rows = [row | {"steps": 1} for row in foxes(options.pop("jobs", JOBS))]
    batch = submit(settings, engine, folder, rows, max_attempts="3", watermark="off", parameters="off")
    batches.pause(engine, batch.id)
    with mill(settings, folder / "mill", workers=2, step_s=0.001, **options) as running:
        until(lambda: len(look(engine, "SELECT name FROM workers")) == 2)
        batches.resume(engine, batch.id)
        assert settle(engine, quiet_s=30), running.log()[-3000:]
        told = running.log()
    assert "unhealthy" in told or options.get("twin"), told[-3000:]
    states = dict(check(engine, batch.name).states)
    charged = look(engine, "SELECT count(DISTINCT job_id) AS n FROM attempts WHERE outcome <> 'returned'")
    return states | {"charged": charged[0]["n"]}


@pytest.mark.parametrize("broken", ["load", "device"])
def test_a_broken_host_costs_no_job(quick: Settings, engine: Engine, tmp_path: Path, broken: str) -> None:
    assert rendered(quick, engine, tmp_path, broken=broken) == {"done": JOBS, "charged": 0}


@pytest.mark.parametrize(("broken", "twin"), [("load", "charged"), ("device", "no-breaker")])
def test_without_it_jobs_fail(
    quick: Settings, engine: Engine, tmp_path: Path, broken: str, twin: str
) -> None:
    ended = rendered(quick, engine, tmp_path, broken=broken, twin=twin)
    assert ended["charged"] > 32
    assert ended["failed"] > 0


def test_a_batch_whose_jobs_fail_everywhere_ends(quick: Settings, engine: Engine, tmp_path: Path) -> None:
    rows = [{"prompt": f"number {n} fault:nan", "steps": 1} for n in range(60)]
    batch = submit(quick, engine, tmp_path, rows)
    with mill(quick, tmp_path / "mill", workers=2, step_s=0.001) as running:
        assert settle(engine, quiet_s=30), running.log()[-3000:]
    assert check(engine, batch.name).states == {"failed": 60}
