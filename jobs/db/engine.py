"""Connections to the job table."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, TypeVar

from psycopg import OperationalError as DriverError
from psycopg import pq
from sqlalchemy import Connection, Engine, Executable, Row, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from jobs.errors import ServiceError, UsageError, chain
from jobs.settings import without_password

T = TypeVar("T")

PAUSE_S = 1.0
"""Between two looks whether PostgreSQL is back."""
_PAUSES_S = (0.1, 0.3, 1.0, 1.0, 1.0, 1.0)
_PAUSE = "nightmill_pause"
# A peer that doesn't answer is given up: the network between may be cut.
_NETWORK = {
    "connect_timeout": 10,
    "tcp_user_timeout": 60_000,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
# A server tells a client that it refuses only in words; those of other languages are waited for in vain.
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
    if unknown := parsed.query.keys() - _parameters():
        raise UsageError(f"NIGHTMILL_DATABASE_URL: PostgreSQL knows no {', '.join(sorted(unknown))}")
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_size=pool_size,
        max_overflow=4,
        connect_args=_NETWORK | {"application_name": "nightmill"},
        hide_parameters=True,  # prompts don't belong into logs and tracebacks
    )
    event.listen(engine, "connect", _plan_once)
    return engine


def _parameters() -> set[str]:
    """What libpq lets stand after the ? of a URL."""
    return {option.keyword.decode() for option in pq.Conninfo.get_defaults()}


def _plan_once(connection: Any, _: object) -> None:
    """Keep the plan of a prepared statement: with many jobs queued, PostgreSQL would plan each claim anew."""
    with connection.cursor() as cursor:
        cursor.execute("SET plan_cache_mode = force_generic_plan")
    connection.commit()


def check_reachable(engine: Engine) -> None:
    """Open one connection; ServiceError in plain words where PostgreSQL can't be reached."""
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
    """As `check_reachable`, but for `wait_s` seconds PostgreSQL may come yet; `tell` hears once that it is awaited.

    A wrong password, database or host isn't waited for, and with `only_if_busy` no server that doesn't answer. A
    `pause` that is true, as that of a latch, ends the wait.
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
    """`work`, again and again while PostgreSQL is away or has no connection free, for `wait_s` seconds at most.

    `tell` hears once what is waited for. None if `pause` was true, as that of a latch is.
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
    """Whether an error says that PostgreSQL can't be reached now, and not that it refuses us or was interrupted."""
    if _is_interrupted(error):
        return False
    if isinstance(error, PoolTimeoutError):
        return True
    if isinstance(error, DriverError):  # of a COPY, which goes past SQLAlchemy
        return not _WRONG.search(_reason(error))
    is_of_connection = isinstance(error, DBAPIError) and (
        error.connection_invalidated or isinstance(error, OperationalError)
    )
    return is_of_connection and not _WRONG.search(_reason(error))


def _is_interrupted(error: Exception) -> bool:
    """Whether what a driver complains of is a stop: a signal's handler raised in the midst of a statement."""
    return not all(isinstance(found, Exception) for found in chain(error))


def _reason(error: Exception) -> str:
    """The driver's own words, in one line; those of a connection to several addresses end with the last."""
    return str(getattr(error, "orig", error)).strip().splitlines()[0]


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

    return _again_after_restarts(engine, attempt)


def transact(engine: Engine, work: Callable[[Connection], T]) -> T:
    """Do all of `work` in one transaction, again for some seconds while the server restarts.

    What was cut off in its commit may have happened: statements that change a job name its lease, so that a second
    time finds nothing.
    """
    return _again_after_restarts(engine, lambda: _together(engine, work))


def wait_while_away(engine: Engine, pause: Callable[[float], bool]) -> None:
    """Let all statements on this engine wait for as long as PostgreSQL is away, and not for some seconds only.

    `pause` waits so many seconds, and says whether to give up.
    """
    engine.update_execution_options(**{_PAUSE: pause})


def _again_after_restarts(engine: Engine, work: Callable[[], T]) -> T:
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


def _alone(engine: Engine, statement: Executable, values: Mapping[str, object]) -> Sequence[Row[Any]]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return connection.execute(statement, values).all()


def _together(engine: Engine, work: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)
