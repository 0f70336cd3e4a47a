"""A stop is a stop wherever the signal strikes."""

import gc
import random
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest

from console.process_control.stop_by_signal import Stopped, raise_stopped, stop_on_signals, stopping
from tests.console.conftest import signals_kept
from tests.paths import ROOT


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


def test_in_a_query(database: str) -> None:
    module = "tests.console.process_control.stop_itself_amid_queries"
    command = [sys.executable, "-m", module, database, "300", str(random.getrandbits(32))]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "300 1\n"), ended.stderr[-2000:]


def test_what_was_interrupted_is_not_kept_alive() -> None:
    class Interrupted:
        """What a connection in the making stands for."""

    left = []

    @stopping()
    def interrupted() -> None:
        left.append(weakref.ref(made := Interrupted()))
        signal.raise_signal(signal.SIGTERM)
        del made

    with pytest.raises(Stopped):
        interrupted()
    gc.collect()
    assert left[0]() is None


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
