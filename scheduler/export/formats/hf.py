"""Export for the Hugging Face hub: Parquet with the images in it, or folders of images with their rows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from jobs.states import ImageFormat
from scheduler.export.exporters import Exporter, RowFiles, Shard, WrittenFile, exporter
from scheduler.export.parquet.parquet_file import CONTENT_TYPE, CROISSANT_TYPE, ParquetFile
from scheduler.export.rows.captions import captions
from scheduler.export.rows.embedded_images import with_images
from scheduler.export.rows.export_columns import ExportColumns
from scheduler.export.rows.hugging_face import IMAGE, with_features
from scheduler.export.rows.splits import DEFAULT, parts

ROW_GROUP = 100
"""The hub's viewer reads row groups of up to 286 MiB."""


@exporter("hf", shard_rows=1_000)
class HuggingFaceExporter(Exporter):
    """Writes `data/<split>-NNNNN-of-NNNNN.parquet`, with `image`, `text` (the caption) and the row's columns.

    In the layout `imagefolder`, `<split>/NNNNN/` has the images and `metadata.parquet`. A split without images
    in a shard has no files there.
    """

    def write(self, folder: Path, shard: Shard) -> Sequence[WrittenFile]:
        """Write the shard as a file or a folder for each split."""
        writer = _FolderWriter if self.options.layout == "imagefolder" else _ParquetWriter
        columns = ExportColumns(self.options)
        with ExitStack() as stack:
            files: dict[str, _Writer] = {}
            for part, split in self._parts(shard, columns):
                if split not in files:
                    files[split] = stack.enter_context(writer(folder, split, shard, columns.schema))
                files[split].add(*part)
        written = [file for name in sorted(files) for file in files[name].written()]
        return [*(replace(file, unfit=columns.unfit.report) for file in written[:1]), *written[1:]]

    def row_files(self) -> RowFiles:
        """Return what describes the files."""
        schema = ExportColumns(self.options).schema
        if self.options.layout == "imagefolder":
            return RowFiles("*/*/metadata.parquet", CROISSANT_TYPE, _folder_schema(schema))
        return RowFiles("data/*.parquet", CROISSANT_TYPE, _parquet_schema(schema))

    def splits(self, files: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return the files of each split, or in folders the pattern of them."""
        found: dict[str, list[str]] = {}
        for name in files:
            first, _, second = name.partition("/")
            if self.options.layout == "imagefolder":
                found[first] = [f"{first}/**"]
            elif first == "data":
                found.setdefault(second.partition("-")[0], []).append(name)
        order = [name for name, _ in self.options.split or DEFAULT]
        return {name: found[name] for name in order if name in found}

    def _parts(
        self, shard: Shard, columns: ExportColumns
    ) -> Iterator[tuple[tuple[pa.RecordBatch, pa.RecordBatch, Sequence[bytes]], str]]:
        """Yield image rows, their columns and files, and the split that they are in."""
        for batch in shard.images:
            for rows, named, contents in with_images(batch, columns.of(batch), shard.files):
                for split, numbers in parts(rows, self.options.split or DEFAULT).items():
                    chosen = [contents[number] for number in numbers.to_pylist()]
                    yield (rows.take(numbers), named.take(numbers), chosen), split


class _Writer:
    """Writes the part of a shard that is in one split."""

    def __init__(self, path: Path, name: str, schema: pa.Schema, incompressible: Sequence[str] = ()) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.name, self.schema = name, with_features(schema)
        self.file = ParquetFile(path, self.schema, row_group=ROW_GROUP, incompressible=incompressible)

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, rows: pa.RecordBatch, columns: pa.RecordBatch, contents: Sequence[bytes]) -> None:
        """Append image rows with their columns in the export and their files."""
        texts = pa.array(list(captions(rows)), pa.binary()).cast(pa.string())
        values = [self.first_column(rows, contents), texts, *columns.columns]
        fitting = [value.cast(field.type) for value, field in zip(values, self.schema, strict=True)]
        self.file.write(pa.RecordBatch.from_arrays(fitting, schema=self.schema))

    def first_column(self, rows: pa.RecordBatch, contents: Sequence[bytes]) -> pa.Array:
        """Return the column that leads to the image."""
        raise NotImplementedError

    def written(self) -> list[WrittenFile]:
        """Return the files."""
        return [WrittenFile(self.name, CONTENT_TYPE, self.file.rows)]


class _ParquetWriter(_Writer):
    def __init__(self, folder: Path, split: str, shard: Shard, schema: pa.Schema) -> None:
        name = f"data/{split}-{shard.number:05d}-of-{shard.count:05d}.parquet"
        super().__init__(folder / name, name, _parquet_schema(schema), ["image.bytes"])

    def first_column(self, rows: pa.RecordBatch, contents: Sequence[bytes]) -> pa.Array:
        names = pa.array(map(_file_name, rows.column("key").to_pylist()), pa.string())
        return pa.StructArray.from_arrays([pa.array(contents, pa.binary()), names], fields=list(IMAGE))


class _FolderWriter(_Writer):
    def __init__(self, folder: Path, split: str, shard: Shard, schema: pa.Schema) -> None:
        self.folder = folder / split / f"{shard.number:05d}"
        self.place = f"{split}/{shard.number:05d}"
        self.images: list[WrittenFile] = []
        path = self.folder / "metadata.parquet"
        super().__init__(path, f"{self.place}/{path.name}", _folder_schema(schema))

    def first_column(self, rows: pa.RecordBatch, contents: Sequence[bytes]) -> pa.Array:
        names = [_file_name(key) for key in rows.column("key").to_pylist()]
        for name, format, content in zip(names, rows.column("format").to_pylist(), contents, strict=True):
            (self.folder / name).write_bytes(content)
            self.images.append(WrittenFile(f"{self.place}/{name}", ImageFormat(format).media_type))
        return pa.array(names, pa.string())

    def written(self) -> list[WrittenFile]:
        return [*super().written(), *self.images]


def _parquet_schema(columns: pa.Schema) -> pa.Schema:
    return pa.schema([("image", IMAGE), ("text", pa.string()), *columns])


def _folder_schema(columns: pa.Schema) -> pa.Schema:
    return pa.schema([("file_name", pa.string()), ("text", pa.string()), *map(_storable, columns)])


def _storable(field: pa.Field) -> pa.Field:
    """Return a type that `datasets` can store of a folder's rows: numbers from 2**63 on fail, so seeds are text."""
    return field.with_type(pa.string()) if field.type == pa.uint64() else field


def _file_name(key: str) -> str:
    return key.rpartition("/")[2]
