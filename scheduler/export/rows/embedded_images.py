"""Image files as a column beside the rows."""

import base64
from collections.abc import Callable, Iterator

import pyarrow as pa

from scheduler.export.export_options import ExportOptions

ROWS_AT_ONCE = 100
"""Whose images are in memory: 40 MB of PNG files of 512 x 512."""

Files = Callable[[pa.RecordBatch], Iterator[bytes]]


def with_images(
    rows: pa.RecordBatch, columns: pa.RecordBatch, files: Files
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch, list[bytes]]]:
    """Yield image rows, their columns in the export and their files, as many as may be in memory at once."""
    for first in range(0, rows.num_rows, ROWS_AT_ONCE):
        part = rows.slice(first, ROWS_AT_ONCE)
        yield part, columns.slice(first, ROWS_AT_ONCE), list(files(part))


def with_base64_images(
    options: ExportOptions, rows: pa.RecordBatch, columns: pa.RecordBatch, files: Files
) -> Iterator[pa.RecordBatch]:
    """Yield the columns, with the files in base64 as the last, `image`, if the options want that."""
    if not options.embed_images:
        yield columns
        return
    for _, part, contents in with_images(rows, columns, files):
        yield part.append_column(
            "image", pa.array(map(base64.b64encode, contents), pa.binary()).cast(pa.string())
        )
