"""Export to Parquet: typed columns, zstd, row groups of 20,000; JSON columns as text."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from scheduler.export.exporters import Exporter, Shard, WrittenFile, exporter
from scheduler.export.image_schema import SCHEMA

ROW_GROUP = 20_000


@exporter("parquet", shard_rows=100_000)
class ParquetExporter(Exporter):
    """Writes `part-NNNNN.parquet`; the first one also where it has no rows, so that readers find the columns."""

    def write(self, folder: Path, shard: Shard) -> Sequence[WrittenFile]:
        """Write the shard as one file."""
        table = pa.Table.from_batches(shard.images, SCHEMA)
        if not table.num_rows and shard.number:
            return []
        name = f"part-{shard.number:05d}.parquet"
        pq.write_table(table, folder / name, compression="zstd", row_group_size=ROW_GROUP)
        return [WrittenFile(name, "application/vnd.apache.parquet", table.num_rows)]
