"""Export to Parquet: typed columns, also of what JSON columns hold, in row groups of 10,000."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from scheduler.export.exporters import Exporter, RowFiles, Shard, WrittenFile, exporter
from scheduler.export.parquet.hive_partitions import write_partitions
from scheduler.export.parquet.parquet_file import CONTENT_TYPE, CROISSANT_TYPE, ParquetFile
from scheduler.export.rows.export_columns import ExportColumns
from scheduler.export.rows.partition_columns import PartitionColumns
from scheduler.export.rows.prefetch_iterator import read_ahead

ROW_GROUP = 10_000


@exporter("parquet", shard_rows=100_000, index_prefix="_")
class ParquetExporter(Exporter):
    """Writes `part-NNNNN.parquet`; the first one also where it has no rows, so that readers find the columns.

    With partitions, a shard has a file `NNNNN.parquet` in the folder of each that its rows are in.
    The file's metadata has the version of the schema, and how many values of which column had no room in its type.
    """

    def write(self, folder: Path, shard: Shard) -> Sequence[WrittenFile]:
        """Write the shard as one file, or as one for each partition."""
        if self.options.partition_by:
            return write_partitions(folder, shard, self.options, ROW_GROUP, self.columns)
        columns = ExportColumns(self.options, kept=self.columns)
        path = folder / f"part-{shard.number:05d}.parquet"
        with ParquetFile(path, columns.schema, row_group=ROW_GROUP) as file:
            for batch in read_ahead(shard.images):
                file.write(columns.of(batch))
            file.close(columns.told())
        if not file.rows and shard.number:
            path.unlink()
            return []
        return [WrittenFile(path.name, CONTENT_TYPE, file.rows, columns.unfit.report)]

    def row_files(self) -> RowFiles:
        """Return what describes the files."""
        schema = ExportColumns(self.options, kept=self.columns).schema
        if self.options.partition_by:
            return RowFiles(
                "**/*.parquet", CROISSANT_TYPE, schema, list(PartitionColumns(self.options).schema)
            )
        return RowFiles("part-*.parquet", CROISSANT_TYPE, schema)

    def splits(self, files: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return the files, of partitions a pattern: there are as many as partitions and shards."""
        return {"train": ["*=*/**/*.parquet"] if self.options.partition_by else files}
