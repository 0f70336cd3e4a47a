"""Image rows as JSON: columns in the schema's order, the values of JSON columns nested as they are stored."""

from collections.abc import Collection, Iterator
from typing import Any

import orjson
import pyarrow as pa

from scheduler.export.image_arrow_schema import JSON_COLUMNS


def json_rows(batch: pa.RecordBatch, as_text: Collection[str] = ()) -> Iterator[bytes]:
    """Yield each row as a JSON object without line breaks; numbers of the columns `as_text` become strings."""
    names = batch.schema.names
    columns = [
        _values(name, column.cast(pa.string()) if name in as_text else column)
        for name, column in zip(names, batch.columns, strict=True)
    ]
    for values in zip(*columns, strict=True):
        yield orjson.dumps(dict(zip(names, values, strict=True)))


def _values(name: str, column: pa.Array) -> list[Any]:
    if name not in JSON_COLUMNS:
        return list(column.to_pylist())
    return [None if text is None else _fragment(text) for text in column.to_pylist()]


def _fragment(text: str) -> orjson.Fragment:
    """JSON has line breaks only between its tokens, where a space is as good."""
    return orjson.Fragment(text.replace("\n", " ").replace("\r", " "))
