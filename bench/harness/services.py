"""The environment of benchmarks: their own services in a temporary folder, with PostgreSQL's default durability."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

import migrations
from jobs.db.engine import connect, run
from jobs.services.embedded import services
from jobs.settings import Settings


@dataclass(frozen=True)
class Place:
    """A folder and running services; `settings` are nightmill's defaults with both URLs set."""

    folder: Path
    settings: Settings

    @contextmanager
    def database(self, name: str) -> Iterator[Settings]:
        """Yield settings with a new database that has all tables; it is dropped afterwards."""
        with self._copy(self._tables, name) as url:
            yield self.settings.model_copy(update={"database_url": SecretStr(url)})

    @contextmanager
    def empty_database(self, name: str) -> Iterator[str]:
        """Yield the URL of a new database without tables; it is dropped afterwards."""
        with self._copy("template1", name) as url:
            yield url

    def postgresql(self) -> str:
        """Return the server's version, such as 18.4."""
        with engine_on(self.settings.database) as engine:
            version: str = run(engine, text("SHOW server_version"), {})[0].server_version
        return version.split(maxsplit=1)[0]

    @cached_property
    def _tables(self) -> str:
        """The name of a database with all tables, from which others are copied: migrations take longer."""
        name = "bench_tables"
        _command(self.settings.database, f"CREATE DATABASE {name}")
        with engine_on(self._url(name)) as engine:
            migrations.upgrade(engine)
        return name

    @contextmanager
    def _copy(self, template: str, name: str) -> Iterator[str]:
        _command(self.settings.database, f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self._url(name)
        finally:
            _command(self.settings.database, f"DROP DATABASE {name} WITH (FORCE)")

    def _url(self, name: str) -> str:
        return make_url(self.settings.database).set(database=name).render_as_string(hide_password=False)


@contextmanager
def open_place() -> Iterator[Place]:
    """Start all services; stop and remove them at the end. NIGHTMILL_* environment variables are ignored."""
    with tempfile.TemporaryDirectory(prefix="nightmill-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        defaults = Settings.model_construct(data_dir=folder / "data", output=str(folder / "output"))
        with services(defaults) as configured:
            yield Place(folder, configured)


@contextmanager
def engine_on(url: str, *, pool_size: int = 4) -> Iterator[Engine]:
    """Yield an engine, disposed of afterwards."""
    engine = connect(url, pool_size=pool_size)
    try:
        yield engine
    finally:
        engine.dispose()


def settle(engine: Engine) -> None:
    """Write out the dirty pages of earlier rounds, so that they don't slow down the next."""
    _command(engine.url.render_as_string(hide_password=False), "CHECKPOINT")


def vacuum(engine: Engine, table: str) -> None:
    """Update a table's statistics and visibility map, as autovacuum does in time."""
    _command(engine.url.render_as_string(hide_password=False), f"VACUUM (ANALYZE) {table}")


def _command(url: str, command: str) -> None:
    with engine_on(url) as engine, engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(command))
