"""The scheduler does all its duties, goes on through trouble, and stops when it is told."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from jobs.db import engine as database
from jobs.db.engine import connect
from jobs.errors import ServiceError
from jobs.process_lifecycle import SignalSafeEvent
from jobs.queue import transitions
from jobs.settings import Settings
from scheduler.advance_time_windows import move_windows
from scheduler.loop import PeriodicTask, Rescuer, periodic_tasks, rescue_all, run_duties
from scheduler.send_wakeups import Dispatcher
from tests.end_to_end.processes import until
from tests.factories import change, held, image, look, make_batch, make_lane, states, take
from tests.scheduler.broker import Broker


@contextmanager
def scheduling(settings: Settings, engine: Engine) -> Iterator[threading.Thread]:
    """A scheduler that runs beside the test; it must have ended by itself when told to stop."""
    stopping = SignalSafeEvent()
    thread = threading.Thread(target=run_duties, args=(settings, engine, stopping))
    thread.start()
    try:
        yield thread
    finally:
        stopping.set()
        thread.join(150)
    assert not thread.is_alive()


def wait_for(true: Callable[[], object]) -> None:
    """Until it is true; the test's time limit ends what never is."""
    pause = threading.Event()
    while not true():
        pause.wait(0.02)


def expire_all(engine: Engine) -> None:
    change(engine, "UPDATE jobs SET lease_until = now() - interval '1 second' WHERE state = 'running'")


def test_a_scheduler_sends_wakeups_and_rescues(settings: Settings, engine: Engine, broker: Broker) -> None:
    lane = make_lane(engine, 3)
    take(engine, lane, 2)
    expire_all(engine)
    with scheduling(settings, engine):
        wait_for(lambda: states(engine) == {"queued": 3})
        wait_for(broker.lanes)


def test_two_schedulers_at_once_rescue_each_job_once(settings: Settings, engine: Engine) -> None:
    lane = make_lane(engine, 50)
    with scheduling(settings, engine), scheduling(settings, engine):
        for _ in range(2):
            take(engine, lane)
            expire_all(engine)
            wait_for(lambda: states(engine) == {"queued": 50})
            change(engine, "UPDATE jobs SET error_kind = NULL")
    attempts = look(engine, "SELECT attempt, count(*) AS n FROM attempts GROUP BY 1 ORDER BY 1")
    assert [tuple(row.values()) for row in attempts] == [(1, 50), (2, 50)]


def test_a_duty_in_trouble_does_not_end_the_day(
    settings: Settings, database: str, engine: Engine, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """The table of jobs is away for a while, as after a wrong restore; then all goes on."""
    own = connect(database)
    change(engine, "ALTER TABLE jobs RENAME TO elsewhere")
    with caplog.at_level(logging.WARNING), scheduling(settings, own) as thread:
        wait_for(lambda: 'relation "jobs" does not exist' in caplog.text)
        assert thread.is_alive()
        change(engine, "ALTER TABLE elsewhere RENAME TO jobs")
        make_batch(engine, 2)
        wait_for(broker.lanes)
    own.dispose()


def test_connections_that_are_cut_are_opened_again(
    settings: Settings, database: str, engine: Engine, broker: Broker
) -> None:
    own = connect(database)
    make_lane(engine, 1)
    with scheduling(settings, own):
        for _ in range(3):
            with engine.connect() as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
        wait_for(broker.lanes)
    own.dispose()


@pytest.mark.parametrize(
    "error", [OperationalError("SELECT 1", {}, Exception("gone")), ServiceError("S3 is away")]
)
def test_trouble_with_a_service_is_logged_in_one_line(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> int:
        raise error

    PeriodicTask("something done", 1, fail).run_if_due()
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("something done: ")
    assert "\n" not in caplog.records[0].getMessage()


def test_the_same_error_is_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> int:
        raise ServiceError("no such table")

    task = PeriodicTask("something done", 0, fail)
    for _ in range(5):
        task.run_if_due()
    assert [record.getMessage() for record in caplog.records] == ["something done: no such table"]


def test_a_duty_is_done_when_it_is_due() -> None:
    done = []
    hourly, always = (
        PeriodicTask("a", 3600, lambda: done.append("a") or 1),
        PeriodicTask("b", 0, lambda: done.append("b") or 0),
    )
    for _ in range(3):
        hourly.run_if_due()
        always.run_if_due()
    assert done == ["a", "b", "b", "b"]


def test_every_duty_does_nothing_in_an_empty_installation(settings: Settings, engine: Engine) -> None:
    dispatcher = Dispatcher(settings, engine)
    assert [task.do() for task in periodic_tasks(settings, engine, dispatcher)] == [0] * 15
    dispatcher.close()


def test_rescue_goes_on_past_what_one_statement_takes(engine: Engine) -> None:
    lane = make_lane(engine, 2500)
    take(engine, lane, 2400)
    expire_all(engine)
    assert transitions.rescue(engine) == 1000, "a statement's limit"
    assert rescue_all(engine) == 1400
    assert states(engine) == {"queued": 2500}


@contextmanager
def refused(servers: Settings, engine: Engine) -> Iterator[None]:
    """Within it, PostgreSQL takes no connection to the job table."""
    admin = connect(servers.database)
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"ALTER DATABASE {engine.url.database} ALLOW_CONNECTIONS false"))
        end = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
        connection.execute(end, {"name": engine.url.database})
        yield
        connection.execute(text(f"ALTER DATABASE {engine.url.database} ALLOW_CONNECTIONS true"))
    admin.dispose()


def test_leases_that_ran_out_while_postgres_was_away_may_be_renewed(
    servers: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_PAUSES_S", (0.5,))
    monkeypatch.setattr("scheduler.loop.AWAY_S", 0.2)
    lane = make_lane(engine, 5)
    jobs = take(engine, lane, 5)
    rescuer = Rescuer(engine, 0.5)
    assert rescuer.rescue() == 0
    with refused(servers, engine), pytest.raises(OperationalError):
        move_windows(engine)  # any duty may be the one that waits in vain
    expire_all(engine)
    assert rescuer.rescue() == 0, "their worker may be about to renew them"
    transitions.extend(engine, held(*jobs[:2]), 60)
    wait_for(lambda: rescuer.rescue() == 3)
    assert states(engine) == {"running": 2, "queued": 3}


WRITTEN = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::int AS n FROM pg_stat_user_tables"


def test_an_idle_scheduler_writes_nothing(settings: Settings, engine: Engine) -> None:
    """Once it has folded and noted what ended, a year of ended batches gives it nothing to write."""
    for _ in range(3):
        lane = make_lane(engine, 3)
        transitions.complete(engine, [image(job) for job in take(engine, lane)])
    dispatcher = Dispatcher(settings, engine)
    todo = [task for task in periodic_tasks(settings, engine, dispatcher) if task.name != "wake-ups sent"]
    for _ in range(2):
        for task in todo:
            task.do()
    before = written(engine)
    for task in todo:
        task.do()
    assert written(engine) == before
    dispatcher.close()


def written(engine: Engine) -> int:
    """Rows that this database's tables have seen written; connections report theirs at the latest when they end."""
    engine.dispose()
    others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    until(lambda: look(engine, others) == [])
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_stat_force_next_flush()"))
        connection.commit()
        return int(connection.execute(text(WRITTEN)).scalar_one())


def test_whatever_goes_wrong_in_a_duty_is_logged_and_the_next_time_tries_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    times = []

    def fail() -> int:
        times.append(1)
        raise ZeroDivisionError("what nobody thought of")

    task = PeriodicTask("things done", 0, fail)
    task.run_if_due()
    task.run_if_due()
    assert len(times) == 2
    assert caplog.text.count("Traceback") == 2
