"""Export to JSON lines, with nested values."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from scheduler.export.exporters import Exporter, Shard, WrittenFile, exporter
from scheduler.export.image_schema import JSON_COLUMNS, SCHEMA


@exporter("jsonl", shard_rows=100_000)
class JsonLinesExporter(Exporter):
    """Writes `part-NNNNN.jsonl`."""

    def write(self, folder: Path, shard: Shard) -> Sequence[WrittenFile]:
        """Write the shard as one file; the first one also where it has no rows."""
        path, rows = folder / f"part-{shard.number:05d}.jsonl", 0
        with path.open("w", encoding="utf-8") as stream:
            for batch in shard.images:
                stream.writelines(to_json(row) + "\n" for row in nested(batch))
                rows += batch.num_rows
        if not rows and shard.number:
            return []
        return [WrittenFile(path.name, "application/x-ndjson", rows)]


def nested(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Yield rows as Python objects, with the values of JSON columns parsed."""
    for row in batch.to_pylist():
        yield {
            name: json.loads(value) if name in JSON_COLUMNS and value is not None else value
            for name, value in row.items()
        }


def to_json(row: dict[str, Any]) -> str:
    """Return an image record as one line of JSON: columns in the schema's order, other ones before them."""
    known = {name: row[name] for name in SCHEMA.names}
    extra = {name: value for name, value in row.items() if name not in known}
    return json.dumps(extra | known, ensure_ascii=False, default=_moment)


def _moment(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
