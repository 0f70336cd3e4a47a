"""Connections to the job table."""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Executable, Row, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from jobs.errors import ServiceError, UsageError
from jobs.settings import without_password

T = TypeVar("T")


def connect(url: str, *, pool_size: int = 4) -> Engine:
    """An engine on `postgresql://…`; opening a connection times out in 10 s.

    Connections aren't asked before each use whether they still stand, which costs as much as a short statement: who
    finds one broken, by `transact`, does its work again on a new one.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError(
            "NIGHTMILL_DATABASE_URL is not a URL; write postgresql://user:password@host/database"
        ) from None
    if "@" in (parsed.host or ""):
        raise UsageError("NIGHTMILL_DATABASE_URL has two '@'; write the one in the password as %40")
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise UsageError(
            f"NIGHTMILL_DATABASE_URL must be postgresql://…, not {parsed.get_backend_name()}://…"
        )
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=4,
        connect_args={"connect_timeout": 10, "application_name": "nightmill"},
    )
    event.listen(engine, "connect", _plan_once)
    return engine


def _plan_once(connection: Any, _: object) -> None:
    """Keep the plan of a prepared statement: with many jobs queued, PostgreSQL would plan each claim anew."""
    with connection.cursor() as cursor:
        cursor.execute("SET plan_cache_mode = force_generic_plan")
    connection.commit()


def check_reachable(engine: Engine) -> None:
    """Open one connection; ServiceError in plain words where PostgreSQL can't be reached."""
    try:
        engine.connect().close()
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        shown = without_password(engine.url.render_as_string())
        raise ServiceError(f"can't reach PostgreSQL at {shown}: {reason}") from None


def run(
    engine: Engine, statement: Executable, values: Mapping[str, object], done: Executable | None = None
) -> Sequence[Row[Any]]:
    """One statement in a transaction of its own, tried again as `transact` does.

    The server begins and commits by itself, which spares two of three journeys there and back. `done` asks with the
    same values, before the statement is tried again, for what it would have answered if only its answer was lost.
    """
    tries = count()

    def attempt() -> Sequence[Row[Any]]:
        if next(tries) and done is not None and (rows := _alone(engine, done, values)):
            return rows
        return _alone(engine, statement, values)

    return _again_after_restarts(attempt)


def transact(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Do all of `work` in one transaction, again for some seconds while the server restarts.

    What was cut off in its commit may have happened: statements that change a job name its lease, so that a second
    time finds nothing.
    """
    return _again_after_restarts(lambda: _together(engine, work))


def _again_after_restarts(work: Callable[[], T]) -> T:
    for pause in (0.1, 0.3, 1.0, 3.0):
        try:
            return work()
        except DBAPIError as error:
            if not (error.connection_invalidated or isinstance(error, OperationalError)):
                raise
            time.sleep(pause)
    return work()


def _alone(engine: Engine, statement: Executable, values: Mapping[str, object]) -> Sequence[Row[Any]]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return connection.execute(statement, values).all()


def _together(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)
