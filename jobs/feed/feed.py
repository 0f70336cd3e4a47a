"""The feed: every image row, and if asked for every other event, exactly once, in an order that only grows at its end.

Ids are assigned before their transaction commits, so `id > cursor` would miss rows that are committed late. The feed is
ordered by the writing transaction's id and stops before the oldest transaction that is still running. The epoch
precedes the transaction id, as the database may have been moved from another cluster (`jobs.db.cluster_epochs`).
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Engine, Row, text

from jobs.db import cluster_epochs
from jobs.db.engine import run
from jobs.errors import UsageError
from jobs.feed.feed_query import FeedQuery, json_columns
from jobs.job_dataclasses import BatchId

START = "0-0"
PAGE = 2_000
_LAST_ID = 10**18 - 1
_DIGITS = r"(?:([0-9]{1,9})-)?([0-9]{1,19})-([0-9]{1,18})"

T = TypeVar("T", bound=Sized)


class Cursor(NamedTuple):
    """A place in the feed, after the row with this epoch, transaction and id."""

    epoch: int
    xid: int
    id: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.xid}-{self.id}"

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of SQL about this place: :epoch, :xid as text, :id."""
        return {"epoch": self.epoch, "xid": str(self.xid), "id": self.id}


# `is_other`: a row of this id was written in the same epoch by another transaction. `is_unknown`: no row of this epoch
# has got an id as high as this; null for who may not look at the sequence.
_LOOK = text(f"""
    SELECT {cluster_epochs.CURRENT} AS epoch, pg_snapshot_xmin(pg_current_snapshot())::text AS xmin,
        pg_snapshot_xmax(pg_current_snapshot())::text AS xmax, EXISTS (
            SELECT FROM images WHERE id = :id AND epoch = :epoch AND xid <> CAST(:xid AS xid8)
            UNION ALL SELECT FROM events WHERE id = :id AND epoch = :epoch AND xid <> CAST(:xid AS xid8)
        ) AS is_other, :epoch = {cluster_epochs.CURRENT} AND :id < {_LAST_ID} AND :id > (
            SELECT last_value FROM pg_sequences WHERE schemaname = 'public' AND sequencename = 'images_id_seq'
        ) AS is_unknown
""")

_END = text(f"""
    SELECT {cluster_epochs.CURRENT} AS epoch, pg_snapshot_xmin(pg_current_snapshot())::text AS xmin
""")


@dataclass(frozen=True)
class Page:
    """A part of the feed: lines of JSON without line ends, and the cursor after them.

    The last page may have no lines: its cursor is the end of what was looked through.
    """

    lines: Sequence[str]
    cursor: Cursor


def pages(
    engine: Engine, since: Cursor, query: FeedQuery, *, size: int = PAGE, limit: int | None = None
) -> Iterator[Page]:
    """Yield all that follows the cursor `since`, `limit` lines at most; each page is read in a transaction of its own.

    Raises UsageError if `since` can't be a cursor of this database.
    """
    statement = text(query.page(*json_columns(has_kind=query.kinds is not None)))

    def read_page(values: dict[str, Any]) -> tuple[Sequence[str], Cursor | None]:
        rows = run(engine, statement, values)
        return [row.line for row in rows], cursor_of(rows[-1]) if rows else None

    for lines, cursor in through(engine, since, query, read_page, size=size, limit=limit):
        yield Page(lines, cursor)


def through(
    engine: Engine,
    since: Cursor,
    query: FeedQuery,
    read_page: Callable[[dict[str, Any]], tuple[T, Cursor | None]],
    *,
    size: int,
    limit: int | None = None,
) -> Iterator[tuple[T, Cursor]]:
    """Yield page after page as `read_page` reads them, each with the cursor after it; see `pages`.

    `read_page` takes the parameters of the page's SQL and returns the cursor of its last row, None if there is none.
    """
    check_cursor(engine, since)
    remaining = limit
    while remaining is None or remaining > 0:
        (end,) = run(engine, _END, {})
        wanted = size if remaining is None else min(size, remaining)
        bounds = since.values | {"end_epoch": end.epoch, "end_xid": end.xmin, "limit": wanted}
        found, last = read_page(query.values | bounds)
        count = len(found)
        if count < wanted:
            yield found, max(since, last or since, Cursor(end.epoch, int(end.xmin) - 1, _LAST_ID))
            return
        assert last is not None
        since = last
        remaining = None if remaining is None else remaining - count
        yield found, since


def cursor_of(row: Row[Any]) -> Cursor:
    """Return the cursor of a row of a page."""
    return Cursor(row.epoch, int(row.xid), row.id)


def read(
    engine: Engine, since: str = START, *, batch: BatchId | None = None, limit: int = 1000
) -> Iterator[dict[str, Any]]:
    """Yield all current image records after the cursor `since`; each has the `cursor` to continue from.

    `limit` is the size of a page. Raises UsageError if `since` can't be a cursor of this database.
    """
    for page in pages(engine, parse_cursor(since), FeedQuery(batch=batch), size=limit):
        yield from map(json.loads, page.lines)


def check_cursor(engine: Engine, cursor: Cursor) -> None:
    """Raise UsageError for a cursor ahead of the database, with which rows would be skipped silently, or of another."""
    (look,) = run(engine, _LOOK, cursor.values)
    if cursor[:2] >= (look.epoch, int(look.xmax)):
        raise UsageError(
            f"the cursor {cursor} is ahead of this database, which was restored to an earlier state, or is another: "
            f"go on from a cursor that was kept before that state, or from {START}, and pass over what you have"
        )
    if look.is_other or look.is_unknown:
        raise UsageError(
            f"the cursor {cursor} is of another database, this one never gave it: go on from a cursor that this one "
            f"gave, or from {START}, and pass over what you have"
        )


def parse_cursor(cursor: str) -> Cursor:
    """Parse a cursor such as `0-812-40` into epoch, transaction and id; in the old format, the epoch is 0."""
    match = re.fullmatch(_DIGITS, cursor)
    if match is None:
        raise UsageError(
            f"{cursor!r} is no cursor of the feed: give one that it printed, or {START} for the start"
        )
    return Cursor(int(match[1] or 0), int(match[2]), int(match[3]))
