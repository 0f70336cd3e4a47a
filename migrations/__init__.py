"""Alembic migrations of the tables in `jobs.schema`; `upgrade` is what `nightmill migrate` runs."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

LOCK = 0x6E6D696C  # advisory lock key, so that two processes starting together don't both migrate


def config() -> Config:
    """Alembic's configuration, pointing at this folder wherever it is installed."""
    alembic = Config()
    alembic.set_main_option("script_location", str(Path(__file__).parent))
    return alembic


def upgrade(engine: Engine, revision: str = "head") -> tuple[str | None, str | None]:
    """Bring the database to `revision`; returns the revisions (before, after)."""
    return _migrate(engine, lambda alembic: command.upgrade(alembic, revision))


def downgrade(engine: Engine, revision: str) -> tuple[str | None, str | None]:
    """Take the database back to `revision` ("base": no tables); returns the revisions (before, after)."""
    return _migrate(engine, lambda alembic: command.downgrade(alembic, revision))


def is_current(engine: Engine) -> bool:
    """Whether the database has every migration."""
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    return found == ScriptDirectory.from_config(config()).get_current_head()


def _migrate(engine: Engine, change: object) -> tuple[str | None, str | None]:
    alembic = config()
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        before = MigrationContext.configure(connection).get_current_revision()
        alembic.attributes["connection"] = connection
        change(alembic)  # type: ignore[operator]
        return before, MigrationContext.configure(connection).get_current_revision()
