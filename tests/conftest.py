"""What all tests have in common: their order, their random seed, their settings, and the real parts they are run on."""

import gc
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, QueuePool

from jobs.db.engine import connect
from jobs.settings import Settings, load_settings
from tests.command_line import Nightmill
from tests.s3 import S3Server, start_s3

# Several tests at once share the cores: one thread each is faster than many that wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Commands and workers are started by the hundred: without bytecode each would compile nightmill anew, and each
# process of a test run would compile the tests and rewrite their assertions.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Test files import diffusers as workers do, without bitsandbytes, which compiles code when it is imported; tests of
# packed weights import it when they are run.
sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # makes imports of it fail
# A shell starts what it runs in the background with SIGINT ignored, and so would be whatever tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.servers"]

FAULTS = (
    "tests/chaos/",
    "tests/examples/test_etl.py",
    "tests/end_to_end/test_killed.py",
    "tests/end_to_end/test_metrics.py::test_a_child_that_is_killed",
    "tests/end_to_end/test_metrics.py::test_a_worker_is_alive_while_redis_is_away",
    "tests/end_to_end/test_stopping.py",
    "tests/end_to_end/test_webhooks.py::test_what_a_killed",
    "tests/end_to_end/test_worker_ends.py::test_a_worker_that_celery_gives_up",
    "tests/examples/test_etl.py::test_a_consumer_that_is_killed",
    "tests/console/test_outage.py",
    "tests/console/test_private_services.py::test_a_run_after_one_that_was_killed",
)
END_TO_END = (
    "tests/end_to_end/",
    "tests/bench/test_bench.py",
    "tests/bench/test_gpu.py",
    "tests/console/test_adding_a_policy_key.py",
    "tests/console/test_exports.py::test_a_batch_is_exported_while_processes_render_it",
    "tests/console/test_private_services.py",
    "tests/console/test_reading.py",
    "tests/console/test_reproduce.py",
    "tests/console/test_server_alone.py",
    "tests/console/test_update_existing_batch.py::test_a_run_renders_what_changed_alone",
    "tests/infra/containers/test_compose_runs.py",
    "tests/infra/helm/test_helm_commands.py",
    "tests/infra/hosts/test_systemd_commands.py",
    "tests/infra/monitoring/test_prometheus_run.py",
    "tests/test_readme.py",
    "tests/test_upgrade.py",
    "tests/test_worker_of_version_before.py",
    "tests/worker/test_adding_a_stage.py",
)
LONG = (
    "tests/test_readme.py",
    "tests/bench/",
    "tests/infra/",
    "tests/end_to_end/",
    "tests/chaos/",
    "tests/console/",
)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses among them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: with one of them last, all processes but one would wait for it."""
    for item in items:
        if item.nodeid.startswith(FAULTS):
            item.add_marker("faults")
        elif item.nodeid.startswith(END_TO_END):
            item.add_marker("end_to_end")
    items.sort(
        key=lambda item: next((n for n, path in enumerate(LONG) if item.nodeid.startswith(path)), len(LONG))
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Test files import half a million objects, which stay: looking through them for garbage would take seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        del sys.modules["bitsandbytes"]
        gc.freeze()
        gc.enable()


def pytest_report_header(config: pytest.Config) -> str:
    """Print the seed with which a failure can be repeated."""
    return (
        f"random seed: {_seed(config)} (of random, numpy, torch, hypothesis; --hypothesis-seed=N for another)"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Random numbers are the same in each run, and whatever ran before."""
    seed = _seed(item.config)
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


def _seed(config: pytest.Config) -> int:
    return int(config.getoption("hypothesis_seed"))


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    for name in [name for name in os.environ if name.startswith("NIGHTMILL_")]:
        del os.environ[name]
    # It draws in no time and takes any prompt; tests of the default model say so.
    os.environ["NIGHTMILL_DEFAULT_MODEL"] = "tiny-random"
    # What renders the same twice is to render it twice; tests of reuse say so.
    os.environ["NIGHTMILL_REUSE"] = "false"


@pytest.fixture(autouse=True)
def _environment_as_before() -> Iterator[None]:
    """What a test's command sets in the environment, such as HF_HUB_OFFLINE, is not there in the tests after it."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def shared_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder that tests share, so that the tiny checkpoints are built once."""
    return tmp_path_factory.mktemp("shared-models")


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """An engine on the test's own database."""
    engine = connect(database, pool_size=10)
    yield engine
    # A thread that has a query on its way gives its connection back to a pool that is gone, and nobody closes it.
    deadline = time.monotonic() + 20
    while isinstance(engine.pool, QueuePool) and engine.pool.checkedout() and time.monotonic() < deadline:
        time.sleep(0.01)
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


@pytest.fixture
def nightmill(settings: Settings, tmp_path: Path) -> Nightmill:
    """The command line on the test's settings."""
    return Nightmill(settings, tmp_path)
