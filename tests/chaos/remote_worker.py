"""A worker on another host, which reaches PostgreSQL, Redis and S3 by the network alone."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psutil
from pydantic import SecretStr
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from jobs.settings import Settings
from tests.chaos.netns import NONE, Host, Slowness, relay
from tests.chaos.stub import FOLDER, LONGEST_S, STEP_S
from tests.chaos.twins import TWIN
from tests.end_to_end.processes import end
from tests.factories import look
from tests.paths import ROOT


@contextmanager
def worker_on(
    host: Host, settings: Settings, folder: Path, twin: str = "", slowness: Slowness = NONE
) -> Iterator[psutil.Popen]:
    """A worker on the other host, which reaches our services by the network alone."""
    postgres = Path(str(make_url(settings.database).query["host"])) / ".s.PGSQL.5432"
    redis = Path(unquote(settings.broker.partition("://")[2]))
    store = urlsplit(settings.s3_endpoint_url or "http://127.0.0.1:1")
    with (
        relay(host.addresses["postgres"], postgres, slowness) as database_port,
        relay(host.addresses["redis"], redis, slowness) as broker_port,
        relay(host.addresses["s3"], (str(store.hostname), store.port or 80), slowness) as store_port,
    ):
        there = make_url(settings.database).set(host=host.addresses["postgres"], port=database_port, query={})
        own = settings.model_copy(
            update={
                "database_url": SecretStr(there.render_as_string(hide_password=False)),
                "broker_url": SecretStr(f"redis://{host.addresses['redis']}:{broker_port}/0"),
                "s3_endpoint_url": settings.s3_endpoint_url and f"http://{host.addresses['s3']}:{store_port}",
            }
        )
        environment = own.environment() | {
            "PYTHONPATH": str(ROOT),
            FOLDER: str(folder),
            STEP_S: "0.1",
            LONGEST_S: "3600",
            TWIN: twin,
        }
        with (folder / f"{host.name}.log").open("wb") as log:
            process = psutil.Popen(
                host.command(sys.executable, "-m", "tests.chaos.stub_worker"),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            end(process, signal.SIGTERM)


def is_at_work(engine: Engine, process: psutil.Process) -> bool:
    """Whether the worker over there holds jobs."""
    children = {child.pid for child in process.children(recursive=True)}
    running = look(engine, "SELECT DISTINCT worker FROM jobs WHERE state = 'running'")
    return any(int(row["worker"].rpartition(":")[2]) in children for row in running)
