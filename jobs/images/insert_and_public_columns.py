"""What follows from the columns of the table `images`: the INSERT of a completed job, and the public record."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, Column, Text
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from jobs.db.images_table import Source, images

_UNSTORED = (Source.DATABASE, Source.FEED)
_RENAMED = {"id": ("image_id", "i.id"), "batch_id": ("batch", "b.name")}

URI = "rtrim(b.output, '/') || '/' || i.key"
"""SQL of where the file of an image `i` of the batch `b` is."""


@dataclass(frozen=True)
class PublicColumn:
    """A column of image records: `sql` is its value where the image is `i` and its batch `b`."""

    name: str
    type: TypeEngine[Any]
    doc: str
    sql: str


def public_columns() -> list[PublicColumn]:
    """Return the columns of image records in their order; `uri` isn't stored, but made of the output and the key."""
    return [*sorted(_public(), key=lambda column: column.name not in ("image_id", "batch"))]


def _public() -> Iterator[PublicColumn]:
    for column in images.columns:
        if not column.info["is_public"]:
            continue
        name, sql = _RENAMED.get(column.name, (column.name, f'i."{column.name}"'))
        doc = "name of the batch" if name == "batch" else column.doc or ""
        yield PublicColumn(name, Text() if name == "batch" else column.type, doc, sql)
        if name == "key":
            yield PublicColumn("uri", Text(), "where the file is", URI)


def given_record() -> str:
    """Return the SQL record type of what a worker gives of an image: the job, its lease, and the worker's columns."""
    given = [f"{_quoted(column)} {_sql_type(column)}" for column in _from(Source.WORKER)]
    return ", ".join(["id bigint", "lease uuid", *given])


def worker_columns() -> list[str]:
    """Return the names of the columns that a worker brings."""
    return [column.name for column in _from(Source.WORKER)]


def other_columns() -> list[str]:
    """Return the names of the columns that a worker doesn't bring."""
    return [column.name for column in images.columns if column.info["source"] != Source.WORKER]


def inserted_columns() -> str:
    """Return the columns that the completion of a job writes, as a list for INSERT."""
    return ", ".join(_quoted(column) for column in _stored())


def inserted_values() -> str:
    """Return their values, where the job is `j`, its lane `l` and what the worker gives `g`."""
    return ", ".join(_value(column) for column in _stored())


def _stored() -> list[Column[Any]]:
    return [column for column in images.columns if column.info["source"] not in _UNSTORED]


def _from(source: Source) -> list[Column[Any]]:
    return [column for column in images.columns if column.info["source"] == source]


def _value(column: Column[Any]) -> str:
    source = column.info["source"]
    if not isinstance(source, Source):
        return str(source)
    value = f"{source}.{_quoted(column)}"
    is_optional_json = source == Source.WORKER and isinstance(column.type, JSON) and column.nullable
    return f"nullif({value}, 'null')" if is_optional_json else value


def _quoted(column: Column[Any]) -> str:
    return f'"{column.name}"'


def _sql_type(column: Column[Any]) -> str:
    return column.type.compile(dialect=postgresql.dialect())  # type: ignore[no-untyped-call]
