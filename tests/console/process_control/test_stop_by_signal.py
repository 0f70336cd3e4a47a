"""A stop is a stop wherever the signal strikes."""

import gc
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest
from sqlalchemy import Engine, text

from console.process_control.stop_by_signal import Stopped, raise_stopped, stop_on_signals, stopping
from tests.console.conftest import signals_kept


@pytest.fixture(autouse=True)
def ours() -> Iterator[None]:
    """The signals of a command, and SIGALRM, which a timer can send."""
    before = signal.getsignal(signal.SIGALRM)
    with signals_kept():
        stop_on_signals()
        signal.signal(signal.SIGALRM, raise_stopped)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@stopping()
def asked_until_stopped(engine: Engine) -> None:
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0005, 0.01))
    while True:
        with engine.begin() as connection:
            connection.execute(text("SELECT count(*) FROM jobs")).all()


@stopping()
def failed_and_stopped() -> None:
    try:
        signal.raise_signal(signal.SIGTERM)
    finally:
        raise psycopg.ProgrammingError("connection in transaction status ACTIVE")


@stopping()
def failed_without_a_cause() -> None:
    """As pydantic's compiled part does: its error knows nothing of the one that it met."""
    with suppress(Stopped):
        signal.raise_signal(signal.SIGTERM)
    raise ValueError('Error building "model" validator')


@stopping()
def failed() -> None:
    raise psycopg.ProgrammingError("syntax error")


@stopping()
def stopped_where_nothing_can_be_raised() -> None:
    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    dying = Dying()
    del dying
    time.sleep(10)


@pytest.mark.filterwarnings("ignore:.* was deleted while still open:ResourceWarning")
def test_in_a_query(engine: Engine) -> None:
    for _ in range(300):
        with pytest.raises(Stopped):
            asked_until_stopped(engine)
    gc.collect()  # connections that were being made, while the warning is expected
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1


def test_what_a_stop_breaks_is_no_error_of_its_own() -> None:
    for fail in (failed_and_stopped, failed_without_a_cause):
        with pytest.raises(Stopped) as stopped:
            fail()
        assert stopped.value.exit_code == 128 + signal.SIGTERM


def test_errors_stay_errors() -> None:
    with pytest.raises(psycopg.ProgrammingError):
        failed()


def test_where_nothing_can_be_raised() -> None:
    with pytest.raises(Stopped):
        stopped_where_nothing_can_be_raised()


@stopping()
def failed_in_a_circle() -> None:
    error, other = psycopg.OperationalError("connection is bad"), OSError()
    error.__cause__, other.__context__ = other, error
    raise error


def test_an_error_that_came_from_itself_is_told() -> None:
    with pytest.raises(psycopg.OperationalError):
        failed_in_a_circle()
