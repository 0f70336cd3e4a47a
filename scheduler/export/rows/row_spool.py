"""A shard's rows in a temporary file: counted before the first is written, and read more than once."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa

from scheduler.export.image_arrow_schema import SCHEMA


@dataclass(frozen=True)
class RowSpool:
    """Image rows on the disk; `count` of them."""

    file: BinaryIO
    count: int

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows from the first on."""
        self.file.seek(0)
        with pa.ipc.open_stream(self.file) as reader:
            yield from reader


@contextmanager
def spooled(images: Iterator[pa.RecordBatch]) -> Iterator[RowSpool]:
    """Store the rows for the duration of the block."""
    with tempfile.TemporaryFile() as file:
        count = 0
        with pa.ipc.new_stream(file, SCHEMA, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            for batch in images:
                writer.write_batch(batch)
                count += batch.num_rows
        yield RowSpool(file, count)
