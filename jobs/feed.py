"""The feed: every image row once, in an order in which none can appear behind a reader's back.

Ids are given out before they are committed, so `id > cursor` misses rows whose transaction ends late. The feed orders
by the writing transaction's id and stops before the oldest transaction that is still running.
"""

import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine, text

from jobs.database import run
from jobs.errors import UsageError
from jobs.images import COLUMNS, record

START = "0-0"

_NEXT = text(f"""
    SELECT i.xid::text AS feed_xid, {COLUMNS} FROM images i JOIN batches b ON b.id = i.batch_id
    WHERE (i.xid, i.id) > (CAST(:xid AS xid8), :id) AND i.xid < pg_snapshot_xmin(pg_current_snapshot())
      AND (CAST(:batch AS bigint) IS NULL OR i.batch_id = :batch)
    ORDER BY i.xid, i.id LIMIT :limit
""")


def read(
    engine: Engine, since: str = START, *, batch: int | None = None, limit: int = 1000
) -> Iterator[dict[str, Any]]:
    """Image records after the cursor, all that there are now; each carries the `cursor` to go on from.

    Raises UsageError if `since` is no cursor of ours.
    """
    xid, image = parse_cursor(since)
    while rows := run(engine, _NEXT, {"xid": str(xid), "id": image, "batch": batch, "limit": limit}):
        for row in rows:
            values = record(row)
            xid, image = int(values.pop("feed_xid")), values["image_id"]
            yield {"cursor": f"{xid}-{image}"} | values


def parse_cursor(cursor: str) -> tuple[int, int]:
    """Transaction and image id of a cursor such as `812-40`."""
    match = re.fullmatch(r"([0-9]{1,19})-([0-9]{1,18})", cursor)
    if match is None:
        raise UsageError(
            f"{cursor!r} is no cursor of the feed: give one that it printed, or {START} for the start"
        )
    return int(match[1]), int(match[2])
