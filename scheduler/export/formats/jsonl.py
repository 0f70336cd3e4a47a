"""Export to JSON lines, with nested values."""

from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa

from scheduler.export.exporters import Exporter, RowFiles, Shard, WrittenFile, exporter
from scheduler.export.image_arrow_schema import JSON_COLUMNS, SCHEMA
from scheduler.export.rows.embedded_images import with_base64_columns, with_base64_images
from scheduler.export.rows.export_columns import ExportColumns, kept_of
from scheduler.export.rows.json_rows import json_rows
from scheduler.export.rows.prefetch_iterator import read_ahead

COLUMNS = (*SCHEMA.names, "path", "nsfw_content_detected")
"""What a line has if the options don't say: keys of JSON columns are in the column itself."""


@exporter("jsonl", shard_rows=100_000)
class JsonLinesExporter(Exporter):
    """Writes `part-NNNNN.jsonl`."""

    def write(self, folder: Path, shard: Shard) -> Sequence[WrittenFile]:
        """Write the shard as one file; the first one also where it has no rows."""
        columns, names = ExportColumns(self.options, COLUMNS, kept=self.columns), self._schema().names
        path, rows = folder / f"part-{shard.number:05d}.jsonl", 0
        with path.open("wb") as stream:
            for batch in read_ahead(shard.images):
                for part in with_base64_images(self.options, shard, batch, columns.of(batch)):
                    stream.writelines(row + b"\n" for row in json_rows(part.select(names)))
                rows += batch.num_rows
        if not rows and shard.number:
            path.unlink()
            return []
        return [WrittenFile(path.name, "application/x-ndjson", rows, columns.unfit.report)]

    def row_files(self) -> RowFiles:
        """Return what describes the files."""
        return RowFiles("part-*.jsonl", "application/jsonlines", self._schema())

    def features(self, formats: Collection[str], *, has_sidecars: bool) -> pa.Schema:  # noqa: ARG002
        """Return the columns: what is nested may have other keys in each row, and Arrow reads large seeds as floats."""
        seed = pa.field("seed", pa.float64())
        return pa.schema([seed if field.name == "seed" else field for field in self._schema()])

    def _schema(self) -> pa.Schema:
        known = ExportColumns(self.options, COLUMNS, kept=self.columns).schema
        nested = [field.with_type(pa.json_()) if field.name in JSON_COLUMNS else field for field in known]
        return kept_of(with_base64_columns(self.options, pa.schema(nested)), self.columns)
