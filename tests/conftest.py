"""Real parts for every test: one PostgreSQL and one Redis of the run, a database of its own for each test."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

import migrations
from jobs.db.engine import connect
from jobs.services.embedded import services
from jobs.settings import Settings, load_settings
from tests.s3 import S3Server, start_s3

# Several tests at once share the cores: one thread each is faster than many that wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Commands and workers are started by the hundred: without bytecode each would compile nightmill anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A shell starts what it runs in the background with SIGINT ignored, and so would be whatever tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TEMPLATE = "nightmill_template"
FAULTS = (
    "tests/chaos/",
    "tests/end_to_end/test_killed.py",
    "tests/end_to_end/test_stopping.py",
    "tests/console/test_outage.py",
    "tests/console/test_private_services.py::test_a_run_after_one_that_was_killed",
)
LONG = ("tests/test_readme.py", "tests/end_to_end/", "tests/chaos/", "tests/bench/", "tests/console/")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses among them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: with one of them last, all processes but one would wait for it."""
    for item in items:
        if item.nodeid.startswith(FAULTS):
            item.add_marker("faults")
    items.sort(
        key=lambda item: next((n for n, path in enumerate(LONG) if item.nodeid.startswith(path)), len(LONG))
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Random tensors are the same in each run, and whatever ran before: torch begins with another seed each time."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    for name in [name for name in os.environ if name.startswith("NIGHTMILL_")]:
        del os.environ[name]
    # It draws in no time and takes any prompt; tests of the default model say so.
    os.environ["NIGHTMILL_DEFAULT_MODEL"] = "tiny-random"


@pytest.fixture(scope="session")
def shared_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder that tests share, so that the tiny checkpoints are built once."""
    return tmp_path_factory.mktemp("shared-models")


@pytest.fixture(scope="session")
def servers() -> Iterator[Settings]:
    """Running PostgreSQL and Redis; the template database has all tables.

    Not in pytest's folder: a second run of tests closes it to all but root, and PostgreSQL is somebody else then.
    """
    with (
        tempfile.TemporaryDirectory(
            prefix="nightmill-tests-", dir=_memory_folder(), ignore_cleanup_errors=True
        ) as folder,
        services(load_settings(data_dir=Path(folder))) as configured,
    ):
        admin = connect(configured.database)
        with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for name in ("fsync", "full_page_writes", "synchronous_commit"):
                connection.execute(text(f"ALTER SYSTEM SET {name} = off"))
            connection.execute(text("SELECT pg_reload_conf()"))
            connection.execute(text(f"CREATE DATABASE {TEMPLATE}"))
        template = connect(_database(configured, TEMPLATE))
        migrations.upgrade(template)
        template.dispose()
        yield configured
        admin.dispose()


@pytest.fixture
def empty_database(servers: Settings) -> Iterator[str]:
    """The URL of a database without tables."""
    with new_database(servers, "") as url:
        yield url


@pytest.fixture
def database(servers: Settings) -> Iterator[str]:
    """The URL of a database with all tables."""
    with new_database(servers) as url:
        yield url


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """An engine on the test's own database."""
    engine = connect(database, pool_size=10)
    yield engine
    engine.dispose()


@pytest.fixture
def settings(servers: Settings, database: str, shared_models: Path, tmp_path: Path) -> Settings:
    """Configured settings: own database, own queue, own folders, quick leases."""
    return load_settings(
        data_dir=tmp_path / "data",
        database_url=SecretStr(database),
        broker_url=servers.broker_url,
        output=str(tmp_path / "output"),
        models_dir=shared_models,
        queue=f"q-{secrets.token_hex(4)}",
        lease_s=3,
        tick_s=0.1,
        retry_delay_s=0.1,
    )


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """An S3 server over HTTP with a bucket."""
    with start_s3() as server:
        yield server


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


class Nightmill:
    """Runs `nightmill` as a user would, with the test's settings in the environment."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 50) -> Ended:
        process = subprocess.run(
            [sys.executable, "-m", "console.cli", *arguments],
            cwd=self.folder,
            env=self.settings.environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Ended(process.returncode, process.stdout, process.stderr)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command and leave it running; the caller ends it."""
        return subprocess.Popen(
            [sys.executable, "-m", "console.cli", *arguments],
            cwd=self.folder,
            env=self.settings.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def nightmill(settings: Settings, tmp_path: Path) -> Nightmill:
    """The command line on the test's settings."""
    return Nightmill(settings, tmp_path)


@contextmanager
def new_database(
    servers: Settings, options: str = f"TEMPLATE {TEMPLATE} STRATEGY FILE_COPY"
) -> Iterator[str]:
    """The URL of a database that lasts as long as the block; copied by files, which spares the log."""
    name = f"t_{secrets.token_hex(6)}"
    admin = connect(servers.database)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name} {options}"))
        yield _database(servers, name)
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


def _memory_folder() -> str | None:
    """A folder in memory where the system has one with room: a thousand databases are made in half the time there."""
    folder = Path("/dev/shm")  # noqa: S108 - what is made in it has a name of its own
    return str(folder) if folder.is_dir() and shutil.disk_usage(folder).free > 4 << 30 else None


def _database(servers: Settings, name: str) -> str:
    return make_url(servers.database).set(database=name).render_as_string(hide_password=False)
