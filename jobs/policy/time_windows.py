"""Parse time windows and moments with time zones, with daylight saving time taken into account.

A wall-clock time that a clock change skips is shifted later by the length of the gap; of a time that occurs twice, the
first occurrence is used.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from jobs.errors import UsageError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
EXAMPLE = '"22:00-07:00 Europe/Berlin" or "Mon-Fri 22:00-07:00 UTC"'

_CLOCK = r"([01]?\d|2[0-3]):([0-5]\d)"
_DAY = "|".join(DAYS)
_WINDOW = re.compile(rf"(?:({_DAY})(?:-({_DAY}))?\s+)?{_CLOCK}\s*-\s*{_CLOCK}\s+(\S+)")
_ZONED = re.compile(r"(\S+(?:[ T]\S+)?)\s+([A-Za-z_]+(?:/[A-Za-z0-9_+-]+)*)")


@dataclass(frozen=True)
class Window:
    """A daily time window, from `start` up to but excluding `end`; it spans midnight if `end` isn't after `start`.

    `days` are the weekdays on which it opens, 0 for Monday.
    """

    start: time
    end: time
    zone: ZoneInfo
    days: frozenset[int] = frozenset(range(7))

    def around(self, now: datetime) -> tuple[datetime, datetime]:
        """Return when the window open at `now`, or else the next one, opens and closes, in UTC."""
        today = now.astimezone(self.zone).date()
        for offset in range(-1, 16):
            opens, closes = self._on(today + timedelta(days=offset))
            if opens < closes and closes > now and (today + timedelta(days=offset)).weekday() in self.days:
                return opens, closes
        raise UsageError(f"the window never opens; write it like {EXAMPLE}")

    def _on(self, day: date) -> tuple[datetime, datetime]:
        last = day if self.end > self.start else day + timedelta(days=1)
        return self._moment(day, self.start), self._moment(last, self.end)

    def _moment(self, day: date, clock: time) -> datetime:
        return datetime.combine(day, clock, self.zone).astimezone(UTC)


def parse_window(text: str) -> Window:
    """Parse a window such as "22:00-07:00 Europe/Berlin"; UsageError says what is wrong with it."""
    match = _WINDOW.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no window: write it like {EXAMPLE}")
    first, last, start_hour, start_minute, end_hour, end_minute, zone = match.groups()
    start, end = time(int(start_hour), int(start_minute)), time(int(end_hour), int(end_minute))
    if start == end:
        raise UsageError(f"{text!r} is no window: it opens and closes at the same time; leave it out instead")
    return Window(start, end, _zone(zone), _days(first, last))


def span(window: str | None, now: datetime) -> tuple[datetime, datetime] | tuple[None, None]:
    """Return when the current or next window opens and closes; (None, None) without a window."""
    return parse_window(window).around(now) if window else (None, None)


def parse_moment(text: str, now: datetime) -> datetime:
    """Parse a moment such as "2026-11-22 07:00 Europe/Berlin", "2026-11-22T07:00+01:00" or "07:00 Europe/Berlin".

    Returns it in UTC. A time alone stands for its next occurrence; without a zone, the machine's local time zone is
    used. UsageError says what is wrong with the text.
    """
    written = text.strip()
    match = _ZONED.fullmatch(written)
    bare, zone = (match[1], _zone(match[2])) if match else (written, None)
    if clock := re.fullmatch(_CLOCK, bare):
        return _next(time(int(clock[1]), int(clock[2])), zone, now)
    try:
        moment = datetime.fromisoformat(bare)
    except ValueError:
        raise UsageError(
            f'{text!r} is no moment: write it like "2026-11-22 07:00 Europe/Berlin", '
            '"2026-11-22T07:00+01:00" or "07:00"'
        ) from None
    if moment.tzinfo is None and zone is not None:
        moment = moment.replace(tzinfo=zone)
    return moment.astimezone(UTC)


def parse_past_moment(text: str, now: datetime) -> datetime:
    """Parse a moment as `parse_moment` does, but a time alone stands for its last occurrence before now."""
    moment = parse_moment(text, now)
    if moment <= now:
        return moment
    if re.fullmatch(rf"{_CLOCK}( .*)?", text.strip()):
        return max(m for days in (1, 2) if (m := parse_moment(text, now - timedelta(days=days))) <= now)
    raise UsageError(f"{text!r} lies in the future")


def _next(clock: time, zone: ZoneInfo | None, now: datetime) -> datetime:
    """Return the next moment in UTC at which the wall clock in the zone shows `clock`."""
    today = now.astimezone(zone).date()
    moments = (
        datetime.combine(today + timedelta(days=days), clock, zone).astimezone(UTC) for days in range(3)
    )
    return next(moment for moment in moments if moment > now)


def _zone(name: str) -> ZoneInfo:
    if name not in _zones():
        raise UsageError(
            f"{name!r} is no time zone: use a name such as Europe/Berlin, America/New_York or UTC"
        )
    return ZoneInfo(name)


@cache
def _zones() -> set[str]:
    """Return the names of all time zones; cached, as finding them is slow and each status of a batch needs them."""
    return available_timezones()


def _days(first: str | None, last: str | None) -> frozenset[int]:
    if first is None:
        return frozenset(range(7))
    start = DAYS.index(first)
    span = (DAYS.index(last or first) - start) % 7
    return frozenset((start + offset) % 7 for offset in range(span + 1))
