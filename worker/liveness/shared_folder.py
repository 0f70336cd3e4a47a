"""The folder that a worker's processes share, in the system's temporary folder; those of killed workers are removed.

Whose worker lives holds a lock on a file in it: a folder is stale where that lock can be had.
"""

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "nightmill-worker-"
LOCK = "lock"
_OURS = re.compile(r"\d+|rest-\d+|lock")


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A new folder, gone after the block."""
    remove_stale(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with (folder / "unlocked").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / "unlocked").rename(folder / LOCK)
            yield folder


def remove_stale(parent: Path) -> None:
    """Remove the folders of workers that were killed, as far as they are this user's and hold what workers write."""
    for folder in parent.glob(PREFIX + "*"):
        with suppress(OSError):  # somebody else's, or gone meanwhile
            if folder.lstat().st_uid == os.getuid() and not folder.is_symlink():
                _remove_if_stale(folder)


def _remove_if_stale(folder: Path) -> None:
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in list(folder.iterdir()):
            if _OURS.fullmatch(path.name):
                path.unlink()
        folder.rmdir()
    finally:
        os.close(lock)
