"""Image files as a column beside the rows."""

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from scheduler.export.export_options import ExportOptions

ROWS_AT_ONCE = 100
"""Whose images are in memory: 40 MB of PNG files of 512 x 512."""

MANIFEST = pa.field("c2pa_manifest", pa.binary())
"""The column of C2PA manifests that lie beside the images; null for those without."""

_BASE64 = (pa.field("image", pa.string()), MANIFEST.with_type(pa.string()))


class _Shard(Protocol):
    """What is read of a shard here (`scheduler.export.exporters.Shard`)."""

    @property
    def files(self) -> Callable[[pa.RecordBatch], Iterator[bytes]]:
        """Reads image files of rows."""

    @property
    def sidecars(self) -> Callable[[pa.RecordBatch], Iterator[bytes | None]]:
        """Reads the manifests beside them."""


@dataclass(frozen=True)
class RowsWithImages:
    """Image rows, their columns in the export, their files, and the C2PA manifests beside those."""

    rows: pa.RecordBatch
    columns: pa.RecordBatch
    images: Sequence[bytes]
    manifests: Sequence[bytes | None]

    def take(self, numbers: pa.Array) -> "RowsWithImages":
        """Return the rows with these numbers."""
        chosen = numbers.to_pylist()
        return RowsWithImages(
            self.rows.take(numbers),
            self.columns.take(numbers),
            [self.images[number] for number in chosen],
            [self.manifests[number] for number in chosen],
        )


def with_images(shard: _Shard, rows: pa.RecordBatch, columns: pa.RecordBatch) -> Iterator[RowsWithImages]:
    """Yield image rows of a shard and their columns in the export with their files, as many as fit in memory."""
    for first in range(0, rows.num_rows, ROWS_AT_ONCE):
        part = rows.slice(first, ROWS_AT_ONCE)
        files = list(shard.files(part)), list(shard.sidecars(part))
        yield RowsWithImages(part, columns.slice(first, ROWS_AT_ONCE), *files)


def with_base64_images(
    options: ExportOptions, shard: _Shard, rows: pa.RecordBatch, columns: pa.RecordBatch
) -> Iterator[pa.RecordBatch]:
    """Yield the columns, with the files and their manifests in base64 as the last ones, if the options want that."""
    if not options.embed_images:
        yield columns
        return
    for part in with_images(shard, rows, columns):
        files = map(_base64, (part.images, part.manifests))
        schema = with_base64_columns(options, columns.schema)
        yield pa.RecordBatch.from_arrays([*part.columns.columns, *files], schema=schema)


def with_base64_columns(options: ExportOptions, schema: pa.Schema) -> pa.Schema:
    """Return the schema of what `with_base64_images` yields."""
    return pa.schema([*schema, *_BASE64]) if options.embed_images else schema


def _base64(files: Sequence[bytes | None]) -> pa.Array:
    texts = (None if file is None else base64.b64encode(file) for file in files)
    return pa.array(texts, pa.binary()).cast(pa.string())
