"""Export to JSON lines, with nested values."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from scheduler.export.exporters import exporter
from scheduler.export.image_schema import SCHEMA


@exporter("jsonl", content_type="application/x-ndjson")
def write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    """Write image records to the file; returns the number of rows."""
    count = 0
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(to_json(row) + "\n")
            count += 1
    return count


def to_json(row: dict[str, Any]) -> str:
    """Return an image record as one line of JSON: columns in the schema's order, other ones before them."""
    known = {name: row[name] for name in SCHEMA.names}
    extra = {name: value for name, value in row.items() if name not in known}
    return json.dumps(extra | known, ensure_ascii=False, default=_moment)


def _moment(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
