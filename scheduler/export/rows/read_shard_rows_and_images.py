"""What the writer of a shard reads: image rows, while they arrive from the database, and image files."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from jobs.storage.base import DamagedObjectError, ObjectStore
from scheduler.export.read_image_rows import parse

_CHUNK_BYTES = 1 << 18
_READERS = 8
_POLL_S = 0.005


def image_reader(open_images: Callable[[], ObjectStore]) -> Callable[[pa.RecordBatch], Iterator[bytes]]:
    """Return what reads the image files of rows from a store, which is opened for the first of them.

    The iterator raises DamagedObjectError for a file that differs from its row.
    """
    store: list[ObjectStore] = []

    def files(rows: pa.RecordBatch) -> Iterator[bytes]:
        if not store:
            store.append(open_images())
        keys, digests = (rows.column(name).to_pylist() for name in ("key", "sha256"))
        with ThreadPoolExecutor(_READERS) as threads:
            for start in range(0, len(keys), 4 * _READERS):  # few at a time: they are held in memory
                part = slice(start, start + 4 * _READERS)
                yield from threads.map(partial(read_image, store[0]), keys[part], digests[part])

    return files


def read_image(store: ObjectStore, key: str, sha256: str) -> bytes:
    """Return the bytes of an image file. Raises DamagedObjectError if they differ from the row."""
    body = store.get(key)
    if hashlib.sha256(body).hexdigest() != sha256:
        raise DamagedObjectError(f"{store.locate(key)} differs from its row")
    return body


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
