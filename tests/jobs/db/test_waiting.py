"""PostgreSQL that comes later, or has no connection free: awaited; what it refuses for good: not."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from jobs.db import engine as module
from jobs.db.engine import await_reachable, connect, is_away, keep_trying, transact
from jobs.errors import ServiceError
from jobs.services.postgres import start_postgres, stop_postgres


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.02)


def of_driver(words: str) -> OperationalError:
    return OperationalError("SELECT 1", {}, Exception(words))


@contextmanager
def on(url: str) -> Iterator[Engine]:
    engine = connect(url)
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.mark.parametrize(
    "words",
    [
        'FATAL:  password authentication failed for user "mill"',
        'FATAL:  database "nght" does not exist',
        'FATAL:  role "mill" does not exist',
        'FATAL:  no pg_hba.conf entry for host "10.0.0.1"',
        'could not translate host name "dbb" to address',
    ],
)
def test_wrong_access_is_not_waited_for(words: str) -> None:
    assert not is_away(of_driver(words))


@pytest.mark.parametrize(
    "words",
    [
        "FATAL:  sorry, too many clients already",
        "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
        "FATAL:  the database system is starting up",
        "connection refused",
        "server closed the connection unexpectedly",
    ],
)
def test_trouble_that_passes_is_waited_for(words: str) -> None:
    assert is_away(of_driver(words))
    assert is_away(PoolTimeoutError())


def test_errors_of_statements_are_not_waited_for() -> None:
    def wrong() -> None:
        raise ProgrammingError("SELECT 1", {}, Exception("no such column"))

    with pytest.raises(ProgrammingError):
        keep_trying(wrong, 60, pytest.fail)


def test_it_is_said_once_and_tried_until_it_works() -> None:
    said: list[str] = []
    tries = iter([of_driver("connection refused")] * 5)

    def work() -> str:
        for error in tries:
            raise error
        return "done"

    assert keep_trying(work, 60, said.append) == "done"
    assert said == ["PostgreSQL is away; waiting up to 60 s for it: connection refused"]


def test_the_wait_is_limited_and_each_outage_has_its_own() -> None:
    def work() -> None:
        raise of_driver("connection refused")

    with pytest.raises(OperationalError):
        keep_trying(work, 0.1, lambda _: None)


def test_a_stop_ends_the_wait() -> None:
    def work() -> None:
        raise of_driver("connection refused")

    assert keep_trying(work, 60, lambda _: None, pause=lambda _: True) is None


def test_a_server_that_comes_later_is_awaited(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "postgres"
    folder.parent.mkdir()
    url = start_postgres(folder)
    stop_postgres(folder)
    said: list[str] = []
    with on(url) as engine:
        with pytest.raises(ServiceError, match="can't reach PostgreSQL"):
            await_reachable(engine, 60, said.append, only_if_busy=True)
        assert said == []
        starting = threading.Thread(target=lambda: start_postgres(folder))
        await_reachable(engine, 60, lambda text: (said.append(text), starting.start()))
        assert len(said) == 1
        starting.join()
    stop_postgres(folder)


def test_a_connection_that_comes_free_is_awaited_by_every_command(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "postgres"
    folder.parent.mkdir()
    with (
        on(start_postgres(folder)) as admin,
        admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
    ):
        connection.execute(text("ALTER SYSTEM SET max_connections = 4"))
        connection.execute(text("ALTER SYSTEM SET superuser_reserved_connections = 0"))
    stop_postgres(folder)
    with on(start_postgres(folder)) as engine:
        held = [engine.connect() for _ in range(4)]
        said: list[str] = []

        def free(words: str) -> None:
            said.append(words)
            held.pop().invalidate()

        with on(engine.url.render_as_string(hide_password=False)) as other:
            await_reachable(other, 60, free, only_if_busy=True)
        assert "too many clients" in said[0]
        for connection in held:
            connection.close()
    stop_postgres(folder)


class Stop(BaseException):
    """What a signal's handler raises."""


def test_a_statement_that_a_signal_broke_is_not_tried_again(engine: Engine) -> None:
    """psycopg then says that the connection is lost, and may do so for as long as anybody tries."""
    calls = 0

    def work(*_: object) -> None:
        nonlocal calls
        calls += 1
        try:
            raise Stop
        except Stop:
            raise of_driver("sending query failed: another command is already in progress")  # noqa: B904

    for tried in (lambda: keep_trying(work, 300, print), lambda: transact(engine, work)):
        with pytest.raises(OperationalError):
            tried()
    assert calls == 2


def test_errors_that_came_from_one_another_are_looked_at_once(tmp_path: Path) -> None:
    """What fails while another error is dealt with may be part of a circle: a worker then looked at it for ever."""
    error = of_driver("connection is bad: no such file")
    error.__cause__ = other = OSError()
    other.__context__ = error
    assert is_away(error)
    other.__context__ = Stop()
    other.__context__.__context__ = error
    assert not is_away(error)
