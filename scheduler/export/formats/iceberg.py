"""Export to a table of Apache Iceberg: each shard is a Parquet file, which one commit adds or replaces."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from scheduler.export.exporters import Exporter, RowFiles, Shard, WrittenFile, exporter
from scheduler.export.formats.parquet import ROW_GROUP
from scheduler.export.parquet.parquet_file import CONTENT_TYPE, CROISSANT_TYPE, ParquetFile
from scheduler.export.rows.export_columns import ExportColumns
from scheduler.export.rows.prefetch_iterator import read_ahead
from scheduler.export.tables.export_table import TablePlace, name_data_file
from scheduler.export.tables.iceberg_schema import storable, stored

if TYPE_CHECKING:
    from scheduler.export.tables.iceberg_table import IcebergTable


@exporter("iceberg", shard_rows=100_000, extra="iceberg")
class IcebergExporter(Exporter):
    """Writes `data/NNNNN-<first 12 of SHA-256>.parquet`, as the format Parquet does, for a table in a catalog.

    A shard without rows has no file.
    """

    keeps_columns = False

    def write(self, folder: Path, shard: Shard) -> Sequence[WrittenFile]:
        """Write the shard as one file."""
        columns, schema = ExportColumns(self.options), self._schema()
        path = folder / "writing.parquet"
        with ParquetFile(path, schema, row_group=ROW_GROUP) as file:
            for batch in read_ahead(shard.images):
                file.write(stored(columns.of(batch), schema))
            file.close(columns.told())
        if not file.rows:
            path.unlink()
            return []
        name = name_data_file(path, shard.number)
        return [WrittenFile(name, CONTENT_TYPE, file.rows, columns.unfit.report)]

    def row_files(self) -> RowFiles:
        """Return what describes the files."""
        return RowFiles("data/*.parquet", CROISSANT_TYPE, self._schema())

    def table(self, place: TablePlace) -> "IcebergTable":
        """Return the table, in nightmill's own catalog or the user's."""
        from scheduler.export.tables.iceberg_table import IcebergTable  # noqa: PLC0415 - imports pyiceberg

        return IcebergTable(place, self.options, self._schema())

    def _schema(self) -> pa.Schema:
        return storable(ExportColumns(self.options).schema)
