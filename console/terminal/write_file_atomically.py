"""Files that commands write where the user says."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from jobs.errors import UsageError


@contextmanager
def complete_file(out: Path) -> Iterator[BinaryIO]:
    """Open a file to be written, which takes its name only when the block has ended well and it is on the disk.

    A file that has the name is replaced then. Raises UsageError if there can be no file of this name.
    """
    if not out.parent.is_dir() or (
        out.exists() and not out.is_file()
    ):  # /dev/null would be replaced by a file
        raise UsageError(f"--out {out}: must be a file in a folder that exists")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
        _sync_folder(out.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
