"""Reading the whole feed, as JSON and as Arrow, against COPY of the same rows."""

from collections.abc import Callable, Iterable

from sqlalchemy import Engine

from bench.harness.alternating_measurements import seconds, take_turns
from bench.harness.results import Figure, at_least
from jobs.feed.feed import Cursor, pages
from jobs.feed.feed_query import FeedQuery
from scheduler.read_feed_as_arrow_tables import read_feed

_START = Cursor(0, 0, 0)


def measure_feed(engine: Engine, rows: int, rounds: int, copy: Callable[[], None]) -> dict[str, Figure]:
    """Measure rows per second of a feed of that many rows; `copy` lets PostgreSQL send the same ones."""

    def read(parts: Iterable[int]) -> None:
        if (found := sum(parts)) != rows:
            raise AssertionError(f"the feed gave {found:,} of {rows:,} rows")

    def json() -> None:
        read(len(page.lines) for page in pages(engine, _START, FeedQuery()))

    def arrow() -> None:
        read(table.num_rows for table, _ in read_feed(engine, _START, FeedQuery()))

    samples = take_turns(
        rounds,
        {
            "feed as JSON": lambda: rows / seconds(json),
            "feed as Arrow": lambda: rows / seconds(arrow),
            "copy": lambda: rows / seconds(copy),
        },
    )
    raw = f"COPY of the same {rows:,} rows as CSV to nowhere: {samples.median('copy'):,.0f}/s"
    return {
        "feed_json_rows_per_s": Figure(samples.median("feed as JSON"), "rows/s", raw, at_least(25_000)),
        "feed_json_per_copy": Figure(samples.ratio("feed as JSON", "copy"), "ratio", raw),
        "feed_arrow_rows_per_s": Figure(samples.median("feed as Arrow"), "rows/s", raw, at_least(100_000)),
        "feed_arrow_per_copy": Figure(samples.ratio("feed as Arrow", "copy"), "ratio", raw),
    }
