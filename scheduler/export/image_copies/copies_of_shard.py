"""The image files that a shard's rows name, of which the export's folder gets copies: each picture once.

Manifests that lie beside them are copied as well, and lie beside the copies.
"""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from jobs.exports.records import File
from jobs.states import ImageFormat
from jobs.storage.image_and_c2pa_sidecar_files import ImageFile, image_files
from jobs.storage.key_layout import copy_name, sidecar_key

_COLUMNS = ("key", "sha256", "format", "c2pa_sidecar_sha256")


class CopiesOfShard:
    """Collects the files while a shard's rows are read; equal pictures with the same manifest are one file."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, File]] = {}

    def noting(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the batches of image rows, having noted what files they name."""
        for batch in batches:
            sizes = batch.column("bytes").to_pylist()
            rows = zip(*(batch.column(name).to_pylist() for name in _COLUMNS), strict=True)
            for name, size, row in zip(copy_names(batch), sizes, rows, strict=True):
                *sidecars, image = image_files(*row)
                for sidecar in sidecars:
                    self._note(sidecar_key(name), sidecar, None)
                self._note(name, image, size)
            yield batch

    def measured_before(self, files: Iterable[File]) -> None:
        """Set the sizes of sidecars that are among these files, which the shard had when it was written before."""
        for file in files:
            _, own = self._found.get(file["name"], ("", None))
            if own is not None and own["bytes"] is None and own["sha256"] == file["sha256"]:
                self.measured(file["name"], file["bytes"])

    def measured(self, name: str, size: int) -> None:
        """Set the size of a sidecar, which rows don't tell."""
        key, file = self._found[name]
        self._found[name] = (key, {**file, "bytes": size})

    @property
    def files(self) -> Sequence[File]:
        """The records of the copies, in the order of the rows."""
        return [file for _, file in self._found.values()]

    def sources(self) -> Sequence[tuple[str, File]]:
        """Return the key of the file that each copy is made from, with the copy's record."""
        return list(self._found.values())

    def _note(self, name: str, file: ImageFile, size: int | None) -> None:
        record = {
            "name": name,
            "content_type": file.content_type,
            "rows": None,
            "bytes": size,
            "sha256": file.sha256,
        }
        self._found.setdefault(name, (file.key, record))


def copy_names(batch: pa.RecordBatch) -> list[str]:
    """Return the names of the copies of image rows, relative to the export's folder."""
    columns = (batch.column(name).to_pylist() for name in ("sha256", "format", "c2pa_sidecar_sha256"))
    return [
        copy_name(sha256, ImageFormat(format).extension, sidecar)
        for sha256, format, sidecar in zip(*columns, strict=True)
    ]
