"""Spool streams into unnamed temporary files, which vanish even if the process is killed."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from jobs.errors import ManifestError
from jobs.storage.safe_open import Writable


@contextmanager
def spooled(fill: Callable[[Writable], object], label: str, limit: int) -> Iterator[Path]:
    """Yield the path of a temporary file written by `fill`, valid inside the block.

    Raises ManifestError for more than `limit` bytes or half of the free disk space, and if the disk is full.
    """
    with tempfile.TemporaryFile(prefix="nightmill-") as file:
        try:
            fill(_Limited(file, label, limit))
            file.flush()
        except OSError as error:
            raise ManifestError(
                f"{label}: can't be read or kept in {tempfile.gettempdir()} ({error.strerror or error})."
            ) from error
        yield Path(f"/dev/fd/{file.fileno()}")


class _Limited:
    """Writes to a file up to a limit; ManifestError beyond it."""

    def __init__(self, file: IO[bytes], label: str, limit: int) -> None:
        self._file = file
        self._label = label
        disk = os.fstatvfs(file.fileno())
        half = disk.f_bavail * disk.f_frsize // 2
        self._left = min(limit, half)
        self._problem = (
            exceeds(limit)
            if limit <= half
            else (
                f"is over {_size(half)}, half of what is free in {tempfile.gettempdir()}; set TMPDIR to a larger disk"
            )
        )

    def write(self, data: bytes, /) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise ManifestError(f"{self._label}: {self._problem}.")
        return self._file.write(data)


def exceeds(limit: int) -> str:
    """Return the message for a manifest of more than `limit` bytes."""
    return f"has over {_size(limit)} when unpacked; split it, or raise NIGHTMILL_MANIFEST_LIMIT"


def _size(count: int) -> str:
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >> power:
            return f"{count / 2**power:.4g} {unit}"
    return f"{count:,} bytes"
