"""PgBouncer between nightmill and PostgreSQL, which gives each session, or each transaction, a connection."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

import migrations
from jobs.db.engine import connect
from jobs.services.postgres import SERVER_USER
from jobs.settings import Settings
from tests import other_postgres
from tests.chaos.stub import stubbed
from tests.end_to_end.processes import check_exactly_once, foxes, running, until
from tests.factories import look
from tests.slow.fetched_programs import debian_files
from tests.slow.ports import free_port, listens
from tests.worker.contexts import submit

PACKAGES = ("pgbouncer", "libc-ares2", "libevent-2.1-7")
JOBS = 60

pytestmark = [pytest.mark.slow_tier, pytest.mark.timeout(300)]


@pytest.fixture
def programs(tmp_path: Path) -> tuple[Path, str]:
    """The root of a file tree that holds Debian's pgbouncer, and the value of LD_LIBRARY_PATH that it needs."""
    return debian_files(tmp_path, *PACKAGES)


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Path]:
    """The folder, socket included, of a PostgreSQL that trusts whoever reaches its socket."""
    bundled = other_postgres.postgres_tools()
    folder = tmp_path / "pg" / "data"
    other_postgres.start(bundled, folder)
    yield folder
    other_postgres.stop(bundled, folder)


@contextmanager
def pgbouncer(programs: tuple[Path, str], postgres: Path, folder: Path, mode: str) -> Iterator[str]:
    """The URL of a database behind PgBouncer, with room for 20 connections to the server."""
    port = free_port()
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        f"[databases]\n* = host={postgres} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = 20\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    files, libraries = programs
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(
            [files / "usr" / "sbin" / "pgbouncer", configuration],
            env=os.environ | {"LD_LIBRARY_PATH": libraries},
            stdout=log,
            stderr=log,
            user=SERVER_USER if os.geteuid() == 0 else None,
        )
    try:
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        until(lambda: listens(port))
        yield url
    finally:
        process.terminate()
        process.wait(10)


def render(settings: Settings, engine: Engine, folder: Path) -> None:
    """A scheduler and two workers render a batch."""
    batch = submit(settings, engine, folder, foxes(JOBS))
    with stubbed(folder, step_s=0.02), running(settings, "scheduler", "worker", "worker"):
        until(lambda: look(engine, "SELECT FROM jobs WHERE finished_at IS NULL") == [], 90)
    check_exactly_once(engine, batch.name, settings.output)


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_batch_through_a_pooler(
    settings: Settings, programs: tuple[Path, str], postgres: Path, tmp_path: Path, mode: str
) -> None:
    """Prepared statements of two clients would have the same names on one server connection."""
    with pgbouncer(programs, postgres, tmp_path, mode) as url:
        engine = connect(url)
        migrations.upgrade(engine)
        render(settings.model_copy(update={"database_url": SecretStr(url)}), engine, tmp_path)
        engine.dispose()
    log = (settings.data_dir / "processes.log").read_text()
    assert "WARNING" not in log
    assert "Traceback" not in log
