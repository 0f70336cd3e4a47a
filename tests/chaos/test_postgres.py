"""PostgreSQL crashes, and connections are cut in mid-COMMIT: no job is lost, none is done or counted twice."""

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text

import migrations
from jobs.db.engine import connect
from jobs.services.postgres import start_postgres, stop_postgres
from jobs.settings import Settings
from tests.chaos.invariant import check
from tests.chaos.mill import mill, settle
from tests.chaos.scale import scaled
from tests.end_to_end.processes import foxes, until
from tests.factories import look
from tests.worker.contexts import submit

CRASHES, CUTS, COMMITS = scaled(3, 30), scaled(5, 100), scaled(3, 30)
JOBS = scaled(200, 6000)
AWAY_S = scaled(12.0, 120.0)

pytestmark = pytest.mark.timeout(scaled(300, 3600))


@dataclass(frozen=True)
class OwnPostgres:
    """A server that may be killed, with settings by which what is committed is on the disk."""

    folder: Path
    engine: Engine

    def crash(self) -> None:
        """An immediate shutdown, as if the power had failed, then a start with recovery."""
        process = psutil.Process(int((self.folder / "postmaster.pid").read_text().split()[0]))
        process.send_signal(signal.SIGQUIT)
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
        start_postgres(self.folder)
        self.engine.dispose()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Within it, there is no server."""
        self.engine.dispose()
        process = psutil.Process(int((self.folder / "postmaster.pid").read_text().split()[0]))
        process.send_signal(signal.SIGINT)
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
        yield
        start_postgres(self.folder)

    def cut(self) -> None:
        """End about half of the connections, whatever they are at."""
        self._terminate("random() < 0.5")

    def cut_in_commit(self) -> list[str]:
        """End connections whose COMMIT has happened but wasn't answered yet; how their statements begin.

        They wait for a standby.
        """
        self._set("synchronous_standby_names = 'nobody'")
        try:
            ended: list[str] = until(lambda: self._terminate("wait_event = 'SyncRep'"), 15)
            return ended
        finally:
            self._set("synchronous_standby_names = ''")

    def _terminate(self, which: str) -> list[str]:
        where = f"application_name = 'nightmill' AND pid <> pg_backend_pid() AND {which}"
        ended = f"SELECT query, pg_terminate_backend(pid) FROM pg_stat_activity WHERE {where}"  # noqa: S608
        return [row["query"] for row in look(self.engine, ended)]

    def _set(self, setting: str) -> None:
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"ALTER SYSTEM SET {setting}"))
            connection.execute(text("SELECT pg_reload_conf()"))


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[OwnPostgres]:
    folder = tmp_path / "postgres"
    engine = connect(start_postgres(folder))
    migrations.upgrade(engine)
    yield OwnPostgres(folder, engine)
    engine.dispose()
    stop_postgres(folder)


@pytest.fixture
def quick(settings: Settings, own_postgres: OwnPostgres) -> Settings:
    """The job table in the server that crashes."""
    url = SecretStr(own_postgres.engine.url.render_as_string(hide_password=False))
    return settings.model_copy(update={"database_url": url, "batch_size": 4, "claim": 8, "lease_s": 2})


def test_crashes_and_cut_connections(quick: Settings, tmp_path: Path, own_postgres: OwnPostgres) -> None:
    engine = own_postgres.engine
    assert look(engine, "SHOW fsync") == [{"fsync": "on"}]
    batch = submit(quick, engine, tmp_path, foxes(JOBS), max_attempts="50")
    disturbances = (
        [own_postgres.crash] * CRASHES + [own_postgres.cut] * CUTS + [own_postgres.cut_in_commit] * COMMITS
    )
    random.shuffle(disturbances)
    with mill(quick, tmp_path / "mill", step_s=0.1) as running:
        until(running.renders)
        for disturb in disturbances:
            time.sleep(random.uniform(0, 0.5))
            disturb()
        assert settle(engine, quiet_s=30), running.log()[-3000:]
    facts = check(engine, batch.name, places=[(row, 0) for row in range(JOBS)])
    assert facts.states == {"done": JOBS}
    lost = look(engine, "SELECT outcome, error_kind FROM attempts")
    assert {(row["outcome"], row["error_kind"]) for row in lost} <= {("expired", "crash")}
    assert facts.attempts == JOBS + len(lost)
    print(f"{CRASHES} crashes, {CUTS} cuts, {COMMITS} in COMMIT: {len(lost)} attempts lost of {JOBS} jobs")


def stay_away(settings: Settings, folder: Path, own_postgres: OwnPostgres, twin: str = "") -> tuple[int, int]:
    """How many attempts are lost, and pictures drawn in vain, while PostgreSQL is away for longer than a lease."""
    engine = own_postgres.engine
    own = settings.model_copy(update={"lease_s": 5})
    batch = submit(own, engine, folder, foxes(JOBS), max_attempts="50")
    with mill(own, folder / "mill", workers=1, step_s=0.02, twin=twin) as running:
        until(running.renders)
        with own_postgres.away():
            time.sleep(AWAY_S)
        assert settle(engine, quiet_s=30), running.log()[-3000:]
        drawn = running.renders().total()
    assert check(engine, batch.name).states == {"done": JOBS}
    return len(look(engine, "SELECT 1 FROM attempts")), drawn - JOBS


def test_away_for_longer_than_a_lease_it_costs_nothing(
    quick: Settings, tmp_path: Path, own_postgres: OwnPostgres
) -> None:
    assert stay_away(quick, tmp_path, own_postgres) == (0, 0)


def test_a_worker_that_does_not_wait_for_it_loses_attempts(
    quick: Settings, tmp_path: Path, own_postgres: OwnPostgres
) -> None:
    lost, drawn = stay_away(quick, tmp_path, own_postgres, twin="impatient")
    assert lost > 0
    assert drawn > 0


def test_a_completion_that_asks_not_whose_the_job_is_counts_twice(
    quick: Settings, tmp_path: Path, own_postgres: OwnPostgres
) -> None:
    engine = own_postgres.engine
    batch = submit(quick, engine, tmp_path, foxes(64), max_attempts="50")
    with mill(quick, tmp_path / "mill", workers=1, step_s=0.05, twin="no-fence") as running:
        until(running.renders)
        until(lambda: any(map(_is_completion, own_postgres.cut_in_commit())))
        settle(engine, quiet_s=10)
    with pytest.raises(AssertionError, match="job counts are wrong"):
        check(engine, batch.name)


def _is_completion(statement: str) -> bool:
    return 'lease uuid, "key" TEXT' in statement
