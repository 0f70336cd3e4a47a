"""Read Parquet in batches of a few megabytes, with values converted to JSON types."""

import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import ManifestError
from jobs.manifest.columns.header import check_header, locate_columns
from jobs.manifest.columns.input_images import PICTURE_COLUMNS
from jobs.manifest.formats.arrow_cell_sizes import Weights, weights
from jobs.manifest.formats.parquet_pages import Group, PageError, delta_columns, read_groups, rows_at_once
from jobs.manifest.raw_record import Broken, Record, Records
from jobs.manifest.read_statistics import LineCounts
from jobs.manifest.reading.decompressed_lines import MAX_LINE, read_chunks
from jobs.manifest.reading.refuse_foreign_file_types import PARQUET_MAGIC
from jobs.manifest.reading.spool import spooled
from jobs.manifest.types import ManifestFile
from jobs.manifest.values import ProblemError, printable, shown

MAX_CELL = MAX_LINE
_MAX_FOOTER = 32 << 20
_BUFFER = 2**20
_TEXTS = frozenset({"STRING", "NONE", "JSON", "ENUM"})
_SLICE_BYTES = 16 << 20
_UNREADABLE = (ValueError, OverflowError, LookupError, TypeError, AttributeError, pa.ArrowException)
_FIXED = (pa.types.is_fixed_size_binary,)
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, *_FIXED)
_PLAIN = frozenset({str, int, float, bool, type(None)})
_TOO_LARGE = ProblemError(None, f"holds over {MAX_CELL:,} bytes; shorten it")


def read_parquet(manifest: ManifestFile, renames: Mapping[str, str], counts: LineCounts) -> Records:
    """Read the rows of a Parquet file; `line` is the row's number from 1.

    Times and decimals become text, so that nothing is rounded; NaN becomes a missing value. Columns of bytes are left
    out and added to `counts.left_out`, except known columns: their bytes are decoded as text, as some tools write it;
    image data is not accepted. Rows with a cell over 1 MiB are broken.
    """
    try:
        with _plain_file(manifest) as path, path.open("rb") as headers:
            _check_footer(headers)
            with _opened(path) as file:
                schema = file.schema_arrow
                check_header(schema.names, renames, manifest.label)
                names = _kept(schema, renames, counts)
                groups = read_groups(headers)
                dictionaries = _texts(file, headers, groups)
            pictures = _pictures(names, renames)
            with _opened(path, dictionaries) as file:
                for number, cells in enumerate(_rows(file, headers, groups, names, pictures), 1):
                    yield _record(number, names, cells)
    except (*_UNREADABLE, OSError, MemoryError) as error:
        reason = printable(str(error).partition("\n")[0], 200) or type(error).__name__
        what = "" if isinstance(error, PageError) else "damaged, truncated or not Parquet: "
        raise ManifestError(
            f"{manifest.label}: {what}{reason}; write it anew, or copy it from its source."
        ) from error


def _opened(path: Path, dictionaries: Sequence[str] = ()) -> Any:
    return pq.ParquetFile(path, pre_buffer=False, buffer_size=_BUFFER, read_dictionary=list(dictionaries))


def _check_footer(file: BinaryIO) -> None:
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - 8))
    size = int.from_bytes(file.read(4), "little")
    if file.read(4) == PARQUET_MAGIC and size > _MAX_FOOTER:
        raise PageError(f"has a footer of {size >> 20} MiB (fewer and larger row groups)")


def _texts(file: Any, headers: BinaryIO, groups: Sequence[Group]) -> list[str]:
    """Return the columns of text and bytes to read as dictionaries, so that repeated values aren't multiplied.

    pyarrow can't do that for text in lists and structs of several row groups.
    """
    names = file.schema_arrow.names
    plain = delta_columns(headers, groups, names)
    columns = (file.schema.column(number) for number in range(len(file.schema)))
    return [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY"
        and column.logical_type.type in _TEXTS
        and column.path in names
        and column.path not in plain
    ]


def _rows(
    file: Any,
    headers: BinaryIO,
    groups: Sequence[Group],
    names: Sequence[str],
    pictures: Collection[str],
) -> Iterator[tuple[object, ...]]:
    widths = [file.schema.column(place).length for place in range(len(file.schema))]
    numbers = range(len(groups))
    for rows, run in groupby(numbers, lambda number: rows_at_once(headers, groups[number], widths, names)):
        for batch in file.iter_batches(rows, row_groups=list(run), columns=names, use_threads=False):
            yield from _cells(batch, [name not in pictures for name in names])


def _cells(batch: Any, are_text: Sequence[bool]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of a batch, converting slices of 16 MiB at a time."""
    columns = [batch.column(number) for number in range(len(are_text))]
    heavy = [weights(column) for column in columns]
    sums = np.cumsum(np.sum(np.minimum(heavy, MAX_CELL), axis=0))
    start = 0
    while start < batch.num_rows:
        before = sums[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(sums, before + _SLICE_BYTES)))
        cells = [
            _column(column.slice(start, end - start), each[start:end], is_text)
            for column, each, is_text in zip(columns, heavy, are_text, strict=True)
        ]
        yield from zip(*cells, strict=True)
        start = end


@contextmanager
def _plain_file(manifest: ManifestFile) -> Iterator[Path]:
    if manifest.compression == "none":
        yield manifest.path
        return
    chunks = read_chunks(manifest.path, manifest.compression, manifest.label, manifest.limit)
    with spooled(
        lambda file: [file.write(chunk) for chunk in chunks], manifest.label, manifest.limit
    ) as path:
        yield path


def _kept(schema: pa.Schema, renames: Mapping[str, str], counts: LineCounts) -> list[str]:
    """Return the columns that can be converted to JSON; adds the others to `counts.left_out`."""
    ours = locate_columns(schema.names, renames).values()
    fixed = next((field for field in schema if field.name in ours and _holds(field.type, _FIXED)), None)
    if fixed:
        raise PageError(f"column {shown(fixed.name)} holds {fixed.type}, which is no text")
    left_out = [field.name for field in schema if field.name not in ours and _holds(field.type, _BYTES)]
    counts.left_out.extend(name for name in left_out if name not in counts.left_out)
    return [name for name in schema.names if name not in left_out]


def _holds(kind: pa.DataType, checks: Sequence[Callable[[pa.DataType], bool]]) -> bool:
    """Whether one of `checks` is true for a type or one of its nested types."""
    if pa.types.is_dictionary(kind):
        return _holds(kind.value_type, checks)
    if pa.types.is_nested(kind):
        return any(_holds(kind.field(place).type, checks) for place in range(kind.num_fields))
    return any(check(kind) for check in checks)


def _pictures(names: Sequence[str], renames: Mapping[str, str]) -> set[str]:
    return {name for column, name in locate_columns(names, renames).items() if column in PICTURE_COLUMNS}


def _column(column: Any, heavy: Weights, is_text: bool) -> list[Any]:
    if (heavy > MAX_CELL).any():
        return [
            _TOO_LARGE if each > MAX_CELL else _values(column.slice(place, 1), is_text)[0]
            for place, each in enumerate(heavy)
        ]
    return _values(column, is_text)


def _values(column: Any, is_text: bool) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
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
    return text and text.replace(" ", "T", 1)  # ISO 8601, like the other times


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
    except RecursionError:
        return ProblemError(None, "is nested too deeply; flatten it")


def jsonable(value: object) -> object:
    """Convert a Parquet value to JSON types: exact text for times, decimals and UUIDs, seconds for durations."""
    if type(value) in _PLAIN:
        return None if isinstance(value, float) and math.isnan(value) else value
    if isinstance(value, Decimal | UUID):
        return str(value)
    # Where pandas is installed, pyarrow makes its types of nanoseconds; else it raises. A row is read alike everywhere.
    if getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0):
        raise ProblemError(None, "holds nanoseconds inside a list or struct, which can't be read")
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
