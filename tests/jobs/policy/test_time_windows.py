"""Windows and moments as people write them, also on the nights when the clocks change."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import UsageError
from jobs.policy.time_windows import parse_moment, parse_past_moment, parse_window

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = "22:00-07:00 Europe/Berlin"


def berlin(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).astimezone(UTC)


@pytest.mark.parametrize(
    ("now", "opens", "closes"),
    [
        ("2026-11-21 12:00", "2026-11-21 22:00", "2026-11-22 07:00"),
        ("2026-11-21 22:00", "2026-11-21 22:00", "2026-11-22 07:00"),
        ("2026-11-22 06:59:59", "2026-11-21 22:00", "2026-11-22 07:00"),
        ("2026-11-22 07:00", "2026-11-22 22:00", "2026-11-23 07:00"),
        ("2026-12-31 23:00", "2026-12-31 22:00", "2027-01-01 07:00"),
    ],
)
def test_a_night_window_goes_over_midnight(now: str, opens: str, closes: str) -> None:
    assert parse_window(NIGHT).around(berlin(now)) == (berlin(opens), berlin(closes))


@pytest.mark.parametrize(("day", "hours"), [("2026-03-28", 8), ("2026-10-24", 10), ("2026-06-01", 9)])
def test_the_night_is_as_long_as_the_clocks_make_it(day: str, hours: int) -> None:
    opens, closes = parse_window(NIGHT).around(berlin(f"{day} 23:00"))
    assert closes - opens == timedelta(hours=hours)
    assert closes.astimezone(BERLIN).strftime("%H:%M") == "07:00"


def test_a_time_that_the_clocks_skip_is_as_much_later() -> None:
    """On 29 March 2026, 02:30 does not exist in Berlin: clocks go from 02:00 to 03:00."""
    opens, _ = parse_window("02:30-06:00 Europe/Berlin").around(berlin("2026-03-29 00:30"))
    assert opens == datetime(2026, 3, 29, 1, 30, tzinfo=UTC), "03:30 summer time"


def test_a_time_that_comes_twice_is_its_first_coming() -> None:
    """On 25 October 2026, 02:30 comes twice in Berlin."""
    _, closes = parse_window("22:00-02:30 Europe/Berlin").around(berlin("2026-10-25 00:30"))
    assert closes == datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "02:30 summer time"


def test_a_window_that_the_clocks_swallow_opens_the_next_day() -> None:
    opens, closes = parse_window("02:15-02:45 Europe/Berlin").around(berlin("2026-03-29 04:00"))
    assert opens == berlin("2026-03-30 02:15")
    assert closes - opens == timedelta(minutes=30)


def test_days_are_those_on_which_it_opens() -> None:
    weekdays = parse_window("Mon-Fri 22:00-07:00 Europe/Berlin")
    assert weekdays.around(berlin("2026-11-21 05:00"))[0] == berlin("2026-11-20 22:00"), (
        "Friday's, on Saturday morning"
    )
    assert weekdays.around(berlin("2026-11-21 08:00"))[0] == berlin("2026-11-23 22:00")
    over_the_weekend = parse_window("Sat-Mon 08:00-20:00 UTC")
    assert over_the_weekend.days == {5, 6, 0}
    assert parse_window("Wed 08:00-20:00 UTC").around(berlin("2026-11-21 08:00"))[0].weekday() == 2


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    now=st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1)),
    start=st.integers(0, 1439),
    length=st.integers(1, 1439),
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC"]),
)
def test_around_is_the_first_window_that_has_not_closed(
    now: datetime, start: int, length: int, zone: str
) -> None:
    """Whatever the clocks do: it closes after now, at most a day and an hour after it opened, within two days."""
    moment = now.replace(tzinfo=UTC)
    end = (start + length) % 1440
    window = parse_window(f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02} {zone}")
    opens, closes = window.around(moment)
    assert moment < closes
    assert opens < closes <= opens + timedelta(hours=25)
    assert opens <= moment + timedelta(hours=49)
    assert window.around(opens) == (opens, closes)
    following = window.around(closes)
    assert following[0] >= closes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("22-7 Europe/Berlin", "is no window"),
        ("22:00-07:00", "is no window"),
        ("22:00-24:00 UTC", "is no window"),
        ("07:00-07:00 UTC", "same time"),
        ("22:00-07:00 Europe/Atlantis", "no time zone"),
        ("22:00-07:00 ../../etc/passwd", "no time zone"),
        ("Mo-Fr 22:00-07:00 UTC", "is no window"),
    ],
)
def test_what_is_no_window_is_told(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_window(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22 07:00 Europe/Berlin", datetime(2026, 11, 22, 6, tzinfo=UTC)),
        ("2026-11-22T07:00+05:30", datetime(2026, 11, 22, 1, 30, tzinfo=UTC)),
        ("2026-11-22T07:00:00Z", datetime(2026, 11, 22, 7, tzinfo=UTC)),
        ("07:00 Europe/Berlin", datetime(2026, 11, 22, 6, tzinfo=UTC)),
        ("23:30 UTC", datetime(2026, 11, 21, 23, 30, tzinfo=UTC)),
        ("2026-11-22 UTC", datetime(2026, 11, 22, tzinfo=UTC)),
    ],
)
def test_moments(text: str, moment: datetime) -> None:
    assert parse_moment(text, datetime(2026, 11, 21, 23, tzinfo=UTC)) == moment


def test_a_moment_without_a_zone_is_of_this_machine() -> None:
    now = datetime(2026, 11, 21, 23, tzinfo=UTC)
    assert parse_moment("2026-11-22 07:00", now) == datetime(2026, 11, 22, 7).astimezone(UTC)
    assert now < parse_moment("07:00", now) <= now + timedelta(hours=25)


@pytest.mark.parametrize("text", ["tomorrow", "25:00", "2026-13-01 07:00", "07:00 Mars/Base", ""])
def test_what_is_no_moment_is_told(text: str) -> None:
    with pytest.raises(UsageError, match=r"no moment|no time zone"):
        parse_moment(text, datetime(2026, 11, 21, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("22:00 UTC", datetime(2026, 11, 20, 22, tzinfo=UTC)),
        ("07:00 UTC", datetime(2026, 11, 21, 7, tzinfo=UTC)),
        ("08:30 Europe/Berlin", datetime(2026, 11, 21, 7, 30, tzinfo=UTC)),
        ("2026-11-01 12:00 UTC", datetime(2026, 11, 1, 12, tzinfo=UTC)),
    ],
)
def test_a_time_alone_may_stand_for_its_last_occurrence(text: str, moment: datetime) -> None:
    assert parse_past_moment(text, datetime(2026, 11, 21, 7, 45, tzinfo=UTC)) == moment


def test_the_last_occurrence_of_a_time_is_found_in_the_longest_day() -> None:
    """25 hours between two sevens of the wall clock."""
    now = datetime(2026, 10, 25, 5, 30, tzinfo=UTC)  # 06:30 in Berlin, which has just left summer time
    assert parse_past_moment("07:00 Europe/Berlin", now) == datetime(2026, 10, 24, 5, tzinfo=UTC)
    with pytest.raises(UsageError, match="lies in the future"):
        parse_past_moment("2026-10-26 07:00 Europe/Berlin", now)
