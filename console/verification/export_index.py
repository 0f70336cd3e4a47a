"""Looks up pictures in an export, without a database."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from console.verification.image_index import CodeTable, ImageRow
from jobs.errors import UsageError
from jobs.images.find_image_rows import FIELDS
from jobs.outputs.export_inventory import RECORDS

_NAMES = {
    "image": "image_id",
    "job": "job_id",
    "name": "batch",
    **{name: name for name in FIELDS if name not in ("image", "job", "name", "batch")},
}
"""Columns of exports by the names of fields; exports have the name of the batch alone."""
_SEARCHED = ("pixels_sha256",)
_READERS = {
    ".parquet": lambda path: pyarrow.parquet.read_table(path, partitioning=None),
    ".jsonl": pyarrow.json.read_json,
    ".csv": pyarrow.csv.read_csv,
}


class ExportIndex:
    """The image rows of an export: a folder with `_SUCCESS`, or one file, as Parquet, JSON lines or CSV."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError if there is nothing to read, or columns are missing."""
        self.path = path
        self.installations = _installations(path)
        self._table = _read(path)
        self._by: dict[str, dict[Any, int]] = {}

    def of_job(self, job: int) -> ImageRow | None:
        """Return the row of a job's image."""
        return self._found("job_id", job)

    def copy_with_mark(self, mark: str) -> ImageRow | None:
        """Return a row whose file bears the mark."""
        return self._found("watermark", mark)

    def of_pixels(self, pixels_sha256: str) -> ImageRow | None:
        """Return the row of a picture with these pixels."""
        return self._found("pixels_sha256", pixels_sha256)

    def of_file(self, sha256: str) -> ImageRow | None:
        """Return the row of a file."""
        return self._found("sha256", sha256)

    def similar(self, code: str) -> tuple[ImageRow, int] | None:
        """Return the row with the nearest ISCC code and the bits that differ."""
        found = self._codes.nearest(code)
        return (self._row(found[0]), found[1]) if found else None

    def _found(self, column: str, value: object) -> ImageRow | None:
        if column not in self._table.column_names:
            return None
        if column not in self._by:
            values = self._table[column].to_pylist()
            self._by[column] = {values[place]: place for place in reversed(range(len(values)))}
        place = self._by[column].get(value)
        return None if place is None else self._row(place)

    def _row(self, place: int) -> ImageRow:
        (row,) = self._table.slice(place, 1).to_pylist()
        return {field: row.get(name) for field, name in _NAMES.items()} | {"batch": None}

    @cached_property
    def _codes(self) -> CodeTable:
        if "iscc" not in self._table.column_names:
            return CodeTable([], [])
        codes = self._table["iscc"].to_pylist()
        places = [place for place, code in enumerate(codes) if code]
        return CodeTable(places, [codes[place] for place in places])


def _read(path: Path) -> pa.Table:
    if not path.exists():
        raise UsageError(f"--index {path}: isn't there")
    files = sorted(each for each in path.rglob("*") if _is_data(each)) if path.is_dir() else [path]
    wanted = {*_NAMES.values(), *_SEARCHED}
    tables = [_columns(each, wanted) for each in files if each.suffix in _READERS]
    if not tables:
        raise UsageError(f"--index {path}: holds no .parquet, .jsonl or .csv file of an export")
    table = pa.concat_tables(tables, promote_options="permissive")
    if missing := {"job_id", "sha256"} - set(table.column_names):
        raise UsageError(
            f"--index {path}: has no column {', '.join(sorted(missing))}: export image rows for it"
        )
    return table


def _is_data(path: Path) -> bool:
    return (
        path.suffix in _READERS
        and not path.name.startswith(("_", "."))
        and path.is_file()
        and not path.is_symlink()
    )


def _columns(path: Path, wanted: set[str]) -> pa.Table:
    try:
        table = _READERS[path.suffix](path)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"--index {path}: can't be read: {str(error).splitlines()[0]}") from None
    return table.select([name for name in table.column_names if name in wanted])


def _installations(path: Path) -> frozenset[UUID]:
    """Return whose export it is, by its record; empty if there is none."""
    for name in RECORDS if path.is_dir() else ():
        try:
            return frozenset({UUID(json.loads((path / name).read_bytes())["installation"])})
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return frozenset()
