"""The network between a worker's host and that of PostgreSQL, Redis and S3 is cut: nothing is lost or doubled."""

import random
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.settings import Settings
from jobs.storage.open import S3Options
from tests.chaos.invariant import check
from tests.chaos.mill import mill, settle
from tests.chaos.netns import other_host, why_not
from tests.chaos.remote_worker import is_at_work, worker_on
from tests.chaos.scale import scaled
from tests.end_to_end.processes import foxes, until
from tests.factories import look
from tests.s3 import S3Server
from tests.worker.contexts import submit

LEASE_S = 2
CUTS_S = scaled((4.0,), (2.0, 5.0, 10.0, 25.0, 3.0, 15.0, 25.0))
JOBS = scaled(40, 3000)

pytestmark = [
    pytest.mark.timeout(scaled(300, 3600)),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.model_copy(update={"batch_size": 4, "claim": 8, "lease_s": LEASE_S})


def test_cuts(quick: Settings, engine: Engine, tmp_path: Path, s3: S3Server) -> None:
    quick = quick.model_copy(update={"s3_endpoint_url": s3.endpoint_url, "s3_region": "us-east-1"})
    output = f"{s3.uri}/{tmp_path.name}"
    batch = submit(quick, engine, tmp_path, foxes(JOBS), max_attempts="50", output=output)
    folder = tmp_path / "mill"
    with (
        other_host() as host,
        mill(quick, folder, workers=0, step_s=0.1),
        worker_on(host, quick, folder) as process,
    ):
        for cut_s in CUTS_S:
            until(lambda: is_at_work(engine, process))
            time.sleep(random.uniform(0, 0.5))
            host.cut()
            time.sleep(cut_s)
            host.mend()
        assert settle(engine, quiet_s=60), (folder / f"{host.name}.log").read_text()[-3000:]
        assert process.is_running()
    places = [(row, 0) for row in range(JOBS)]
    facts = check(engine, batch.name, places=places, s3=S3Options(s3.endpoint_url, "us-east-1"))
    assert facts.states == {"done": JOBS}
    lost = look(engine, "SELECT outcome, error_kind FROM attempts")
    assert {(row["outcome"], row["error_kind"]) for row in lost} <= {("expired", "crash")}


def test_twin_whose_scheduler_rescues_nobody_waits_for_the_lost_host(
    quick: Settings, engine: Engine, tmp_path: Path
) -> None:
    batch = submit(quick, engine, tmp_path, foxes(16), max_attempts="50")
    folder = tmp_path / "mill"
    with (
        other_host() as host,
        mill(quick, folder, workers=0, step_s=0.1, twin="no-rescue"),
        worker_on(host, quick, folder) as process,
    ):
        until(lambda: is_at_work(engine, process))
        host.cut()
        assert not settle(engine, quiet_s=2 * LEASE_S)
        with pytest.raises(AssertionError, match="is running"):
            check(engine, batch.name)
        host.mend()
