"""Writes the outcomes of a manifest's rows: JSON lines, CSV or Parquet."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from console.terminal.output import print_line
from console.terminal.write_file_atomically import complete_file
from jobs.batches.manifest_reconciliation import RowOutcome
from jobs.errors import UsageError
from scheduler.export.rows.spreadsheet_formulas import FORMULA

FORMATS = ("jsonl", "csv", "parquet")

_COLUMNS = [field.name for field in fields(RowOutcome)]


def write_outcomes(format: str, rows: Iterable[RowOutcome], out: Path | None) -> None:
    """Write rows to a file, or to standard output. Raises UsageError where that can't be."""
    if format == "parquet":
        if out is None:
            raise UsageError("--format parquet needs --out FILE")
        with complete_file(out) as file:
            _write_parquet(rows, file)
        return
    write: Callable[[Iterable[RowOutcome], TextIO], None] = _write_csv if format == "csv" else _write_json
    if out is None:
        write(rows, sys.stdout)
        return
    with complete_file(out) as file:
        text = TextIOWrapper(file, encoding="utf-8", newline="")
        write(rows, text)
        text.detach()  # else it closes the file


def _write_json(rows: Iterable[RowOutcome], file: TextIO) -> None:
    for row in rows:
        values = asdict(row) | {"meta": row.meta and json.loads(row.meta)}
        line = json.dumps(values, ensure_ascii=False)
        if file is sys.stdout and file.isatty():
            print_line(line)
        else:
            file.write(line + "\n")
    file.flush()


def _write_csv(rows: Iterable[RowOutcome], file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in rows:
        writer.writerow([_cell(value) for value in _flat(row).values()])
    file.flush()


def _cell(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and re.match(FORMULA, value) else value


def _flat(row: RowOutcome) -> dict[str, Any]:
    """Return the values with those that are nested as JSON text."""
    nested = {
        "images": json.dumps(row.images),
        "scores": row.scores and json.dumps(row.scores),
        "outcome": row.outcome.value,
    }
    return {name: getattr(row, name) for name in _COLUMNS} | nested


def _write_parquet(rows: Iterable[RowOutcome], file: BinaryIO) -> None:
    import pyarrow as pa  # noqa: PLC0415 - takes time to import
    import pyarrow.parquet as pq  # noqa: PLC0415

    image = pa.struct(
        {"index": pa.int32(), "image_id": pa.int64(), "key": pa.string(), "sha256": pa.string()}
    )
    numbers = dict.fromkeys(("ordinal", "line"), pa.int64()) | dict.fromkeys(
        ("jobs", "replaced", "attempts"), pa.int32()
    )
    schema = pa.schema(
        [
            pa.field(name, pa.list_(image) if name == "images" else numbers.get(name, pa.string()))
            for name in _COLUMNS
        ]
    )
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        left = iter(rows)
        while page := list(islice(left, 20_000)):
            values = [_flat(row) | {"images": row.images} for row in page]
            writer.write_table(pa.Table.from_pylist(values, schema))
