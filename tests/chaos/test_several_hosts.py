"""Three hosts, one with PostgreSQL, Redis and S3, two with a worker each: networks that are slow, cut or halved."""

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

from jobs.queue.worker_registry import workers
from jobs.settings import Settings
from jobs.storage.open import S3Options
from scheduler.ingest.ingest import Ingested
from tests.chaos.invariant import check
from tests.chaos.mill import mill, settle
from tests.chaos.netns import NONE, SLOW, Host, Slowness, other_host, why_not
from tests.chaos.remote_worker import is_at_work, worker_on
from tests.chaos.scale import scaled
from tests.end_to_end.processes import end, foxes, until
from tests.factories import look
from tests.s3 import S3Server
from tests.worker.contexts import submit

FEW, MANY = scaled(24, 2000), scaled(240, 4000)
CUT_S, ROUNDS = scaled(5.0, 20.0), scaled(1, 6)

pytestmark = [
    pytest.mark.timeout(scaled(300, 3600)),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]


class Farm:
    """A batch that is rendered by two workers on hosts of their own."""

    def __init__(self, settings: Settings, engine: Engine, batch: Ingested, hosts: list[Host]) -> None:
        self.settings, self.engine, self.batch, self.hosts = settings, engine, batch, hosts
        self.processes: list[psutil.Popen] = []

    def both_work(self) -> bool:
        return all(is_at_work(self.engine, process) for process in self.processes)

    def has_ended(self) -> bool:
        return not look(self.engine, "SELECT FROM jobs WHERE finished_at IS NULL LIMIT 1")

    def judge(self) -> list[dict[str, object]]:
        """Wait for the end; nothing may be lost or doubled. Returns the attempts that were charged for nothing."""
        assert settle(self.engine, quiet_s=60)
        store = S3Options(self.settings.s3_endpoint_url, self.settings.s3_region)
        facts = check(
            self.engine, self.batch.name, places=[(row, 0) for row in range(self.batch.jobs)], s3=store
        )
        assert facts.states == {"done": self.batch.jobs}
        return look(self.engine, "SELECT outcome, error_kind FROM attempts")


@contextmanager
def farm(
    settings: Settings,
    engine: Engine,
    folder: Path,
    s3: S3Server,
    *,
    jobs: int = MANY,
    lease_s: float = 4,
    slowness: Slowness = NONE,
) -> Iterator[Farm]:
    """The hosts, within the block; the scheduler is on the first. There are jobs for several seconds of both."""
    own = settings.model_copy(
        update={
            "batch_size": 4,
            "claim": 8,
            "lease_s": lease_s,
            "s3_endpoint_url": s3.endpoint_url,
            "s3_region": "us-east-1",
        }
    )
    batch = submit(own, engine, folder, foxes(jobs), max_attempts="50", output=f"{s3.uri}/{folder.name}")
    with mill(own, folder / "mill", workers=0), other_host() as first, other_host() as second:
        made = Farm(own, engine, batch, [first, second])
        with (
            worker_on(first, own, folder / "mill", slowness=slowness) as one,
            worker_on(second, own, folder / "mill", slowness=slowness) as two,
        ):
            made.processes = [one, two]
            yield made


def test_a_slow_network_costs_time_alone(
    settings: Settings, engine: Engine, tmp_path: Path, s3: S3Server
) -> None:
    """200 ms each way, and of fifty packets one that is lost and sent again, under leases of the usual length."""
    with farm(settings, engine, tmp_path, s3, jobs=FEW, lease_s=30, slowness=SLOW) as running:
        until(running.both_work)
        assert running.judge() == []
        assert {row["worker"] for row in look(engine, "SELECT DISTINCT worker FROM images")} == {
            one.name for one in workers(engine)
        }


def test_hosts_that_are_cut_off_in_turn(
    settings: Settings, engine: Engine, tmp_path: Path, s3: S3Server
) -> None:
    """As often as there is work for both; the first time there is."""
    cuts = 0
    with farm(settings, engine, tmp_path, s3) as running:
        while (
            cuts < 2 * ROUNDS
            and until(lambda: running.both_work() or running.has_ended())
            and running.both_work()
        ):
            host = running.hosts[cuts % 2]
            host.cut()
            time.sleep(random.uniform(0.5, 1) * CUT_S)
            host.mend()
            cuts += 1
        charged = running.judge()
    assert cuts
    assert {(row["outcome"], row["error_kind"]) for row in charged} <= {("expired", "crash")}


@pytest.mark.parametrize("lost", ["s3", "redis"])
def test_a_host_that_reaches_postgres_but_not_the_rest(
    settings: Settings, engine: Engine, tmp_path: Path, s3: S3Server, lost: str
) -> None:
    """Without S3 it waits with what is rendered; without Redis it goes on in its lane. Neither is charged to jobs."""
    with farm(settings, engine, tmp_path, s3) as running:
        until(running.both_work)
        running.hosts[0].lose(lost)
        time.sleep(CUT_S)
        running.hosts[0].find(lost)
        assert running.judge() == []


def test_a_host_that_is_drained(settings: Settings, engine: Engine, tmp_path: Path, s3: S3Server) -> None:
    with farm(settings, engine, tmp_path, s3) as running:
        until(running.both_work)
        assert end(running.processes[0], signal.SIGTERM) == 0
        assert len(workers(engine)) == 1, "it has signed off"
        assert running.judge() == []
