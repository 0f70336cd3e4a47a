"""Typed columns of keys of JSON columns: `meta.label`, `quality.clip_score`, `timings.generate`."""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
import pyarrow as pa

from scheduler.export.rows.unfit_values import UnfitValues

_LONG_NUMBER = re.compile("[0-9]{19}")

UNFIT = object()
"""Of a value that isn't of the column's type."""


@dataclass(frozen=True)
class JsonColumn:
    """The column `<source>.<key>`: what the objects of the JSON column `source` have under `key`."""

    source: str
    key: str
    type: str
    """A name in TYPES."""

    @property
    def name(self) -> str:
        """The column's name."""
        return f"{self.source}.{self.key}"

    @property
    def field(self) -> pa.Field:
        """The column's name and type."""
        return pa.field(self.name, TYPES[self.type].arrow)


@dataclass(frozen=True)
class ColumnType:
    """A type for values of JSON: `convert` returns the value, or UNFIT."""

    arrow: pa.DataType
    convert: Callable[[Any], Any]


def read_json_columns(
    batch: pa.RecordBatch, columns: Sequence[JsonColumn], unfit: UnfitValues
) -> list[pa.Array]:
    """Return the columns' values: null where there is no key or a value doesn't fit, which is counted in `unfit`."""
    objects = {source: _objects(batch.column(source)) for source in {column.source for column in columns}}
    return [
        _read(column, objects[column.source], partial(unfit.add, column.name, batch)) for column in columns
    ]


def _objects(texts: pa.Array) -> list[Mapping[str, Any]]:
    return [_object(text) for text in texts.to_pylist()]


def _object(text: str | None) -> Mapping[str, Any]:
    if text is None:
        return {}
    try:
        # orjson makes floats of integers beyond 64 bits, and refuses what is beyond doubles, and half surrogate pairs.
        found = json.loads(text) if _LONG_NUMBER.search(text) else orjson.loads(text)
    except ValueError:
        found = json.loads(text)
    return found if isinstance(found, dict) else {}


def _read(
    column: JsonColumn, objects: Iterable[Mapping[str, Any]], on_unfit: Callable[[int], None]
) -> pa.Array:
    convert, key = TYPES[column.type].convert, column.key
    values = []
    for row, found in enumerate(objects):
        value = found.get(key)
        if value is not None:
            value = convert(value)
            if value is UNFIT:
                value = None
                on_unfit(row)
        values.append(value)
    return pa.array(values, TYPES[column.type].arrow)


def _text(value: Any) -> Any:
    """Any value has a form as text: that of JSON, if it isn't a string."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or _is_unicode(text) else UNFIT


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _long(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        value = int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else UNFIT


def _double(value: Any) -> Any:
    is_exact = type(value) is float or (type(value) is int and abs(value) <= 2**53)
    return float(value) if is_exact and math.isfinite(value) else UNFIT


def _boolean(value: Any) -> Any:
    return value if isinstance(value, bool) else UNFIT


TYPES: Mapping[str, ColumnType] = {
    "string": ColumnType(pa.string(), _text),
    "long": ColumnType(pa.int64(), _long),
    "double": ColumnType(pa.float64(), _double),
    "boolean": ColumnType(pa.bool_(), _boolean),
}
