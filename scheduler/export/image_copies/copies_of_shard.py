"""The image files that a shard's rows name, of which the export's folder gets copies: each picture once."""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from jobs.exports.records import File
from jobs.states import ImageFormat
from jobs.storage.key_layout import copy_name

_COLUMNS = ("key", "sha256", "bytes", "format")


class CopiesOfShard:
    """Collects the files while a shard's rows are read; equal pictures, by their SHA-256, are one file."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, File]] = {}

    def noting(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the batches of image rows, having noted what files they name."""
        for batch in batches:
            rows = zip(copy_names(batch), *(batch.column(n).to_pylist() for n in _COLUMNS), strict=True)
            for name, key, sha256, size, format in rows:
                content_type = ImageFormat(format).media_type
                file = {
                    "name": name,
                    "content_type": content_type,
                    "rows": None,
                    "bytes": size,
                    "sha256": sha256,
                }
                self._found.setdefault(name, (key, file))
            yield batch

    @property
    def files(self) -> Sequence[File]:
        """The records of the copies, in the order of the rows."""
        return [file for _, file in self._found.values()]

    def sources(self) -> Sequence[tuple[str, File]]:
        """Return the key of an image with each copy's record."""
        return list(self._found.values())


def copy_names(batch: pa.RecordBatch) -> list[str]:
    """Return the names of the copies of image rows, relative to the export's folder."""
    digests, formats = (batch.column(name).to_pylist() for name in ("sha256", "format"))
    return [
        copy_name(sha256, ImageFormat(format).extension)
        for sha256, format in zip(digests, formats, strict=True)
    ]
