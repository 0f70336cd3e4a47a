"""The image feed: every image row exactly once, in an order in which no row can appear before a reader's cursor.

Ids are assigned before their transaction commits, so `id > cursor` would miss rows that are committed late. The feed is
ordered by the writing transaction's id and stops before the oldest transaction that is still running. The epoch
precedes the transaction id, as the database may have been moved from another cluster (`jobs.db.cluster_epochs`).
"""

import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Engine, text

from jobs.db import cluster_epochs
from jobs.db.engine import run
from jobs.errors import UsageError
from jobs.images.row_serialisation import COLUMNS, record

START = "0-0"

_NEXT = text(f"""
    SELECT i.epoch AS feed_epoch, i.xid::text AS feed_xid, {COLUMNS} FROM images i JOIN batches b ON b.id = i.batch_id
    WHERE (i.epoch, i.xid, i.id) > (CAST(:epoch AS int), CAST(:xid AS xid8), :id)
      AND (i.epoch, i.xid) < ({cluster_epochs.CURRENT}, pg_snapshot_xmin(pg_current_snapshot()))
      AND (CAST(:batch AS bigint) IS NULL OR i.batch_id = :batch)
    ORDER BY i.epoch, i.xid, i.id LIMIT :limit
""")

_END = text(f"SELECT {cluster_epochs.CURRENT} AS epoch, pg_snapshot_xmax(pg_current_snapshot())::text AS xid")


def read(
    engine: Engine, since: str = START, *, batch: int | None = None, limit: int = 1000
) -> Iterator[dict[str, Any]]:
    """Yield all current image records after the cursor `since`; each has the `cursor` to continue from.

    Raises UsageError if `since` is no valid cursor, or is ahead of the database.
    """
    epoch, xid, image = parse_cursor(since)
    _check_is_past(engine, since)
    place = {"batch": batch, "limit": limit}
    while rows := run(engine, _NEXT, place | {"epoch": epoch, "xid": str(xid), "id": image}):
        for row in rows:
            values = record(row)
            epoch, xid, image = values.pop("feed_epoch"), int(values.pop("feed_xid")), values["image_id"]
            yield {"cursor": f"{epoch}-{xid}-{image}"} | values


def _check_is_past(engine: Engine, since: str) -> None:
    """Raise UsageError for a cursor ahead of the database, with which future rows would be skipped silently."""
    (end,) = run(engine, _END, {})
    if parse_cursor(since)[:2] >= (end.epoch, int(end.xid)):
        raise UsageError(
            f"the cursor {since} is ahead of this database, which was restored to an earlier state, or is another: "
            f"go on from a cursor that was kept before that state, or from {START}, and pass over what you have"
        )


def parse_cursor(cursor: str) -> tuple[int, int, int]:
    """Parse a cursor such as `0-812-40` into epoch, transaction and image id; in the old format, the epoch is 0."""
    match = re.fullmatch(r"(?:([0-9]{1,9})-)?([0-9]{1,19})-([0-9]{1,18})", cursor)
    if match is None:
        raise UsageError(
            f"{cursor!r} is no cursor of the feed: give one that it printed, or {START} for the start"
        )
    return int(match[1] or 0), int(match[2]), int(match[3])
