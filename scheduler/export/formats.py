"""File formats of an export: typed Parquet, and JSONL."""

import json
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 20_000

JSON_COLUMNS = frozenset({"safety_scores", "versions", "timings", "meta", "quality"})

SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("batch", pa.string()),
        ("job_id", pa.int64()),
        ("ordinal", pa.int64()),
        ("index", pa.int32()),
        ("row_id", pa.string()),
        ("key", pa.string()),
        ("uri", pa.string()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("prompt", pa.string()),
        ("negative_prompt", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("prompt_truncated", pa.bool_()),
        ("model", pa.string()),
        ("model_revision", pa.string()),
        ("model_digest", pa.string()),
        ("generated_width", pa.int32()),
        ("generated_height", pa.int32()),
        ("steps", pa.int16()),
        ("guidance_scale", pa.float64()),
        ("sampler", pa.string()),
        ("seed", pa.uint64()),
        ("upscale", pa.int16()),
        ("noise_level", pa.int16()),
        ("upscaler_digest", pa.string()),
        ("tenant", pa.string()),
        ("safety_verdict", pa.string()),
        ("safety_reason", pa.string()),
        ("safety_scores", pa.string()),
        ("watermark", pa.string()),
        ("watermark_bit_accuracy", pa.float64()),
        ("device", pa.string()),
        ("batch_rows", pa.int16()),
        ("versions", pa.string()),
        ("timings", pa.string()),
        ("worker", pa.string()),
        ("attempt", pa.int16()),
        ("meta", pa.string()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("mode", pa.string()),
        ("init_image", pa.string()),
        ("init_image_sha256", pa.string()),
        ("mask_image", pa.string()),
        ("depth_image", pa.string()),
        ("strength", pa.float64()),
        ("lora", pa.string()),
        ("lora_digest", pa.string()),
        ("quality", pa.string()),
        ("watermark_method", pa.string()),
    ]
)


def write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    """Write image records as Parquet (zstd, row groups of 20,000; JSON columns as text); returns the number of rows."""
    count = 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while group := [_flat(row) for row in islice(rows, ROW_GROUP)]:
            writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))
            count += len(group)
    return count


def write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    """Write image records as JSON lines, keeping nested values; returns the number of rows."""
    count = 0
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(to_json(row) + "\n")
            count += 1
    return count


def to_json(row: dict[str, Any]) -> str:
    """Return an image record as one line of JSON: columns in the Parquet schema's order, other ones before them."""
    known = {name: row[name] for name in SCHEMA.names}
    extra = {name: value for name, value in row.items() if name not in known}
    return json.dumps(extra | known, ensure_ascii=False, default=_moment)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: json.dumps(value, ensure_ascii=False) if name in JSON_COLUMNS and value is not None else value
        for name, value in row.items()
    }


def _moment(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
