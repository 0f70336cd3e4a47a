"""Export to a dataset of Lance, with the images in it: each shard is a fragment, which one commit adds or replaces."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from scheduler.export.exporters import Exporter, RowFiles, Shard, WrittenFile, exporter
from scheduler.export.rows.captions import captions
from scheduler.export.rows.embedded_images import MANIFEST, with_images
from scheduler.export.rows.export_columns import ExportColumns
from scheduler.export.tables.column_names_without_dots import without_dots
from scheduler.export.tables.export_table import TablePlace, name_data_file

if TYPE_CHECKING:
    from scheduler.export.tables.lance_table import LanceTable

ROWS_AT_ONCE = 100
CONTENT_TYPE = "application/vnd.lance"


@exporter("lance", shard_rows=1_000, extra="lance")
class LanceExporter(Exporter):
    """Writes `data/NNNNN-<first 12 of SHA-256>.lance`, with `image`, `text` (the caption), `c2pa_manifest`
    (of those that lie beside their images) and the row's columns.

    A shard without images has no file.
    """

    keeps_columns = False

    def write(self, folder: Path, shard: Shard) -> Sequence[WrittenFile]:
        """Write the shard as one file."""
        from scheduler.export.tables.lance_table import FILE_VERSION, LanceFileWriter  # noqa: PLC0415 - of an extra

        columns, path, rows = ExportColumns(self.options), folder / "writing.lance", 0
        with LanceFileWriter(str(path), self._schema(), version="{}.{}".format(*FILE_VERSION)) as file:
            for batch in _in_equal_parts(self._parts(shard, columns)):
                rows += batch.num_rows
                file.write_batch(batch)
        if not rows:
            path.unlink()
            return []
        name = name_data_file(path, shard.number)
        return [WrittenFile(name, CONTENT_TYPE, rows, columns.unfit.report)]

    def table(self, place: TablePlace) -> "LanceTable":
        """Return the dataset, which lies in the export's folder."""
        from scheduler.export.tables.lance_table import LanceTable  # noqa: PLC0415 - imports lance

        return LanceTable(place, self._schema())

    def row_files(self) -> RowFiles | None:
        """Return None: Croissant and data contracts know no Lance."""
        return None

    def _parts(self, shard: Shard, columns: ExportColumns) -> Iterator[pa.RecordBatch]:
        schema = self._schema()
        for batch in shard.images:
            for part in with_images(shard, batch, columns.of(batch)):
                texts = pa.array(list(captions(part.rows)), pa.binary()).cast(pa.string())
                images = pa.array(part.images, pa.large_binary())
                manifests = pa.array(part.manifests, MANIFEST.type)
                values = [images, texts, manifests, *part.columns.columns]
                yield pa.RecordBatch.from_arrays(values, schema=schema)

    def _schema(self) -> pa.Schema:
        own = [pa.field("image", pa.large_binary()), pa.field("text", pa.string()), MANIFEST]
        return pa.schema([*own, *without_dots(ExportColumns(self.options).schema)])


def _in_equal_parts(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the same rows a hundred at a time: a file's bytes follow from how they are handed over."""
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        while batch.num_rows:
            head = batch.slice(0, ROWS_AT_ONCE - sum(each.num_rows for each in waiting))
            batch = batch.slice(head.num_rows)  # noqa: PLW2901
            waiting.append(head)
            if sum(each.num_rows for each in waiting) == ROWS_AT_ONCE:
                yield pa.concat_batches(waiting)
                waiting = []
    if waiting:
        yield pa.concat_batches(waiting)
