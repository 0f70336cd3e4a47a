"""Export for the Hugging Face hub: Parquet with the images in it, or folders of images with their rows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from jobs.states import ImageFormat
from jobs.storage.image_and_c2pa_sidecar_files import SIDECAR_TYPE
from jobs.storage.key_layout import sidecar_key
from scheduler.export.exporters import Exporter, RowFiles, Shard, WrittenFile, exporter
from scheduler.export.parquet.parquet_file import CONTENT_TYPE, CROISSANT_TYPE, ParquetFile
from scheduler.export.rows.captions import captions
from scheduler.export.rows.embedded_images import MANIFEST, RowsWithImages, with_images
from scheduler.export.rows.export_columns import ExportColumns, kept_of
from scheduler.export.rows.hugging_face import IMAGE, with_features
from scheduler.export.rows.splits import DEFAULT, parts

ROW_GROUP = 100
"""The hub's viewer reads row groups of up to 286 MiB."""


@exporter("hf", shard_rows=1_000)
class HuggingFaceExporter(Exporter):
    """Writes `data/<split>-NNNNN-of-NNNNN.parquet`, with `image`, `text` (the caption), `c2pa_manifest` (of
    those that lie beside their images) and the row's columns.

    In the layout `imagefolder`, `<split>/NNNNN/` has the images, such manifests beside them, and `metadata.parquet`.
    A split without images in a shard has no files there.
    """

    def write(self, folder: Path, shard: Shard) -> Sequence[WrittenFile]:
        """Write the shard as a file or a folder for each split."""
        writer = _FolderWriter if self.options.layout == "imagefolder" else _ParquetWriter
        columns = ExportColumns(self.options, kept=self.columns)
        schema = self._schema(columns.schema)
        with ExitStack() as stack:
            files: dict[str, _Writer] = {}
            for part, split in self._parts(shard, columns):
                if split not in files:
                    files[split] = stack.enter_context(writer(folder, split, shard, schema))
                files[split].add(part)
        written = [file for name in sorted(files) for file in files[name].written()]
        return [*(replace(file, unfit=columns.unfit.report) for file in written[:1]), *written[1:]]

    def row_files(self) -> RowFiles:
        """Return what describes the files."""
        schema = self._schema(ExportColumns(self.options, kept=self.columns).schema)
        pattern = "*/*/metadata.parquet" if self.options.layout == "imagefolder" else "data/*.parquet"
        return RowFiles(pattern, CROISSANT_TYPE, schema)

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

    def _schema(self, columns: pa.Schema) -> pa.Schema:
        """Return those of the files, whose rows have `columns`."""
        full = _folder_schema if self.options.layout == "imagefolder" else _parquet_schema
        return kept_of(full(columns), self.columns)

    def _parts(self, shard: Shard, columns: ExportColumns) -> Iterator[tuple[RowsWithImages, str]]:
        """Yield image rows, their columns and files, and the split that they are in."""
        for batch in shard.images:
            for part in with_images(shard, batch, columns.of(batch)):
                for split, numbers in parts(part.rows, self.options.split or DEFAULT).items():
                    yield part.take(numbers), split


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

    def add(self, part: RowsWithImages) -> None:
        """Append image rows with their columns in the export and their files."""
        texts = pa.array(list(captions(part.rows)), pa.binary()).cast(pa.string())
        rows = dict(zip(part.columns.schema.names, part.columns.columns, strict=True))
        values = {**self.own_columns(part), "text": texts, **rows}
        fitting = [values[field.name].cast(field.type) for field in self.schema]
        self.file.write(pa.RecordBatch.from_arrays(fitting, schema=self.schema))

    def own_columns(self, part: RowsWithImages) -> dict[str, pa.Array]:
        """Return the columns by name that hold the images, or lead to them."""
        raise NotImplementedError

    def written(self) -> list[WrittenFile]:
        """Return the files."""
        return [WrittenFile(self.name, CONTENT_TYPE, self.file.rows)]


class _ParquetWriter(_Writer):
    def __init__(self, folder: Path, split: str, shard: Shard, schema: pa.Schema) -> None:
        name = f"data/{split}-{shard.number:05d}-of-{shard.count:05d}.parquet"
        super().__init__(folder / name, name, schema, ["image.bytes"])

    def own_columns(self, part: RowsWithImages) -> dict[str, pa.Array]:
        names = pa.array(map(_file_name, part.rows.column("key").to_pylist()), pa.string())
        images = pa.StructArray.from_arrays([pa.array(part.images, pa.binary()), names], fields=list(IMAGE))
        return {"image": images, MANIFEST.name: pa.array(part.manifests, MANIFEST.type)}


class _FolderWriter(_Writer):
    def __init__(self, folder: Path, split: str, shard: Shard, schema: pa.Schema) -> None:
        self.folder = folder / split / f"{shard.number:05d}"
        self.place = f"{split}/{shard.number:05d}"
        self.images: list[WrittenFile] = []
        path = self.folder / "metadata.parquet"
        super().__init__(path, f"{self.place}/{path.name}", schema)

    def own_columns(self, part: RowsWithImages) -> dict[str, pa.Array]:
        names = [_file_name(key) for key in part.rows.column("key").to_pylist()]
        formats = part.rows.column("format").to_pylist()
        for name, format, image, manifest in zip(names, formats, part.images, part.manifests, strict=True):
            self._write(name, image, ImageFormat(format).media_type)
            if manifest is not None:
                self._write(sidecar_key(name), manifest, SIDECAR_TYPE)
        return {"file_name": pa.array(names, pa.string())}

    def _write(self, name: str, content: bytes, content_type: str) -> None:
        (self.folder / name).write_bytes(content)
        self.images.append(WrittenFile(f"{self.place}/{name}", content_type))

    def written(self) -> list[WrittenFile]:
        return [*super().written(), *self.images]


def _parquet_schema(columns: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field("image", IMAGE), pa.field("text", pa.string()), MANIFEST, *columns])


def _folder_schema(columns: pa.Schema) -> pa.Schema:
    return pa.schema([("file_name", pa.string()), ("text", pa.string()), *map(_storable, columns)])


def _storable(field: pa.Field) -> pa.Field:
    """Return a type that `datasets` can store of a folder's rows: numbers from 2**63 on fail, so seeds are text."""
    return field.with_type(pa.string()) if field.type == pa.uint64() else field


def _file_name(key: str) -> str:
    return key.rpartition("/")[2]
