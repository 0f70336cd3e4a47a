"""Database engine: connections to PostgreSQL, and statements and transactions with retries."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import Any, TypeVar

from psycopg import OperationalError as DriverError
from psycopg import pq
from sqlalchemy import Connection, Engine, Executable, Row, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from jobs.errors import ServiceError, UsageError, chain
from jobs.settings import without_password

T = TypeVar("T")

PAUSE_S = 1.0
"""Seconds between two attempts to reach PostgreSQL."""
_PAUSES_S = (0.1, 0.3, 1.0, 1.0, 1.0, 1.0)
_PAUSE = "nightmill_pause"
_NOW = text("SELECT now() AS now")
# Time out if the peer doesn't answer: the network between may be cut.
_NETWORK = {
    "connect_timeout": 10,
    "tcp_user_timeout": 60_000,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
# Permanent refusals can be recognised by the message only; messages in other languages are retried until the timeout.
_WRONG = re.compile(
    r"authentication failed|no password supplied|does not exist|no pg_hba\.conf entry|not permitted to log in"
    r"|not currently accepting connections|permission denied|could not translate host name|certificate|SSL",
    re.IGNORECASE,
)
_BUSY = re.compile(
    r"too many (clients|connections)|connection slots are reserved|starting up|shutting down|recovery mode",
    re.IGNORECASE,
)


def connect(url: str, *, pool_size: int = 4) -> Engine:
    """Create an engine for `postgresql://…`; opening a connection times out in 10 s.

    Connections aren't tested before each use (no pre-ping), which costs as much as a short statement: `run` and
    `transact` repeat their work on a new connection if one is broken.
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
    if unknown := parsed.query.keys() - _parameters():
        raise UsageError(f"NIGHTMILL_DATABASE_URL: PostgreSQL knows no {', '.join(sorted(unknown))}")
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=4,
        connect_args=_NETWORK | {"application_name": "nightmill"},
        hide_parameters=True,  # keeps prompts out of logs and tracebacks
    )
    event.listen(
        engine, "connect", _prepare_statements, insert=True
    )  # before SQLAlchemy asks for the version
    return engine


def _parameters() -> set[str]:
    """Return the connection parameters that libpq allows in the query of a URL."""
    return {option.keyword.decode() for option in pq.Conninfo.get_defaults()}


def _prepare_statements(connection: Any, _: object) -> None:
    """Force generic plans for prepared statements: with many jobs queued, PostgreSQL would plan each claim anew.

    Behind a pooler such as PgBouncer, statements aren't prepared: another client's may have the same name. A pooler
    shows in the process id that it gives in place of the server process's own.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in ("UTF8", None):
        raise ServiceError(
            f"the database {connection.info.dbname} has the encoding {encoding}, which can't hold all text: "
            "create one with ENCODING 'UTF8' TEMPLATE template0"
        )
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), set_config('plan_cache_mode', 'force_generic_plan', false)")
        pid, _plans = cursor.fetchone()
    connection.commit()
    if pid != connection.info.backend_pid:
        connection.prepare_threshold = None


def check_reachable(engine: Engine) -> None:
    """Open one connection to check that PostgreSQL can be reached; raises ServiceError if not."""
    try:
        engine.connect().close()
    except DBAPIError as error:
        shown = without_password(engine.url.render_as_string())
        raise ServiceError(f"can't reach PostgreSQL at {shown}: {_reason(error)}") from None


def await_reachable(
    engine: Engine,
    wait_s: float,
    tell: Callable[[str], object],
    *,
    pause: Callable[[float], object] = time.sleep,
    only_if_busy: bool = False,
) -> None:
    """Wait up to `wait_s` seconds until PostgreSQL can be reached; raises ServiceError if it can't.

    `tell` is called once with a message if it has to wait. A wrong password, database or host fails at once; with
    `only_if_busy`, so does a server that doesn't answer. A `pause` that returns true, such as the `wait` of a
    SignalSafeEvent, ends the wait.
    """

    def look() -> None:
        try:
            engine.connect().close()
        except OperationalError as error:
            if only_if_busy and not _BUSY.search(str(error.orig)):
                check_reachable(engine)
            raise

    try:
        keep_trying(look, wait_s, tell, pause=pause)
    except OperationalError:
        check_reachable(engine)


def keep_trying(
    work: Callable[[], T],
    wait_s: float,
    tell: Callable[[str], object],
    *,
    pause: Callable[[float], object] = time.sleep,
) -> T | None:
    """Call `work`, repeatedly while PostgreSQL is unavailable or has no free connection, for up to `wait_s` seconds.

    `tell` is called once with a message if it has to wait. Returns None if `pause` returned true, as the `wait` of a
    SignalSafeEvent does.
    """
    until: float | None = None
    while True:
        try:
            return work()
        except (DBAPIError, DriverError, PoolTimeoutError) as error:
            now = time.monotonic()
            if not is_away(error) or now >= (now + wait_s if until is None else until):
                raise
            if until is None:
                until = now + wait_s
                tell(f"PostgreSQL is away; waiting up to {wait_s:.0f} s for it: {_reason(error)}")
        if pause(PAUSE_S):
            return None


def is_away(error: Exception) -> bool:
    """Whether an error means that PostgreSQL is unavailable at present, not that it refuses or was interrupted."""
    if _is_interrupted(error):
        return False
    if isinstance(error, PoolTimeoutError):
        return True
    if isinstance(error, DriverError):  # of a COPY, which bypasses SQLAlchemy
        return not _WRONG.search(_reason(error))
    is_of_connection = isinstance(error, DBAPIError) and (
        error.connection_invalidated or isinstance(error, OperationalError)
    )
    return is_of_connection and not _WRONG.search(_reason(error))


def _is_interrupted(error: Exception) -> bool:
    """Whether the driver's error was caused by a signal handler that raised during a statement."""
    return not all(isinstance(found, Exception) for found in chain(error))


def _reason(error: Exception) -> str:
    """Return the first line of the driver's message; further lines are about further addresses."""
    return str(getattr(error, "orig", error)).strip().splitlines()[0]


def database_time(where: Engine | Connection) -> datetime:
    """Return PostgreSQL's time, which counts: hosts may have other clocks."""
    if isinstance(where, Connection):
        found: datetime = where.execute(_NOW).scalar_one()
        return found
    return run(where, _NOW, {})[0].now  # type: ignore[no-any-return]


def run(
    engine: Engine, statement: Executable, values: Mapping[str, object], done: Executable | None = None
) -> Sequence[Row[Any]]:
    """Run one statement in a transaction of its own, with the retries of `transact`.

    It runs in autocommit mode, which saves two of three round trips. Before a retry, `done` is run with the same
    values: it selects what the statement has returned if it was committed and only its answer was lost.
    """
    tries = count()

    def attempt() -> Sequence[Row[Any]]:
        if next(tries) and done is not None and (rows := _run_autocommit(engine, done, values)):
            return rows
        return _run_autocommit(engine, statement, values)

    return _with_retries(engine, attempt)


def transact(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Run `work` in one transaction; repeated for some seconds if the connection fails, as while the server restarts.

    If the connection failed during the commit, the transaction may have been committed: statements that change a job
    match its lease, so that a repetition changes nothing.
    """
    return _with_retries(engine, lambda: _run_in_transaction(engine, work))


def wait_while_away(engine: Engine, pause: Callable[[float], bool]) -> None:
    """Make all statements on this engine wait for as long as PostgreSQL is unavailable, not only for some seconds.

    `pause` sleeps for the given seconds and returns whether to give up.
    """
    engine.update_execution_options(**{_PAUSE: pause})


def _with_retries(engine: Engine, work: Callable[[], T]) -> T:
    pause = engine.get_execution_options().get(_PAUSE)
    for pause_s in _PAUSES_S:
        try:
            return work()
        except DBAPIError as error:
            is_of_connection = error.connection_invalidated or isinstance(error, OperationalError)
            if _is_interrupted(error) or not is_of_connection:
                raise
            time.sleep(pause_s)
    while True:
        try:
            return work()
        except DBAPIError as error:
            if pause is None or not is_away(error) or pause(PAUSE_S):
                raise


def _run_autocommit(
    engine: Engine, statement: Executable, values: Mapping[str, object]
) -> Sequence[Row[Any]]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return connection.execute(statement, values).all()


def _run_in_transaction(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)
