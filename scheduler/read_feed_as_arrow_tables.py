"""Reads the feed as Arrow tables, by COPY."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, Engine, text

from jobs.db.engine import transact
from jobs.feed.feed import Cursor, through
from jobs.feed.feed_query import EVENT_COLUMNS, FeedQuery
from jobs.images.insert_and_public_columns import public_columns
from jobs.images.row_serialisation import COLUMNS, copied_query
from jobs.states import EventKind
from scheduler.export.image_arrow_schema import SCHEMA
from scheduler.export.read_image_rows import parse
from scheduler.export.rows.prefetch_iterator import read_ahead

PAGE = 10_000

_PLACE = [pa.field("epoch", pa.int32()), pa.field("xid", pa.int64()), pa.field("id", pa.int64())]
_CURSOR = pa.field("cursor", pa.string())
_KIND = [pa.field("event", pa.string()), pa.field("batch_id", pa.int64())]
_DETAIL = pa.field("detail", pa.string())


def feed_schema(query: FeedQuery) -> pa.Schema:
    """Return the columns: `cursor` and those of image rows; with named kinds also `event`, `batch_id` and `detail`."""
    if query.kinds is None:
        return pa.schema([_CURSOR, *SCHEMA])
    return pa.schema([_CURSOR, *_KIND, *SCHEMA, _DETAIL])


def read_feed(
    engine: Engine, since: Cursor, query: FeedQuery, *, size: int = PAGE, limit: int | None = None
) -> Iterator[tuple[pa.Table, Cursor]]:
    """Yield all that follows the cursor `since`, `limit` rows at most, as tables, each with the cursor after it.

    The last table may be empty. Raises UsageError if `since` can't be a cursor of this database.
    """
    schema = feed_schema(query)
    statement = str(text(query.page(*_columns(query))).compile(dialect=engine.dialect))

    def read_page(values: dict[str, Any]) -> tuple[pa.Table, Cursor | None]:
        def copy(connection: Connection) -> pa.Table:
            whole = pa.schema([*_PLACE, *(field for field in schema if field.name != _CURSOR.name)])
            with copied_query(connection, statement, values) as chunks:
                return pa.Table.from_batches(parse(chunks, whole), whole)

        table = transact(engine, copy)
        if not table.num_rows:
            return schema.empty_table(), None
        place = [table[field.name] for field in _PLACE]
        cursors = pc.binary_join_element_wise(*(column.cast(pa.string()) for column in place), "-")
        table = table.append_column(_CURSOR, cursors).select(schema.names)
        return table, Cursor(*(column[-1].as_py() for column in place))

    yield from read_ahead(through(engine, since, query, read_page, size=size, limit=limit), 1)


def _columns(query: FeedQuery) -> tuple[str, str]:
    """Return the SQL of the columns of an image and of an event, without names where they need none."""
    told = [f'{EVENT_COLUMNS.get(column.name, "NULL")} AS "{column.name}"' for column in public_columns()]
    kinds = (
        [[], [], []] if query.kinds is None else [[f"'{EventKind.IMAGE}'", "i.batch_id"], ["NULL::jsonb"], []]
    )
    of_image = [*kinds[0], COLUMNS, *kinds[1]]
    of_event = ["e.kind", "e.batch_id", *told, "e.detail"]
    return ", ".join(of_image), ", ".join(of_event)
