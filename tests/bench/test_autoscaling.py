"""A simulated night on the real queue: from no workers to none, deadlines met, nobody charged for being stopped."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from bench.autoscaling.night_scenario import BEGIN, NIGHT, Batch, Night
from bench.autoscaling.run_simulated_night import Simulation, by_the_function
from bench.autoscaling.tenant_shares_of_two_nights import FAIR, run_fair_nights, scaled
from jobs.db.engine import connect, run
from tests.factories import lane_differences, look

HOUR = Night(
    batches=(
        Batch("trial", "18:01", "ada", 8, 60),  # how long an image takes isn't known before
        Batch("faces", "18:15", "ada", 160, 60, deadline="19:30"),
        Batch("rooms", "18:20", "bob", 80, 60),
    ),
    start_s=120,
    ends="21:00",
    max_workers=12,
)


@pytest.fixture
def night_engine(database: str) -> Iterator[Engine]:
    """An engine that nobody else uses: its connections have another clock."""
    engine = connect(database)
    yield engine
    engine.dispose()


def test_a_night(night_engine: Engine) -> None:
    engine = night_engine
    record = Simulation(engine, NIGHT).run()
    assert record.ticks[0].workers == record.ticks[-1].workers == 0, "from zero to zero"
    assert {row["state"] for row in look(engine, "SELECT state FROM jobs")} == {"done"}
    assert record.late(NIGHT) == {}
    assert record.too_few(NIGHT.max_workers) == []
    assert max(tick.workers for tick in record.ticks) == NIGHT.max_workers
    assert len(record.killed) >= 4
    charged = sum(row["n"] for row in look(engine, "SELECT attempt - 1 AS n FROM jobs"))
    assert charged == sum(held for _, held in record.killed), "only what was killed is charged"
    assert record.stopped_busy <= 4, (
        "workers at work are stopped by bad luck alone: one that idles is surplus"
    )
    assert lane_differences(engine) == []


def test_tenants_share_two_nights_by_their_weights(night_engine: Engine) -> None:
    """Nothing is begun that would not be finished when the window closes, and the rest waits for the next night."""
    night = scaled(FAIR, 0.2)
    record = run_fair_nights(night_engine, night)
    assert record.deviation() < 0.08, f"{record.shares}: a device batch is 3 % of the smallest share here"
    assert record.outside() == []
    assert len(record.finished) == sum(batch.images for batch in night.batches)
    assert {at.date() for _, at in record.finished} == {BEGIN.date() + timedelta(days=n) for n in (0, 1)}
    assert sum(row["n"] for row in look(night_engine, "SELECT attempt - 1 AS n FROM jobs")) == 0
    assert lane_differences(night_engine) == []


def one_for_each_hundred_queued(engine: Engine) -> int:
    """What many do: by the length of the queue."""
    return -(-run(engine, text("SELECT count(*) AS n FROM jobs WHERE state = 'queued'"), {})[0].n // 100)


def without_those_at_work(engine: Engine) -> int:
    """As if work that is being done were nobody's."""
    queued = run(engine, text("SELECT count(*) AS n FROM jobs WHERE state = 'queued'"), {})[0].n
    return by_the_function(engine) if queued else 0


def test_an_hour_by_the_function(night_engine: Engine) -> None:
    record = Simulation(night_engine, HOUR).run()
    assert (record.late(HOUR), record.too_few(HOUR.max_workers), record.begun_when_stopped) == ({}, [], 0)


def test_by_the_length_of_the_queue_deadlines_are_missed(night_engine: Engine) -> None:
    """The simulation shows it where a rule doesn't do."""
    record = Simulation(night_engine, HOUR, one_for_each_hundred_queued).run()
    assert record.too_few(HOUR.max_workers) != []
    assert record.late(HOUR) != {}


def test_without_those_at_work_what_they_do_is_lost(night_engine: Engine) -> None:
    record = Simulation(night_engine, replace(HOUR, ends="22:00"), without_those_at_work).run()
    assert record.stopped_busy > 0
    assert record.begun_when_stopped > 0
