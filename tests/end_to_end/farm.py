"""A scheduler and workers that run all the time, as on hosts of their own, with S3 as the object store."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import SecretStr
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.db.engine import connect
from jobs.settings import Settings
from jobs.storage.open import S3Options
from tests.command_line import Nightmill
from tests.console.conftest import Typed
from tests.end_to_end.processes import (
    Rows,
    Truth,
    check_exactly_once,
    descendants,
    end,
    gone,
    manifest,
    running,
    until,
)
from tests.factories import look
from tests.s3 import S3Server
from tests.servers import DatabasePool, redis_in


@dataclass(frozen=True)
class Farm:
    """Running processes, and the command line on the same services."""

    settings: Settings
    engine: Engine
    nightmill: Nightmill
    workers: list[psutil.Popen]

    @property
    def typed(self) -> Typed:
        """The command line without a process for it."""
        return Typed(self.settings, self.nightmill.folder)

    def submit(self, rows: Rows, *options: str) -> str:
        """Submit a manifest of these rows; the batch's name."""
        name = f"b-{secrets.token_hex(4)}"
        path = manifest(self.nightmill.folder, rows, f"{name}.jsonl")
        submitted = self.typed("submit", path, *options, "--json")
        assert submitted.code == 0, submitted.err
        return str(submitted.json["name"])

    def wait(self, name: str) -> Truth:
        """Wait for the batch's end and check that all is well with it."""
        until(lambda: not actions.status(self.engine, name).remaining, 100)
        return self.check(name)

    def check(self, name: str) -> Truth:
        """Every job once, every object there."""
        s3 = S3Options(endpoint_url=self.settings.s3_endpoint_url, region=self.settings.s3_region)
        return check_exactly_once(self.engine, name, actions.status(self.engine, name).output, s3)


@contextmanager
def farm_of(
    workers: int, databases: DatabasePool, models_dir: Path, s3: S3Server, folder: Path
) -> Iterator[Farm]:
    """A farm of so many workers, a database and a Redis of its own; all end as they should at the end of the block."""
    with databases.new() as database, redis_in(folder / "redis") as broker:
        settings = databases.servers.model_copy(
            update={
                "data_dir": folder / "data",
                "database_url": SecretStr(database),
                "broker_url": SecretStr(broker),
                "output": f"{s3.uri}/night",
                "s3_endpoint_url": s3.endpoint_url,
                "s3_region": "us-east-1",
                "models_dir": models_dir,
                "queue": f"q-{secrets.token_hex(4)}",
                "lease_s": 3,
                "tick_s": 0.1,
                "retry_delay_s": 0.1,
                "batch_size": 2,
                "claim": 2,
            }
        )
        engine = connect(database)
        with running(settings, "scheduler", *["worker"] * workers) as (_, *processes):
            until(lambda: len(look(engine, "SELECT * FROM workers")) == workers)
            yield Farm(settings, engine, Nightmill(settings, folder), processes)
            family = [child for worker in processes for child in descendants(worker)]
            assert [end(worker) for worker in processes] == [0] * workers
            assert gone(family, 3)
            assert look(engine, "SELECT * FROM workers") == []
        engine.dispose()
