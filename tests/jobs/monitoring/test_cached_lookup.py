"""A look-up is done once for all who ask at the same time, and holds up nobody for long."""

import logging
import threading
import time

import pytest
from sqlalchemy import Engine

from jobs.db.engine import connect
from jobs.monitoring.cached_lookup import CachedLookup, Failure


def test_all_who_ask_at_once_share_one_look_up() -> None:
    times = []

    def look() -> int:
        times.append(1)
        time.sleep(0.2)
        return len(times)

    lookup, found = CachedLookup(look, fresh_s=0.5, wait_s=5), list[int | Failure]()
    asking = [threading.Thread(target=lambda: found.append(lookup.get())) for _ in range(20)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert (found, lookup.get()) == ([1] * 20, 1)
    time.sleep(0.5)
    assert lookup.get() == 2


def test_one_that_hangs_is_waited_for_once_and_briefly() -> None:
    release = threading.Event()
    lookup = CachedLookup(lambda: release.wait(20), fresh_s=0.0, wait_s=0.3)
    began = time.monotonic()
    assert [lookup.get() for _ in range(20)] == [Failure.NO_ANSWER] * 20
    assert time.monotonic() - began < 2
    release.set()
    while lookup.get() is Failure.NO_ANSWER:
        time.sleep(0.01)


def test_one_that_fails_says_so_and_is_tried_again() -> None:
    answers = iter([ZeroDivisionError(), 7])

    def look() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    lookup = CachedLookup(look, fresh_s=0.0)
    assert (lookup.get(), lookup.get()) == (Failure.ERROR, 7)


@pytest.mark.parametrize(
    ("statement", "failure", "reason"),
    [
        ("SELECT * FROM nowhere", Failure.ERROR, 'UndefinedTable: relation "nowhere" does not exist'),
        ("SELECT 1 / 0", Failure.ERROR, "DivisionByZero: division by zero"),
        (
            "SET statement_timeout = 50; SELECT pg_sleep(5)",
            Failure.NO_ANSWER,
            "QueryCanceled: canceling statement due to statement timeout",
        ),
        (
            "SELECT pg_terminate_backend(pg_backend_pid())",
            Failure.NO_ANSWER,
            "AdminShutdown: terminating connection due to administrator command",
        ),
    ],
)
def test_an_error_that_postgres_answers_is_told_from_no_answer_and_logged_once(
    engine: Engine, caplog: pytest.LogCaptureFixture, statement: str, failure: Failure, reason: str
) -> None:
    def look() -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)

    lookup = CachedLookup(look, fresh_s=0.0)
    assert [lookup.get() for _ in range(3)] == [failure] * 3
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == [f"a query for metrics failed: {reason}"]


def test_a_server_that_cannot_be_reached_gives_no_answer() -> None:
    engine = connect("postgresql://someone@127.0.0.1:1/nothing")
    assert CachedLookup(lambda: engine.connect().close(), wait_s=10).get() is Failure.NO_ANSWER
