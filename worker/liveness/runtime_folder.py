"""The folder shared by a worker's processes, in the system's temporary folder; those of killed workers are removed.

A live worker holds a lock on a file in its folder: a folder is stale if that lock can be acquired.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

PREFIX = "nightmill-worker-"
LOCK = "lock"
_OURS = re.compile(r"\d+|rest-\d+|lock|counts")


@contextmanager
def shared_folder() -> Iterator[Path]:
    """Create a new folder and remove it after the block."""
    remove_stale(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / "unlocked").open("wb") as lock:
            lock_descriptor(lock.fileno())
            (folder / "unlocked").rename(folder / LOCK)
            yield folder


def remove_stale(parent: Path) -> None:
    """Remove the folders of killed workers, if they belong to this user and hold only files that workers write."""
    for folder in parent.glob(PREFIX + "*"):
        with suppress(OSError):  # another user's, or removed meanwhile
            if folder.lstat().st_uid == os.getuid() and not folder.is_symlink():
                _remove_if_stale(folder)


def _remove_if_stale(folder: Path) -> None:
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not lock_descriptor(lock, blocking=False):
            return  # its worker lives
        for path in list(folder.iterdir()):
            if _OURS.fullmatch(path.name):
                path.unlink()
        folder.rmdir()
    finally:
        os.close(lock)
