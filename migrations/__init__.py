"""Alembic migrations of the tables in `jobs.db.schema`; `upgrade` is what `nightmill migrate` runs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.errors import DeadlockDetected
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

if TYPE_CHECKING:
    from alembic.config import Config

LOCK = 0x6E6D696C  # advisory lock key, so that two processes starting together don't both migrate


OLDEST_USABLE = "0015"
"""The oldest revision whose version of nightmill works with this version's tables: the one before, at least.

A migration adds columns with defaults and tables, so that processes of the version before it go on, and may be started
again, until all are of the new one; what a version stopped using is dropped by the one after it.
"""

_TRIES = 10

_NOT_VALID = text("""
    SELECT format('ALTER TABLE %s VALIDATE CONSTRAINT %I', conrelid::regclass, conname) FROM pg_constraint
    WHERE NOT convalidated AND connamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
    ORDER BY oid
""")

_USABLE_BY = "usable by versions of revision "


class UnknownRevisionError(Exception):
    """The database is at a revision that this version of nightmill doesn't know."""


def config() -> "Config":
    """Alembic's configuration, pointing at this folder wherever it is installed."""
    from alembic.config import Config  # noqa: PLC0415 - a quarter of what a command takes to start

    alembic = Config()
    alembic.set_main_option("script_location", str(Path(__file__).parent))
    return alembic


def head() -> str:
    """The newest revision: files in `versions` are named after theirs, in order."""
    return max(path.name for path in (Path(__file__).parent / "versions").glob("[0-9]*.py")).split("_")[0]


def upgrade(engine: Engine, revision: str = "head") -> tuple[str | None, str | None]:
    """Bring the database to `revision`; returns the revisions (before, after). Raises UnknownRevisionError."""
    from alembic import command  # noqa: PLC0415

    revisions = _migrate(engine, lambda alembic: command.upgrade(alembic, revision))
    _validate(engine)
    return revisions


def downgrade(engine: Engine, revision: str) -> tuple[str | None, str | None]:
    """Take the database back to `revision` ("base": no tables); returns the revisions (before, after).

    Raises UnknownRevisionError.
    """
    from alembic import command  # noqa: PLC0415

    revisions = _migrate(engine, lambda alembic: command.downgrade(alembic, revision))
    _validate(engine)
    return revisions


def is_current(engine: Engine) -> bool:
    """Whether the database has every migration."""
    with engine.connect() as connection:
        return _revision(connection) == head()


def current(engine: Engine) -> str | None:
    """The database's revision; None if it has no tables."""
    with engine.connect() as connection:
        return _revision(connection)


def is_newer(engine: Engine) -> bool:
    """Whether the tables are of a later version."""
    return (current(engine) or "") > head()


def is_newer_but_usable(engine: Engine) -> bool:
    """Whether the tables are of a later version, which says that this version works with them, too."""
    revision = current(engine)
    with engine.connect() as connection:
        comment = connection.execute(text("SELECT obj_description(to_regclass('alembic_version'))")).scalar()
    oldest = str(comment or "").removeprefix(_USABLE_BY)
    return revision is not None and revision > head() and oldest.isdecimal() and oldest <= head()


def _revision(connection: Connection) -> str | None:
    if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar() is None:
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _migrate(engine: Engine, change: "Callable[[Config], None]") -> tuple[str | None, str | None]:
    """Migrate in one transaction, and once more where it and a statement of a running worker waited for each other.

    A migration that has made a foreign key to a table keeps others from writing to it, and waits for its readers where
    it alters it. A transaction that has read the table and is about to write to it waits for the migration, too.
    """
    for _ in range(_TRIES - 1):
        try:
            return _migrate_once(engine, change)
        except OperationalError as error:
            if not isinstance(error.orig, DeadlockDetected):
                raise
    return _migrate_once(engine, change)


def _validate(engine: Engine) -> None:
    """Check the rows that were there when a migration added a constraint as NOT VALID.

    That reads whole tables, and workers go on meanwhile: the migration's locks end before.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in connection.execute(_NOT_VALID).scalars().all():
            connection.exec_driver_sql(statement)


def _migrate_once(engine: Engine, change: "Callable[[Config], None]") -> tuple[str | None, str | None]:
    from alembic.util import CommandError  # noqa: PLC0415

    alembic = config()
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        before = _revision(connection)
        alembic.attributes["connection"] = connection
        try:
            change(alembic)
        except CommandError as error:
            raise UnknownRevisionError(str(error)) from None
        if _revision(connection) == head():
            connection.exec_driver_sql(f"COMMENT ON TABLE alembic_version IS '{_USABLE_BY}{OLDEST_USABLE}'")
        return before, _revision(connection)
