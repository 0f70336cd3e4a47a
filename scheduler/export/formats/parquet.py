"""Export to Parquet: typed columns, zstd, row groups of 20,000; JSON columns as text."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scheduler.export.exporters import exporter
from scheduler.export.image_schema import JSON_COLUMNS, SCHEMA

ROW_GROUP = 20_000


@exporter("parquet", content_type="application/vnd.apache.parquet")
def write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    """Write image records to the file; returns the number of rows."""
    count = 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while group := [_flat(row) for row in islice(rows, ROW_GROUP)]:
            writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))
            count += len(group)
    return count


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: json.dumps(value, ensure_ascii=False) if name in JSON_COLUMNS and value is not None else value
        for name, value in row.items()
    }
