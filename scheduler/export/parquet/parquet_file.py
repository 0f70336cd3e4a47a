"""How nightmill's Parquet files are written: zstd, checksums of pages, a page index, Bloom filters on ids."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CONTENT_TYPE = "application/vnd.apache.parquet"
CROISSANT_TYPE = "application/x-parquet"
"""The media type that Croissant's readers know."""
SCHEMA_VERSION = "1"
"""Of the columns, in the metadata of every file: columns may be added under it; it grows if one changes or goes."""

_WITH_BLOOM_FILTER = ("sha256", "row_id")


class ParquetFile:
    """A file that is written a row group at a time; its bytes depend on the rows, not on how they are handed over.

    `row_group` is the rows of each group but the last; `incompressible` are paths of columns that hold files. Close
    it, or use it as a context manager.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, *, row_group: int, incompressible: Collection[str] = ()
    ) -> None:
        self.rows = 0
        self._schema = schema.with_metadata(
            {**(schema.metadata or {}), "nightmill.schema_version": SCHEMA_VERSION}
        )
        self._row_group = row_group
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        others = [leaf for leaf in _leaves(schema) if leaf not in incompressible]
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression=dict.fromkeys(incompressible, "NONE") | dict.fromkeys(others, "ZSTD"),
            use_dictionary=others,
            write_statistics=others,
            write_page_index=True,
            write_page_checksum=True,
            bloom_filter_options={
                name: {"ndv": row_group} for name in _WITH_BLOOM_FILTER if name in schema.names
            },
        )

    def __enter__(self) -> "ParquetFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self.rows += batch.num_rows
        while batch.num_rows:
            head = batch.slice(0, self._row_group - self._waiting_rows)
            batch = batch.slice(head.num_rows)
            self._waiting.append(head)
            self._waiting_rows += head.num_rows
            if self._waiting_rows == self._row_group:
                self._flush()

    def close(self, metadata: Mapping[str, str] | None = None) -> None:
        """Write the end of the file, with `metadata` beside the schema's."""
        if not self._writer.is_open:
            return
        if self._waiting:
            self._flush()
        if metadata:
            self._writer.add_key_value_metadata(dict(metadata))
        self._writer.close()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema).combine_chunks()
        self._waiting, self._waiting_rows = [], 0
        self._writer.write_table(table, row_group_size=self._row_group)


def _leaves(schema: pa.Schema) -> Iterator[str]:
    for field in schema:
        if pa.types.is_struct(field.type):
            yield from (f"{field.name}.{inner.name}" for inner in field.type)
        else:
            yield field.name


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, row_group: int) -> int:
    """Write all rows to a file and return their number."""
    with ParquetFile(path, schema, row_group=row_group) as file:
        for batch in batches:
            file.write(batch)
    return file.rows
