"""Looks up pictures in an export, without a database."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from uuid import UUID

import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from console.provenance_lookup.image_index import HAS_OTHER_IMAGE, CodeTable, ImageRow
from jobs.errors import UsageError
from jobs.images.find_rows_by_mark_or_digest import FIELDS
from jobs.outputs.export_inventory import RECORDS
from jobs.storage.safe_open import open_regular

_NAMES = {
    "image": "image_id",
    "job": "job_id",
    "name": "batch",
    **{name: name for name in FIELDS if name not in ("image", "job", "name", "batch")},
}
"""Columns of exports by the names of fields; exports have the name of the batch alone."""
_WANTED = (*_NAMES.values(), "pixels_sha256")
_NUMBERS = ("image", "job", "ordinal", "index", "width", "height", "seed")
_ROWS_AT_ONCE = 20_000
_LARGEST_RECORD = 256 << 20


class ExportIndex:
    """The image rows of an export: a folder with `_SUCCESS`, or one file, as Parquet, JSON lines or CSV.

    All values are kept as text, as files of one export may differ in the types of their columns.
    """

    def __init__(self, path: Path) -> None:
        """Raises UsageError if there is nothing to read, or columns are missing."""
        self.path = path
        self.installations = _installations(path)
        self._table = _read(path)
        self._by: dict[str, dict[str | None, int]] = {}

    def of_job(self, job: int) -> ImageRow | None:
        """Return the row of a job's image."""
        return self._found("job_id", str(job))

    def state_of_job(self, job: int) -> str | None:
        """Return that a job has another image than the one asked for; None if it has none here."""
        return HAS_OTHER_IMAGE if self.of_job(job) else None

    def copy_with_mark(self, mark: str) -> ImageRow | None:
        """Return a row whose file bears the mark."""
        return self._found("watermark", mark)

    def of_manifest(self, id: str) -> ImageRow | None:
        """Return the row whose file has a manifest."""
        return self._found("c2pa_manifest_id", id)

    def of_pixels(self, pixels_sha256: str, size: tuple[int, int], file: str) -> ImageRow | None:
        """Return the row of a picture of (width, height) with these pixels, the one of the file's SHA-256 first."""
        exact = self._found("sha256", file)
        row = (
            exact
            if exact and exact["pixels"] == pixels_sha256
            else self._found("pixels_sha256", pixels_sha256)
        )
        return row if row and (row["width"], row["height"]) in (size, (None, None)) else None

    def of_files(self, sha256: Sequence[str]) -> Mapping[str, ImageRow]:
        """Return the rows of files by their SHA-256."""
        return {digest: row for digest in sha256 if (row := self._found("sha256", digest))}

    def similar(self, code: str) -> tuple[ImageRow, int] | None:
        """Return the row with the nearest ISCC code and the bits that differ."""
        found = self._codes.nearest(code)
        return (self._row(found[0]), found[1]) if found else None

    def _found(self, column: str, value: str) -> ImageRow | None:
        if column not in self._by:
            values = self._table[column].to_pylist()
            self._by[column] = {values[place]: place for place in reversed(range(len(values)))}
        place = self._by[column].get(value)
        return None if place is None else self._row(place)

    def _row(self, place: int) -> ImageRow:
        (row,) = self._table.slice(place, 1).to_pylist()
        found = {field: row[name] or None for field, name in _NAMES.items()}
        numbers = {name: _number(found[name]) for name in _NUMBERS}
        return found | numbers | {"batch": None, "pixels": row["pixels_sha256"]}

    @cached_property
    def _codes(self) -> CodeTable:
        codes = self._table["iscc"].to_pylist()
        places = [place for place, code in enumerate(codes) if code]
        return CodeTable(places, [codes[place] for place in places])


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _read(path: Path) -> pa.Table:
    if not path.exists():
        raise UsageError(f"--index {path}: isn't there")
    if not (path.is_dir() or path.is_file()):
        raise UsageError(f"--index {path}: is neither a folder nor a file")
    files = sorted(each for each in _below(path) if _is_data(each)) if path.is_dir() else [path]
    tables = [table for each in files if each.suffix in _READERS for table in _tables(each)]
    if not tables:
        raise UsageError(f"--index {path}: holds no .parquet, .jsonl or .csv file of an export")
    return pa.concat_tables(tables)


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its folders; raises UsageError if one of these can't be read."""

    def refuse(error: OSError) -> None:
        raise UsageError(f"--index {error.filename}: can't be read: {error.strerror}")

    for parent, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(parent, name) for name in names)


def _is_data(path: Path) -> bool:
    is_named = path.suffix in _READERS and not path.name.startswith(("_", "."))
    return is_named and path.is_file() and not path.is_symlink()


def _tables(path: Path) -> Iterator[pa.Table]:
    """Yield the wanted columns of a file, all as text, null where there is no such column."""
    try:
        for table in _READERS[path.suffix](path):
            if missing := {"job_id", "sha256"} - set(table.column_names):
                lacks = ", ".join(sorted(missing))
                raise UsageError(f"--index {path}: has no column {lacks}: export image rows for it")
            yield pa.table({name: _text(table, name) for name in _WANTED})
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UsageError(f"--index {path}: can't be read: {str(error).splitlines()[0][:200]}") from None


def _text(table: pa.Table, name: str) -> pa.ChunkedArray | pa.Array:
    if name not in table.column_names:
        return pa.nulls(len(table), pa.string())
    return table[name].cast(pa.string())


def _of_parquet(path: Path) -> Iterator[pa.Table]:
    with pyarrow.parquet.ParquetFile(path) as file:
        wanted = [name for name in file.schema_arrow.names if name in _WANTED]
        yield file.read(columns=wanted)


def _of_csv(path: Path) -> Iterator[pa.Table]:
    with pyarrow.csv.open_csv(path) as reader:
        names = reader.schema.names
    wanted = [name for name in names if name in _WANTED]
    as_text = dict.fromkeys(wanted, pa.string())
    yield pyarrow.csv.read_csv(
        path, convert_options=pyarrow.csv.ConvertOptions(include_columns=wanted, column_types=as_text)
    )


def _of_json_lines(path: Path) -> Iterator[pa.Table]:
    """Yield parts of the file; a column is there if the first line has it."""
    with path.open("rb") as lines:
        rows: list[dict[str, str | None]] = []
        names: list[str] = []
        for line in lines:
            record = orjson.loads(line)
            if not isinstance(record, dict):
                raise ValueError("a line is no object")
            names = names or [name for name in _WANTED if name in record]
            rows.append({name: _plain(record.get(name)) for name in names})
            if len(rows) == _ROWS_AT_ONCE:
                yield _as_table(rows, names)
                rows = []
        if rows:
            yield _as_table(rows, names)


def _as_table(rows: Sequence[Mapping[str, str | None]], names: Sequence[str]) -> pa.Table:
    return pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in names})


def _plain(value: object) -> str | None:
    return None if value is None else str(value)


_READERS = {".parquet": _of_parquet, ".jsonl": _of_json_lines, ".csv": _of_csv}


def _installations(path: Path) -> frozenset[UUID]:
    """Return whose export it is, by its record, which lies beside the files; empty if there is none."""
    folder = path if path.is_dir() else path.parent
    for name in RECORDS:
        try:
            with os.fdopen(open_regular(folder / name), "rb") as file:
                return frozenset({UUID(str(json.loads(file.read(_LARGEST_RECORD))["installation"]))})
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
    return frozenset()
