"""One PostgreSQL and one Redis for all processes of a test run; a database of its own for each test.

The first process of the run makes a folder for them, and stops them when the run ends, however it ends. Whichever
process needs them first starts them.
"""

import fcntl
import os
import secrets
import shutil
import signal
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import make_url

import migrations
from jobs.db.engine import connect
from jobs.services.postgres import start_postgres, stop_postgres
from jobs.services.redis import start_redis, stop_redis
from jobs.settings import Settings, load_settings
from tests import other_postgres
from tests.older_transactions import older_transactions

TEMPLATE = "nightmill_template"
_FOLDER = pytest.StashKey[Path]()
_AHEAD = 2


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of the servers, or use the one that the run's first process has made.

    Not in pytest's folder: a second run of tests closes it to all but root, and PostgreSQL is somebody else then.
    """
    inherited = getattr(config, "workerinput", {}).get("servers")
    folder = inherited or tempfile.mkdtemp(prefix="nightmill-tests-", dir=_memory_folder())
    config.stash[_FOLDER] = Path(folder)
    if not inherited and config.getoption("numprocesses", None):
        # SIGTERM, too, is to end the run by way of pytest_unconfigure.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist where the servers are."""
    node.workerinput["servers"] = str(node.config.stash[_FOLDER])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers, from the run's first process: the others have ended by now, or have crashed."""
    folder = config.stash.get(_FOLDER, None)
    if folder and not hasattr(config, "workerinput"):
        stop_redis(folder / "redis")
        if programs := os.environ.get(other_postgres.BIN):
            other_postgres.stop(Path(programs), folder / "postgres")
        else:
            stop_postgres(folder / "postgres")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Iterator[Settings]:
    """The settings of the running servers. Other tests use them at the same time: no test may stop or flush them."""
    folder = pytestconfig.stash[_FOLDER]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        configured = load_settings(
            data_dir=folder,
            database_url=SecretStr(_start_postgres(folder / "postgres")),
            broker_url=SecretStr(start_redis(folder / "redis")),
        )
        is_first = not (folder / "template").exists()
        if is_first:
            _make_template(configured)
            (folder / "template").touch()
    admin = connect(configured.database)
    with older_transactions(admin) if is_first else nullcontext():
        yield configured
    admin.dispose()


def _start_postgres(folder: Path) -> str:
    programs = os.environ.get(other_postgres.BIN)
    return other_postgres.start(Path(programs), folder) if programs else start_postgres(folder)


class DatabasePool:
    """Databases that a thread makes before they are needed, and drops: both together take PostgreSQL 30 ms or more."""

    def __init__(self, servers: Settings) -> None:
        self.servers = servers
        self._admin = connect(servers.database)
        self._thread = ThreadPoolExecutor(1)
        self._ready = deque(self._thread.submit(self._create) for _ in range(_AHEAD))

    @contextmanager
    def new(self) -> Iterator[str]:
        """The URL of a database with all tables that lasts as long as the block."""
        self._ready.append(self._thread.submit(self._create))
        name = self._ready.popleft().result()
        yield database_url(self.servers, name)
        self._thread.submit(self._run, f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        """Drop what is to be dropped, and end the thread."""
        self._thread.shutdown()
        self._admin.dispose()

    def _create(self) -> str:
        """Create a database from the template; copied by files, which takes less time than by the log."""
        name = f"t_{secrets.token_hex(6)}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
        return name

    def _run(self, statement: str) -> None:
        with self._admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(statement))


@pytest.fixture(scope="session")
def databases(servers: Settings) -> Iterator[DatabasePool]:
    """New databases for this process's tests."""
    pool = DatabasePool(servers)
    yield pool
    pool.close()


@pytest.fixture
def database(databases: DatabasePool) -> Iterator[str]:
    """The URL of a database with all tables."""
    with databases.new() as url:
        yield url


@pytest.fixture
def empty_database(servers: Settings) -> Iterator[str]:
    """The URL of a database without tables."""
    name = f"t_{secrets.token_hex(6)}"
    admin = connect(servers.database)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        yield database_url(servers, name)
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@contextmanager
def redis_in(folder: Path) -> Iterator[str]:
    """The URL of a Redis of the test's own, which it may stop and flush."""
    try:
        yield start_redis(folder)
    finally:
        stop_redis(folder)


def database_url(servers: Settings, name: str) -> str:
    """The URL of a database of this name."""
    return make_url(servers.database).set(database=name).render_as_string(hide_password=False)


def _make_template(servers: Settings) -> None:
    """Create the database with all tables that the others are copies of, and let PostgreSQL wait for no disk."""
    admin = connect(servers.database)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(text(f"ALTER SYSTEM SET {name} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
        connection.execute(text(f"DROP DATABASE IF EXISTS {TEMPLATE}"))
        connection.execute(text(f"CREATE DATABASE {TEMPLATE}"))
    admin.dispose()
    template = connect(database_url(servers, TEMPLATE))
    migrations.upgrade(template)
    template.dispose()


def _memory_folder() -> str | None:
    """A folder in memory where the system has one with room: a thousand databases are made in half the time there."""
    folder = Path("/dev/shm")  # noqa: S108 - what is made in it has a name of its own
    return str(folder) if folder.is_dir() and shutil.disk_usage(folder).free > 4 << 30 else None
