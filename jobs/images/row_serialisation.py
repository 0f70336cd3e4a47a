"""Image records: the public form of image rows, identical in the feed and in every export."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Row

from jobs.images.insert_and_public_columns import public_columns

COLUMNS = ", ".join(f'{column.sql} AS "{column.name}"' for column in public_columns())
"""The public columns of the image `i` in the batch `b`, for SELECT."""


def record(row: Row[Any]) -> dict[str, Any]:
    """Convert a row into a record, whose `seed` is an int up to 2**64 - 1."""
    return row._asdict() | {"seed": int(row.seed)}


@contextmanager
def copied(
    connection: Connection, condition: str, values: tuple[Any, ...] | Mapping[str, Any]
) -> Iterator[Iterator[bytes]]:
    """Yield the public columns of image rows as chunks of CSV, as PostgreSQL's COPY writes it, with times in UTC.

    `condition` is SQL about the image `i`, with an order, and has the driver's placeholders for the values.
    """
    query = f"SELECT {COLUMNS} FROM images i JOIN batches b ON b.id = i.batch_id WHERE {condition}"
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
