"""What the writer of a shard reads: image rows, while they arrive from the database, and image files."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from jobs.storage.base import ObjectStore
from jobs.storage.image_and_c2pa_sidecar_files import read_file
from jobs.storage.key_layout import sidecar_key
from scheduler.export.read_image_rows import parse

_CHUNK_BYTES = 1 << 18
_READERS = 8
_POLL_S = 0.005


def image_reader(open_images: Callable[[], ObjectStore]) -> Callable[[pa.RecordBatch], Iterator[bytes]]:
    """Return what reads the image files of rows from a store, which is opened for the first of them.

    The iterator raises DamagedObjectError for a file that differs from its row.
    """
    opened = cache(open_images)

    def files(rows: pa.RecordBatch) -> Iterator[bytes]:
        names = zip(*(rows.column(name).to_pylist() for name in ("key", "sha256")), strict=True)
        return _read(opened(), list(names))

    return files


def sidecar_reader(
    open_images: Callable[[], ObjectStore],
) -> Callable[[pa.RecordBatch], Iterator[bytes | None]]:
    """Return what reads the C2PA manifests beside the images of rows, None for those without; as `image_reader`."""
    opened = cache(open_images)

    def sidecars(rows: pa.RecordBatch) -> Iterator[bytes | None]:
        keys, digests = (rows.column(name).to_pylist() for name in ("key", "c2pa_sidecar_sha256"))
        there = [
            (sidecar_key(key), digest)
            for key, digest in zip(keys, digests, strict=True)
            if digest is not None
        ]
        bodies = _read(opened(), there) if there else iter(())
        return (None if digest is None else next(bodies) for digest in digests)

    return sidecars


def _read(store: ObjectStore, files: Sequence[tuple[str, str]]) -> Iterator[bytes]:
    """Yield the bytes of files that are given by their keys and digests."""
    with ThreadPoolExecutor(_READERS) as threads:
        for start in range(0, len(files), 4 * _READERS):  # few at a time: they are held in memory
            keys, digests = zip(*files[start : start + 4 * _READERS], strict=True)
            yield from threads.map(partial(read_file, store), keys, digests)


class CountedRows:
    """The image rows of a file of CSV that is being written, counted as they are read."""

    def __init__(self, path: Path, writing: Future[Any], on_rows: Callable[[int], None]) -> None:
        self.path, self.rows, self._writing, self._on_rows = path, 0, writing, on_rows

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        with self.path.open("rb") as file:
            for batch in parse(self._chunks(file)):
                yield batch
                self.rows += batch.num_rows
                self._on_rows(batch.num_rows)

    def _chunks(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield what is there, and wait for more until it is written; raises what the writing raises."""
        is_written = False
        while not is_written:
            is_written = self._writing.done()
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
            wait([self._writing], timeout=_POLL_S)
        self._writing.result()
