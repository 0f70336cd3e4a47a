"""Image records: the public form of image rows, identical in the feed and in every export."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Row, text

from jobs.images.insert_and_public_columns import public_columns
from jobs.job_dataclasses import BatchId

COLUMNS = ", ".join(
    f"{column.sql} AS {'output' if column.name == 'uri' else column.name}" for column in public_columns()
)

_OF_BATCH = text(f"""
    SELECT {COLUMNS} FROM images i JOIN batches b ON b.id = i.batch_id
    WHERE i.batch_id = :batch ORDER BY i.ordinal, i.index
""")


def record(row: Row[Any]) -> dict[str, Any]:
    """Convert a row into a record: `uri` is the file's location, `seed` an int up to 2**64 - 1."""
    values = dict(row._mapping)
    output = values.pop("output")
    values["seed"] = int(values["seed"])
    return values | {"uri": f"{output.rstrip('/')}/{values['key']}"}


def images_of(connection: Connection, batch: BatchId) -> Generator[dict[str, Any], None, None]:
    """Stream all image records of a batch in manifest order; close the generator if you don't exhaust it."""
    streamed = connection.execution_options(stream_results=True, max_row_buffer=2000)
    with streamed.execute(_OF_BATCH, {"batch": batch}) as rows:
        for row in rows:
            yield record(row)


_COPIED = ", ".join(
    f"""{"rtrim(b.output, '/') || '/' || i.key" if column.name == "uri" else column.sql} AS "{column.name}\""""
    for column in public_columns()
)


@contextmanager
def copied(connection: Connection, condition: str, values: tuple[Any, ...]) -> Iterator[Iterator[bytes]]:
    """Yield the public columns of image rows as chunks of CSV, as PostgreSQL's COPY writes it, with times in UTC.

    `condition` is SQL about the image `i`, with an order, and has `%s` for each of the values.
    """
    query = f"SELECT {_COPIED} FROM images i JOIN batches b ON b.id = i.batch_id WHERE {condition}"
    with copied_query(connection, query, values) as chunks:
        yield chunks


@contextmanager
def copied_query(
    connection: Connection, query: str, values: tuple[Any, ...] | Mapping[str, Any]
) -> Iterator[Iterator[bytes]]:
    """Yield what a query returns as chunks of CSV; it has the driver's placeholders for the values."""
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor:
        cursor.execute("SET LOCAL timezone = 'UTC'")
        with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT csv)", values) as chunks:
            yield map(bytes, chunks)
