"""Log files that only their owner can read, and that don't grow without end."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from filelock import lock_descriptor

MAX_BYTES = 10 * 2**20
"""A log of this size becomes the older log, of which one is kept."""


def open_log(path: Path) -> BinaryIO:
    """Open a log for appending, with file and folder private to the owner: logs contain host names and paths."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.parent.stat().st_uid == os.geteuid():
        path.parent.chmod(0o700)
    return _private(path, os.O_APPEND, "ab")


def older(path: Path) -> Path:
    """Return the path of the older log."""
    return path.with_name(f"{path.name}.1")


def rotate_in_place(path: Path) -> bool:
    """If a log is full, copy it to the older log and empty it; returns whether that was done. Never raises OSError.

    For logs that running processes write to: they have the file open for appending, and go on at its new end. What is
    written between the last read of the copy and the emptying is lost. A symbolic link is left alone.
    """
    with suppress(OSError):
        if path.stat(follow_symlinks=False).st_size < MAX_BYTES:
            return False
        number = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(number, "r+b") as log:
            if not lock_descriptor(number, blocking=False) or os.fstat(number).st_size < MAX_BYTES:
                return False  # another process has done it, or is about to
            with _private(older(path), os.O_TRUNC, "wb") as copy:
                shutil.copyfileobj(log, copy, 2**20)
            os.ftruncate(number, 0)
        return True
    return False


def _private(path: Path, flags: int, mode: str) -> BinaryIO:
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | flags, 0o600)
    if os.fstat(number).st_uid == os.geteuid():
        os.fchmod(number, 0o600)
    return os.fdopen(number, mode)  # type: ignore[return-value]
