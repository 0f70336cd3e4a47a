"""Write a file under a temporary name in an open folder, sync it to disk, read it back, and give it its name."""

import errno
import hashlib
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from jobs.storage import folder_descriptors

# Keys can't contain a tilde, so a temporary file can neither be listed nor be overwritten by an object.
_TEMPORARY = "~nightmill-"
IS_TEMPORARY = re.compile(_TEMPORARY + "[0-9a-f]{16}")
_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def temporary_name() -> str:
    """Return a new name for a temporary file."""
    return _TEMPORARY + secrets.token_hex(8)


def link_new(folder: int, temporary: str, name: str) -> bool:
    """Give a temporary file its name unless that exists; on file systems without hard links, check first."""
    try:
        os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        with suppress(FileNotFoundError):
            folder_descriptors.state_of(folder, name)
            return False
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    return True


def write_verified(folder: int, name: str, body: bytes | Path) -> bool:
    """Write bytes or a file's content to a new file and return whether it reads back the same."""
    return _copied(folder, name, body) if isinstance(body, Path) else _written(folder, name, body)


def _copied(folder: int, name: str, source: Path) -> bool:
    with os.fdopen(_new(folder, name), "r+b") as file:
        with source.open("rb") as given:
            shutil.copyfileobj(given, file, 1 << 20)
            given.seek(0)
            meant = hashlib.file_digest(given, "sha256").digest()
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        return hashlib.file_digest(file, "sha256").digest() == meant


def _written(folder: int, name: str, body: bytes) -> bool:
    """Write, sync and read back in as few calls as possible: each contends with the rendering thread for the GIL."""
    descriptor = _new(folder, name)
    try:
        left = memoryview(body)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
        return os.pread(descriptor, len(body) + 1, 0) == body
    finally:
        os.close(descriptor)


def _new(folder: int, name: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, 0o666, dir_fd=folder)
