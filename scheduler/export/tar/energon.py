"""The metadata by which Megatron-Energon opens a folder of WebDataset archives without preparing it.

As `energon prepare` of version 7.4.1 writes it (megatron/energon/flavors/webdataset/prepare.py and indexing.py); the
index of each archive, `NNNNN.tar.idx`, is written beside it.
"""

import io
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from jobs.states import ImageFormat
from jobs.storage.key_layout import SIDECAR
from scheduler.export.exporters import WrittenFile
from scheduler.export.tar.ustar import BLOCK

FOLDER = ".nv-meta"
VERSION = "7.4.1"

_COLUMNS = ["sample_key", "tar_offset", "json_bytes", "txt_bytes", "c2pa_bytes", "bytes", "format"]
_TABLES = """
    CREATE TABLE samples (tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE, sample_index INTEGER NOT NULL,
        byte_offset INTEGER, byte_size INTEGER);
    CREATE TABLE sample_parts (tar_file_id INTEGER, sample_index INTEGER, part_name TEXT, content_byte_offset INTEGER,
        content_byte_size INTEGER);
"""
_INDEXES = """
    CREATE INDEX idx_samples_by_tar_and_idx ON samples(tar_file_id, sample_index);
    CREATE INDEX idx_sample_parts_seq ON sample_parts(tar_file_id, sample_index, content_byte_offset);
    CREATE INDEX idx_sample_parts_full
        ON sample_parts(tar_file_id, sample_index, part_name, content_byte_offset, content_byte_size);
"""


def write_energon_index(
    folder: Path, archives: Sequence[str], read: Callable[[str], bytes]
) -> list[WrittenFile]:
    """Write the metadata of archives, of which the rows beside them are read. Energon shuffles them as one split."""
    if not archives:
        return []
    (folder / FOLDER).mkdir()
    counts, extension = _write_samples(folder / FOLDER / "index.sqlite", archives, read)
    info = {"energon_version": VERSION, "shard_counts": dict(zip(archives, counts, strict=True))}
    split = {"split_parts": {"train": list(archives), "val": [], "test": []}, "exclude": []}
    texts = {
        ".info.json": json.dumps(info, indent=2),
        "dataset.yaml": yaml.safe_dump(_dataset(extension), sort_keys=False),
        "split.yaml": yaml.safe_dump(split, sort_keys=False),
    }
    for name, text in texts.items():
        (folder / FOLDER / name).write_text(text, encoding="utf-8")
    return [
        WrittenFile(
            f"{FOLDER}/{name}", "application/octet-stream" if name == "index.sqlite" else "text/plain"
        )
        for name in sorted([*texts, "index.sqlite"])
    ]


def _dataset(extension: str) -> dict[str, Any]:
    return {
        "sample_type": {"__module__": "megatron.energon", "__class__": "CaptioningSample"},
        "field_map": {"image": extension, "caption": "txt"},
    }


def _write_samples(
    path: Path, archives: Sequence[str], read: Callable[[str], bytes]
) -> tuple[list[int], str]:
    """Write the table of all samples and of their members; returns the samples of each archive, and an extension."""
    counts, extension = [], ""
    database = sqlite3.connect(path)
    try:
        database.executescript(_TABLES)
        for number, name in enumerate(archives):
            rows = _rows(read(name.removesuffix(".tar") + ".parquet"))
            counts.append(len(rows))
            extension = extension or ImageFormat(rows[0]["format"]).extension
            found = [_members(row) for row in rows]
            database.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", _samples(number, rows, found))
            database.executemany("INSERT INTO sample_parts VALUES (?, ?, ?, ?, ?)", _parts(number, found))
        database.executescript(_INDEXES)
        database.commit()
    finally:
        database.close()
    return counts, extension


def _rows(table: bytes) -> list[dict[str, Any]]:
    """Return the rows, with those of the columns that there are."""
    with pq.ParquetFile(io.BytesIO(table)) as file:
        return list(file.read(_COLUMNS).to_pylist())


Member = tuple[str, int, int]
"""Its extension, where its content begins, and its size."""


def _members(row: dict[str, Any]) -> list[Member]:
    sizes = {
        "json": row["json_bytes"],
        "txt": row["txt_bytes"],
        ImageFormat(row["format"]).extension: row["bytes"],
    }
    if row.get("c2pa_bytes"):  # not there in exports that an earlier version has begun
        sizes[SIDECAR] = row["c2pa_bytes"]
    found, offset = [], row["tar_offset"]
    for extension in sorted(sizes):
        found.append((extension, offset + BLOCK, sizes[extension]))
        offset = _end(found[-1])
    return found


def _end(member: Member) -> int:
    _, offset, size = member
    return offset + size + -size % BLOCK


def _samples(
    archive: int, rows: Sequence[dict[str, Any]], found: Sequence[Sequence[Member]]
) -> Iterator[tuple[int, str, int, int, int]]:
    for number, (row, members) in enumerate(zip(rows, found, strict=True)):
        begin = row["tar_offset"]
        yield archive, row["sample_key"], number, begin, _end(members[-1]) - begin


def _parts(archive: int, found: Sequence[Sequence[Member]]) -> Iterator[tuple[int, int, str, int, int]]:
    for number, members in enumerate(found):
        for extension, offset, size in members:
            yield archive, number, extension, offset, size
