"""Export to WebDataset: tar archives of image, caption and row, with the rows as Parquet beside each.

The names are those of img2dataset, which other programs know: `00000.tar` and `00000.parquet`, samples of nine digits,
five for the shard and four for the image. Beside them is Energon's index of each archive.
"""

import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from jobs.states import ImageFormat
from jobs.storage.key_layout import SIDECAR
from scheduler.export.exporters import Exporter, RowFiles, Shard, WrittenFile, exporter
from scheduler.export.image_arrow_schema import SCHEMA
from scheduler.export.parquet.parquet_file import CONTENT_TYPE, CROISSANT_TYPE, ParquetFile
from scheduler.export.rows.captions import captions
from scheduler.export.rows.export_columns import ExportColumns, kept_of
from scheduler.export.rows.hugging_face import IMAGE
from scheduler.export.rows.json_rows import json_rows
from scheduler.export.rows.row_spool import RowSpool, spooled
from scheduler.export.tar.energon import write_energon_index
from scheduler.export.tar.ustar import TarWriter

ROW_GROUP = 10_000

BEYOND_INT64 = ("seed",)
"""Columns that are strings in a sample's JSON: `datasets` fails on the first number from 2**63 on."""

PLACES = pa.schema(
    [
        pa.field("sample_key", pa.string(), nullable=False),
        pa.field("tar_offset", pa.int64(), nullable=False),
        pa.field("json_bytes", pa.int64(), nullable=False),
        pa.field("txt_bytes", pa.int64(), nullable=False),
        pa.field("c2pa_bytes", pa.int64(), nullable=False),
    ]
)
"""Where a row's sample is in the archive: the name of its members, where it begins, and the size of its two texts.

And that of the C2PA manifest, 0 where there is none beside the image.
"""


_TEXTS = [pa.field(name, pa.string()) for name in ("txt", "__key__", "__url__")]


class _Place(NamedTuple):
    key: str
    offset: int
    json_bytes: int
    txt_bytes: int
    c2pa_bytes: int


@exporter("webdataset", shard_rows=10_000)
class WebDatasetExporter(Exporter):
    """Writes `NNNNN.tar`, `NNNNN.tar.idx` and `NNNNN.parquet`; nothing for a shard without images.

    A sample's members are sorted by name: its C2PA manifest, if there is one beside the image, a JPEG, the row's JSON,
    other images, and the caption, which is the row's `meta.caption` where that is a text, else its prompt.
    """

    def write(self, folder: Path, shard: Shard) -> Sequence[WrittenFile]:
        """Write the shard as three files."""
        name = f"{shard.number:05d}"
        with spooled(shard.images) as rows:
            if not rows.count:
                return []
            with (
                (folder / f"{name}.tar").open("wb") as tar,
                (folder / f"{name}.tar.idx").open("wb") as index,
                ParquetFile(folder / f"{name}.parquet", self._schema(), row_group=ROW_GROUP) as table,
            ):
                columns = ExportColumns(self.options, kept=self.columns)
                schema = pa.schema([*PLACES, *columns.schema])
                for batch, places in self._write(tar, index, _keyed(name, rows), shard):
                    firsts = [
                        pa.array(values, field.type)
                        for values, field in zip(zip(*places, strict=True), PLACES, strict=True)
                    ]
                    found = [*firsts, *columns.of(batch).columns]
                    part = pa.RecordBatch.from_arrays(found, schema=schema)
                    table.write(part.select(self._schema().names))
        return [
            WrittenFile(f"{name}.tar", "application/x-tar", rows.count),
            WrittenFile(f"{name}.tar.idx", "application/octet-stream"),
            WrittenFile(f"{name}.parquet", CONTENT_TYPE, unfit=columns.unfit.report),
        ]

    def write_index(
        self, folder: Path, files: Sequence[str], read: Callable[[str], bytes]
    ) -> Sequence[WrittenFile]:
        """Write Energon's `.nv-meta`."""
        return write_energon_index(folder, [name for name in files if name.endswith(".tar")], read)

    def row_files(self) -> RowFiles:
        """Return what describes the tables beside the archives."""
        return RowFiles("*.parquet", CROISSANT_TYPE, self._schema())

    def features(self, formats: Collection[str], *, has_sidecars: bool) -> pa.Schema:
        """Return the members of a sample: its row is JSON, whose keys may differ from sample to sample."""
        images = [pa.field(ImageFormat(format).extension, IMAGE) for format in sorted(formats)]
        has_members = has_sidecars and self._has_sidecars
        sidecars = [pa.field(SIDECAR, pa.binary())] if has_members else []
        return pa.schema([*sidecars, *images, pa.field("json", pa.json_()), *_TEXTS])

    def _schema(self) -> pa.Schema:
        schema = pa.schema([*PLACES, *ExportColumns(self.options, kept=self.columns).schema])
        return kept_of(schema, self.columns)

    @property
    def _has_sidecars(self) -> bool:
        """Whether manifests are members: tables without their size would tell wrong places of the others."""
        return "c2pa_bytes" in self._schema().names

    def _write(
        self,
        tar: BinaryIO,
        index: BinaryIO,
        keyed: Iterator[tuple[list[str], pa.RecordBatch]],
        shard: Shard,
    ) -> Iterator[tuple[pa.RecordBatch, list[_Place]]]:
        """Write samples in the rows' order and yield where they are; the index is the offset of each and of the end."""
        writer, names = TarWriter(tar), [name for name in SCHEMA.names if name in self._schema().names]
        for keys, batch in keyed:
            places = [
                _add(writer, *sample)
                for sample in zip(
                    keys,
                    batch.column("format").to_pylist(),
                    shard.files(batch),
                    shard.sidecars(batch) if self._has_sidecars else repeat(None, batch.num_rows),
                    json_rows(batch.select(names), as_text=BEYOND_INT64),
                    captions(batch),
                    strict=True,
                )
            ]
            index.write(struct.pack(f"<{len(places)}Q", *(place.offset for place in places)))
            yield batch, places
        index.write(struct.pack("<Q", writer.position))
        writer.finish()


def _add(
    writer: TarWriter, key: str, format: str, image: bytes, sidecar: bytes | None, row: bytes, caption: bytes
) -> _Place:
    offset, extension = writer.position, ImageFormat(format).extension
    members = {f"{key}.json": row, f"{key}.txt": caption, f"{key}.{extension}": image}
    if sidecar is not None:
        members[f"{key}.{SIDECAR}"] = sidecar
    for name in sorted(members):
        writer.add(name, members[name])
    return _Place(key, offset, len(row), len(caption), len(sidecar or b""))


def _keyed(shard: str, rows: RowSpool) -> Iterator[tuple[list[str], pa.RecordBatch]]:
    """Yield rows with their keys, whose last part has the digits that the shard's last image needs, at least four."""
    digits, first = max(4, len(str(rows.count - 1))), 0
    for batch in rows.batches():
        yield [f"{shard}{first + number:0{digits}d}" for number in range(batch.num_rows)], batch
        first += batch.num_rows
