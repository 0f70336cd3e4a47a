"""Writes a shard of image rows as a Hive-partitioned dataset: one Parquet file for each partition that it has."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from scheduler.export.export_options import ExportOptions
from scheduler.export.exporters import Shard, WrittenFile
from scheduler.export.image_arrow_schema import SCHEMA
from scheduler.export.parquet.parquet_file import CONTENT_TYPE, ParquetFile
from scheduler.export.rows.export_columns import ExportColumns
from scheduler.export.rows.partition_columns import PartitionColumns, require_few_partitions
from scheduler.export.rows.prefetch_iterator import read_ahead
from scheduler.export.rows.unfit_values import summed

Rows = dict[int, list[int]]
"""Rows of a partition: the numbers of record batches in the spool, and of rows in each."""


def write_partitions(
    folder: Path, shard: Shard, options: ExportOptions, row_group: int, kept: Sequence[str] = ()
) -> list[WrittenFile]:
    """Write `column=value/…/NNNNN.parquet` for each partition of the shard; of the first one at least one file.

    `kept` are the columns of the files; none: all that the options choose.
    Rows are spooled to the disk, so that only one file is open and one row group in memory, however many partitions
    there are. Raises UsageError for too many, or for a value that has no room in a folder's name.
    """
    columns = PartitionColumns(options)
    with tempfile.TemporaryDirectory() as temporary:
        spool = Path(temporary, "rows.arrow")
        found = _spool(spool, shard, columns, row_group)
        require_few_partitions(options, len(found), f"the images of shard {shard.number}")
        if not found and not shard.number:
            found[columns.nowhere()] = {}
        with pa.memory_map(str(spool)) as file, pa.ipc.open_file(file) as reader:
            written = [
                _write(
                    folder,
                    f"{name}/{shard.number:05d}.parquet",
                    _read(reader, found[name]),
                    ExportColumns(options, kept=kept),
                    row_group,
                )
                for name in sorted(found)
            ]
        return [
            *(replace(file, unfit=summed([columns.unfit, file.unfit or {}])) for file in written[:1]),
            *written[1:],
        ]


def _spool(path: Path, shard: Shard, columns: PartitionColumns, rows_at_once: int) -> dict[str, Rows]:
    """Write the shard's rows to a local file; returns which of them are in each partition."""
    found: dict[str, Rows] = {}
    with pa.ipc.new_file(path, SCHEMA) as writer:
        for number, batch in enumerate(_gathered(read_ahead(shard.images), rows_at_once)):
            for row, name in enumerate(columns.folders(batch)):
                found.setdefault(name, {}).setdefault(number, []).append(row)
            writer.write_batch(batch)
    return found


def _gathered(batches: Iterator[pa.RecordBatch], rows_at_once: int) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in fewer batches, as each costs time for each partition."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        waiting.append(batch)
        if sum(each.num_rows for each in waiting) >= rows_at_once:
            yield pa.concat_batches(waiting)
            waiting = []
    if waiting:
        yield pa.concat_batches(waiting)


def _read(reader: pa.RecordBatchFileReader, rows: Rows) -> Iterator[pa.RecordBatch]:
    for number, chosen in rows.items():
        yield reader.get_batch(number).take(pa.array(chosen, pa.int64()))


def _write(
    folder: Path, name: str, batches: Iterator[pa.RecordBatch], columns: ExportColumns, row_group: int
) -> WrittenFile:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with ParquetFile(path, columns.schema, row_group=row_group) as file:
        for batch in batches:
            file.write(columns.of(batch))
        file.close(columns.told())
    return WrittenFile(name, CONTENT_TYPE, file.rows, columns.unfit.report)
