"""Exports: a batch's image rows as Parquet or JSONL files, with `_SUCCESS` written last."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Engine

from jobs.batches import BatchStatus
from jobs.images import images_of
from jobs.objects import ObjectStore

ROWS_PER_FILE = 500_000

ExportFormat = Literal["parquet", "jsonl"]
_TYPES = {"parquet": "application/vnd.apache.parquet", "jsonl": "application/x-ndjson"}


@dataclass(frozen=True)
class ExportedFile:
    """One file of an export; `sha256` of its bytes."""

    name: str
    rows: int
    bytes: int
    sha256: str


def export(
    engine: Engine,
    batch: BatchStatus,
    format: ExportFormat,
    store: ObjectStore,
    prefix: str = "",
    on_rows: Callable[[int], None] = lambda _: None,
) -> list[ExportedFile]:
    """Write all images that the batch has now; an earlier export at the same place is replaced.

    Readers wait for `_SUCCESS`: it goes first and comes last, and holds the counts and every file's digest.
    """
    from scheduler import formats  # noqa: PLC0415 - brings pyarrow, which no other command needs

    write = {"parquet": formats.write_parquet, "jsonl": formats.write_jsonl}[format]
    _clear(store, prefix)
    files: list[ExportedFile] = []
    with (
        engine.connect() as connection,
        closing(images_of(connection, batch.id)) as images,
        tempfile.TemporaryDirectory() as folder,
    ):
        for number, rows in enumerate(_files(images)):
            path = Path(folder) / f"part-{number:05d}.{format}"
            count = write(path, _told(rows, on_rows))
            files.append(_describe(path, count))
            store.put(prefix + path.name, path, content_type=_TYPES[format])
            path.unlink()
    store.put(f"{prefix}_SUCCESS", _success(batch, format, files), content_type="application/json")
    return files


def _files(rows: Iterator[dict[str, Any]]) -> Iterator[Iterator[dict[str, Any]]]:
    """The rows in portions of one file each; at least one, which may be empty."""
    first = next(rows, None)
    if first is None:
        yield iter(())
    while first is not None:
        yield chain([first], islice(rows, ROWS_PER_FILE - 1))
        first = next(rows, None)


def _told(rows: Iterator[dict[str, Any]], on_rows: Callable[[int], None]) -> Iterator[dict[str, Any]]:
    for row in rows:
        on_rows(1)
        yield row


def _clear(store: ObjectStore, prefix: str) -> None:
    store.delete(f"{prefix}_SUCCESS")
    for stored in list(store.list(f"{prefix}part-")):
        store.delete(stored.key)


def _describe(path: Path, rows: int) -> ExportedFile:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return ExportedFile(path.name, rows, path.stat().st_size, digest)


def _success(batch: BatchStatus, format: str, files: list[ExportedFile]) -> bytes:
    content = {
        "batch": batch.name,
        "format": format,
        "images": sum(file.rows for file in files),
        "counts": batch.counts,
        "rejected": batch.rejected,
        "files": [asdict(file) for file in files],
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return json.dumps(content, indent=2).encode()
