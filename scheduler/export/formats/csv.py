"""Export to CSV, safe to open in a spreadsheet."""

from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from scheduler.export.exporters import Exporter, RowFiles, Shard, WrittenFile, exporter
from scheduler.export.rows.embedded_images import with_base64_columns, with_base64_images
from scheduler.export.rows.export_columns import ExportColumns, kept_of
from scheduler.export.rows.prefetch_iterator import read_ahead
from scheduler.export.rows.spreadsheet_formulas import FORMULA


@exporter("csv", shard_rows=100_000)
class CsvExporter(Exporter):
    """Writes `part-NNNNN.csv` in UTF-8, with a header; text is quoted, so that empty text differs from null.

    Text that a spreadsheet would take for a formula begins with a quote; numbers stay as they are.
    """

    def write(self, folder: Path, shard: Shard) -> Sequence[WrittenFile]:
        """Write the shard as one file; the first one also where it has no rows."""
        columns, schema = ExportColumns(self.options, kept=self.columns), self._schema()
        path, rows = folder / f"part-{shard.number:05d}.csv", 0
        with pyarrow.csv.CSVWriter(path, schema) as writer:
            for batch in read_ahead(shard.images):
                for part in with_base64_images(self.options, shard, batch, columns.of(batch)):
                    writer.write_batch(_harmless(part.select(schema.names)))
                rows += batch.num_rows
        if not rows and shard.number:
            path.unlink()
            return []
        return [WrittenFile(path.name, "text/csv", rows, columns.unfit.report)]

    def row_files(self) -> RowFiles:
        """Return what describes the files."""
        return RowFiles("part-*.csv", "text/csv", self._schema())

    def features(self, formats: Collection[str], *, has_sidecars: bool) -> pa.Schema:  # noqa: ARG002
        """Return the columns, whose types would be guessed from the first file."""
        return self._schema()

    def _schema(self) -> pa.Schema:
        rows = ExportColumns(self.options, kept=self.columns).schema
        return kept_of(with_base64_columns(self.options, rows), self.columns)


def _harmless(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [_quoted(column) if pa.types.is_string(column.type) else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _quoted(texts: pa.Array) -> pa.Array:
    is_formula = pc.match_substring_regex(texts, FORMULA)
    return pc.if_else(is_formula, pc.binary_join_element_wise("'", texts, ""), texts)
