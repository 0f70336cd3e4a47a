"""Parquet by batches of rows, values turned into what JSON has."""

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
from jobs.manifest.columns import check_header
from jobs.manifest.raw import Broken, Record, Records
from jobs.manifest.records import ManifestFile
from jobs.manifest.streams import read_chunks
from jobs.manifest.values import ProblemError

BATCH_ROWS = 1000
_UNREADABLE = (ValueError, OverflowError, LookupError, pa.ArrowException)
_PLAIN = frozenset({str, int, float, bool, type(None)})


def read_parquet(manifest: ManifestFile, renames: Mapping[str, str]) -> Records:
    """The rows of a Parquet file, `line` being the row's number from 1.

    Times and decimals become text, so that nothing is rounded; bytes break the row.
    """
    try:
        with _plain_file(manifest) as path, pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            check_header(names, renames, manifest.label)
            number = 0
            for batch in file.iter_batches(BATCH_ROWS, use_threads=False):
                columns = [_column(column) for column in batch.columns]
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


def _column(column: Any) -> list[Any]:
    # Python's datetime has no nanoseconds.
    as_text = pa.types.is_timestamp(column.type) or pa.types.is_time(column.type)
    try:
        values = (column.cast(pa.string()) if as_text else column).to_pylist()
    except _UNREADABLE:
        return [_value(scalar) for scalar in column]
    if _PLAIN.issuperset(map(type, values)):
        return list(values)
    return [_attempt(value) for value in values]


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
        return value
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
