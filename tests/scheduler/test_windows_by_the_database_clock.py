"""Whole nights in which windows open and close by the database's clock, also those in which clocks change."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine

from bench.autoscaling.simulated_clock import Clock
from jobs.db.engine import connect
from jobs.queue import transitions
from scheduler.advance_time_windows import move_windows
from tests.factories import lanes_of, look, make_batch

BERLIN = ZoneInfo("Europe/Berlin")
STEP = timedelta(minutes=10)


@pytest.fixture
def night_engine(database: str) -> Iterator[Engine]:
    """An engine that nobody else uses: its connections have another clock."""
    engine = connect(database)
    yield engine
    engine.dispose()


def berlin(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("window", "begin", "end", "changes"),
    [
        ("22:00-06:00 Europe/Berlin", "2026-11-27 20:00", "2026-11-29 20:00",
         ["2026-11-27 22:00", "2026-11-28 06:00", "2026-11-28 22:00", "2026-11-29 06:00"]),
        ("22:00-06:00 Europe/Berlin", "2026-10-24 20:00", "2026-10-25 08:00",
         ["2026-10-24 22:00", "2026-10-25 06:00"]),
        ("22:00-06:00 Europe/Berlin", "2026-03-28 20:00", "2026-03-29 08:00",
         ["2026-03-28 22:00", "2026-03-29 06:00"]),
        ("Mon-Fri 22:00-06:00 Europe/Berlin", "2026-11-27 20:00", "2026-11-30 23:00",
         ["2026-11-27 22:00", "2026-11-28 06:00", "2026-11-30 22:00"]),
        ("Sat-Sun 00:00-23:50 Europe/Berlin", "2026-11-27 20:00", "2026-11-30 01:00",
         ["2026-11-28 00:00", "2026-11-28 23:50", "2026-11-29 00:00", "2026-11-29 23:50"]),
    ],
    ids=["two nights", "a night of nine hours", "a night of seven hours", "weekdays", "a weekend"],
)  # fmt: skip
def test_a_lane_is_open_in_its_window_alone(
    night_engine: Engine, window: str, begin: str, end: str, changes: list[str]
) -> None:
    clock, now = Clock(night_engine), berlin(begin).astimezone(ZoneInfo("UTC"))
    clock.set(now)
    batch = make_batch(night_engine, 1, window=window)
    (lane,) = lanes_of(night_engine, batch)
    # Two minutes before the window closes nothing is begun any more, as no device batch was measured yet.
    seen: list[tuple[datetime, bool]] = []
    while now < berlin(end):
        clock.set(now)
        move_windows(night_engine)
        seen.append((now, transitions.open_lane(night_engine, lane) is not None))
        now += STEP
    changed = [at for (_, before), (at, is_open) in pairwise(seen) if before != is_open]
    assert [f"{at.astimezone(BERLIN):%Y-%m-%d %H:%M}" for at in changed] == changes
    assert seen[0][1] is False


def test_a_window_that_is_changed_holds_from_the_database_s_now_on(night_engine: Engine) -> None:
    """The machine where one types may have another clock, or be in another zone."""
    clock = Clock(night_engine)
    clock.set(berlin("2031-05-01 12:00"))
    make_batch(night_engine, 1, window="22:00-06:00 Europe/Berlin")
    (row,) = look(night_engine, "SELECT opens_at, closes_at FROM batches")
    assert (row["opens_at"], row["closes_at"]) == (berlin("2031-05-01 22:00"), berlin("2031-05-02 06:00"))
