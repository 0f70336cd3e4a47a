"""Parquet by batches of rows, values turned into what JSON has."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import ManifestError
from jobs.manifest.columns import check_header, locate_columns
from jobs.manifest.counts import LineCounts
from jobs.manifest.pictures import PICTURE_COLUMNS
from jobs.manifest.raw import Broken, Record, Records
from jobs.manifest.records import ManifestFile
from jobs.manifest.streams import read_chunks
from jobs.manifest.values import ProblemError

BATCH_ROWS = 1000
_UNREADABLE = (ValueError, OverflowError, LookupError, pa.ArrowException)
_PLAIN = frozenset({str, int, float, bool, type(None)})


def read_parquet(manifest: ManifestFile, renames: Mapping[str, str], counts: LineCounts) -> Records:
    """The rows of a Parquet file, `line` being the row's number from 1.

    Times and decimals become text, so that nothing is rounded, NaN a missing value. Columns of bytes are left out,
    which `counts` says, unless they are ours: there bytes are text, as some tools write it, and no pictures.
    """
    try:
        with _plain_file(manifest) as path, pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            check_header(schema.names, renames, manifest.label)
            names = _kept(schema, renames, counts)
            pictures = _pictures(names, renames)
            number = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=names, use_threads=False):
                columns = [_column(batch.column(name), name not in pictures) for name in names]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield _record(number, names, cells)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ManifestError(
            f"{manifest.label}: damaged, truncated or not Parquet ({reason}); copy it from its source again."
        ) from error


@contextmanager
def _plain_file(manifest: ManifestFile) -> Iterator[Path]:
    if manifest.compression == "none":
        yield manifest.path
        return
    with tempfile.NamedTemporaryFile(prefix="nightmill-", suffix=".parquet") as plain:
        for chunk in read_chunks(manifest.path, manifest.compression, manifest.label, manifest.limit):
            plain.write(chunk)
        plain.flush()
        yield Path(plain.name)


def _kept(schema: pa.Schema, renames: Mapping[str, str], counts: LineCounts) -> list[str]:
    """The columns that JSON has a form for."""
    ours = locate_columns(schema.names, renames).values()
    left_out = [field.name for field in schema if _holds_bytes(field.type) and field.name not in ours]
    counts.left_out.extend(name for name in left_out if name not in counts.left_out)
    return [name for name in schema.names if name not in left_out]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    if pa.types.is_nested(kind):
        return any(_holds_bytes(kind.field(place).type) for place in range(kind.num_fields))
    is_bytes = pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary
    return any(check(kind) for check in is_bytes)


def _pictures(names: Sequence[str], renames: Mapping[str, str]) -> set[str]:
    return {name for column, name in locate_columns(names, renames).items() if column in PICTURE_COLUMNS}


def _column(column: Any, is_text: bool) -> list[Any]:
    # Python's datetime has no nanoseconds.
    is_time = pa.types.is_timestamp(column.type) or pa.types.is_time(column.type)
    is_bytes = pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)
    as_text = is_time or (is_bytes and is_text)
    try:
        values = (column.cast(pa.string()) if as_text else column).to_pylist()
    except _UNREADABLE:
        return [_text(scalar) if is_bytes and is_text else _value(scalar) for scalar in column]
    if is_time:
        return [_moment(value) for value in values]
    if _PLAIN.issuperset(map(type, values)) and not pa.types.is_floating(column.type):
        return list(values)
    return [_attempt(value) for value in values]


def _moment(text: str | None) -> object:
    if text is not None and text.startswith("<"):
        return ProblemError(None, f"holds a moment that has no form as text ({text.strip('<>')})")
    return text


def _text(scalar: Any) -> object:
    value = scalar.as_py()
    try:
        return value if value is None else value.decode()
    except UnicodeDecodeError:
        return ProblemError(None, "holds bytes that are no text in UTF-8")


def _value(scalar: Any) -> object:
    try:
        return _attempt(scalar.as_py())
    except _UNREADABLE as error:
        return ProblemError(None, f"holds a {scalar.type} that can't be read ({error})")


def _attempt(value: object) -> object:
    try:
        return jsonable(value)
    except ProblemError as problem:
        return problem


def jsonable(value: object) -> object:
    """A Parquet value as JSON has it: exact text for times, decimals and UUIDs, seconds for durations."""
    if type(value) in _PLAIN:
        return None if isinstance(value, float) and math.isnan(value) else value
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    if isinstance(value, dict):
        return {str(key): jsonable(part) for key, part in value.items()}
    kind = "bytes" if isinstance(value, bytes) else type(value).__name__
    raise ProblemError(None, f"holds {kind}, which JSON has no form for; drop the column or make it text")


def _record(number: int, names: Sequence[str], cells: Sequence[object]) -> Record | Broken:
    values = dict(zip(names, cells, strict=True))
    for name, cell in values.items():
        if isinstance(cell, ProblemError):
            return Broken(number, cell.reason, values, name)
    return Record(number, values, values, suspect=True)
