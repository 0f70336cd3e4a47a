"""Batches with real pictures, shards of them as exporters get them, and whole exports with their index."""

import hashlib
import io
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.batches.actions import BatchStatus
from jobs.queue import transitions
from jobs.storage.key_layout import sidecar_key
from jobs.storage.open import S3Options, open_store
from models.catalogue.catalogue import Catalogue
from scheduler.export.dataset_metadata.dataset import Dataset
from scheduler.export.dataset_metadata.write_dataset_metadata import write_index
from scheduler.export.export_options import ExportOptions
from scheduler.export.exporters import Shard, WrittenFile, exporter_of
from scheduler.export.read_image_rows import read_image_rows
from scheduler.export.rows.read_shard_rows_and_images import sidecar_reader
from tests.factories import image, lanes_of, make_batch, take

SIZE = 24
EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp"}


def picture(number: int, format: str = "png") -> bytes:
    """A small picture that differs from all others."""
    pixels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def with_pictures(
    engine: Engine,
    output: Path,
    rows: int | Sequence[Mapping[str, Any]],
    format: str = "png",
    changes: Mapping[str, Any] = {},
    sidecars: Collection[int] = (),
    **options: Any,
) -> BatchStatus:
    """A batch whose jobs are all done, and whose images lie in the output; those of some rows with a manifest."""
    store = open_store(str(output), S3Options())
    batch = make_batch(engine, rows, output=str(output), **options)
    for lane in lanes_of(engine, batch):
        while jobs := take(engine, lane):
            made = []
            for job in jobs:
                content = picture(job.id, format)
                digest = hashlib.sha256(content).hexdigest()
                key = f"{batch.name}/images/{job.ordinal:09d}-{job.index}.{digest[:12]}.{EXTENSIONS[format]}"
                store.put(key, content, content_type=f"image/{format}")
                about = {"key": key, "sha256": digest, "bytes": len(content), "format": format}
                if job.ordinal in sidecars:
                    store.put(sidecar_key(key), manifest_of(job.ordinal), content_type="application/c2pa")
                    about["c2pa_sidecar_sha256"] = hashlib.sha256(manifest_of(job.ordinal)).hexdigest()
                made.append(image(job, **about, width=SIZE, height=SIZE, **changes))
            transitions.complete(engine, made)
    return actions.status(engine, batch.name)


def manifest_of(ordinal: int) -> bytes:
    """Stands for the C2PA manifest beside the image of a row."""
    return f"manifest of {ordinal}".encode()


def shard_of(
    engine: Engine, batch: BatchStatus, number: int = 0, rows: int | None = None, count: int = 1
) -> Iterator[Shard]:
    """A shard of so many rows of the manifest, or the whole batch; a generator of one, to close its snapshot."""
    store = open_store(batch.output, S3Options())

    def files(batch: pa.RecordBatch) -> Iterator[bytes]:
        yield from map(store.get, batch.column("key").to_pylist())

    first, end = (0, 2**62) if rows is None else (number * rows, (number + 1) * rows)
    with engine.connect() as connection:
        yield Shard(
            number,
            count,
            read_image_rows(connection, batch.id, first, end),
            files,
            sidecar_reader(lambda: store),
        )


def write(
    engine: Engine,
    batch: BatchStatus,
    format: str,
    folder: Path,
    rows: int | None = None,
    **options: Any,
) -> list[WrittenFile]:
    """Export the batch in shards of so many rows, or as one, to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 1 if rows is None else -(-batch.rows // rows)
    exporter = exporter_of(format)(ExportOptions(**options))
    return [
        file
        for number in range(count)
        for shard in shard_of(engine, batch, number, rows, count)
        for file in exporter.write(folder, shard)
    ]


def with_index(
    engine: Engine,
    batches: Sequence[BatchStatus],
    format: str,
    folder: Path,
    rows: int | None = None,
    **options: Any,
) -> Dataset:
    """Export one batch as `write` does, or several as one shard each, with the index of the whole."""
    folder.mkdir(parents=True, exist_ok=True)
    exporter = exporter_of(format)(ExportOptions(**options))
    if len(batches) == 1:
        written = write(engine, batches[0], format, folder, rows, **options)
    else:
        written = [
            file
            for number, batch in enumerate(batches)
            for shard in shard_of(engine, batch, number, count=len(batches))
            for file in exporter.write(folder, shard)
        ]
    stores = {batch.id: open_store(batch.output, S3Options()) for batch in batches}
    dataset = Dataset(
        name="-".join(batch.name for batch in batches),
        batches=batches,
        exporter=exporter,
        files=[_described(folder, file) for file in written],
        read=lambda name: (folder / name).read_bytes(),
        images=lambda batch, found: map(stores[batch].get, found.column("key").to_pylist()),
    )
    with tempfile.TemporaryDirectory() as temporary:
        for file in write_index(engine, Catalogue.load(folder), dataset, Path(temporary)):
            target = folder / file.name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(Path(temporary, file.name), target)
    return dataset


def _described(folder: Path, file: WrittenFile) -> dict[str, Any]:
    content = (folder / file.name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return asdict(file) | {"bytes": len(content), "sha256": digest}
