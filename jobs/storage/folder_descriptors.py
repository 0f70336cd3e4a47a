"""Access to files below a folder by directory descriptors, so that no symbolic link is followed, without races.

The path of the folder itself may contain links, as the user chose it; links below it are never followed.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BELOW = _DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # opening a FIFO would block


@dataclass(frozen=True)
class Entry:
    """An entry of a directory; if it is neither a folder nor a regular file, it is a link or a special file."""

    name: str
    is_folder: bool
    is_file: bool


def open_root(root: Path, *, create: bool = False) -> int:
    """Open a directory and return its descriptor; `create` makes it if it doesn't exist."""
    try:
        return os.open(root, _DIRECTORY)
    except FileNotFoundError:
        if not create:
            raise
        root.mkdir(parents=True, exist_ok=True)
        return os.open(root, _DIRECTORY)


@contextmanager
def folder_below(root: int, names: Sequence[str], *, create: bool = False) -> Iterator[int]:
    """Open the directory at the path of these names below `root`; OSError (ELOOP) if one of them is a link.

    Takes ownership of `root`, which is closed in any case.
    """
    here = root
    try:
        for name in names:
            below = _enter(here, name, create=create)
            os.close(here)
            here = below
        yield here
    finally:
        os.close(here)


@contextmanager
def entered(folder: int, name: str) -> Iterator[int]:
    """Open a subdirectory of a directory."""
    below = _enter(folder, name, create=False)
    try:
        yield below
    finally:
        os.close(below)


def open_file(folder: int, name: str) -> int:
    """Open a regular file for reading and return its descriptor; OSError if it is a link or not a regular file."""
    try:
        file = os.open(name, _FILE, dir_fd=folder)
    except OSError as error:
        raise _if_link(error, folder, name) from None
    mode = os.fstat(file).st_mode
    if stat.S_ISREG(mode):
        return file
    os.close(file)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder", name)
    raise OSError(errno.EINVAL, "is no regular file", name)


def state_of(folder: int, name: str) -> os.stat_result:
    """Return the stat result of an entry, without following links."""
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def require_file(folder: int, name: str) -> None:
    """Raise OSError unless the name is a regular file."""
    mode = state_of(folder, name).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder", name)
    if not stat.S_ISREG(mode):
        raise OSError(errno.ELOOP, "is a symbolic link or no regular file", name)


def entries(folder: int) -> list[Entry]:
    """Return the entries of a directory in the order of the keys below them: ``a-1`` comes before ``a/1``."""
    with os.scandir(folder) as found:
        listed = [
            Entry(each.name, each.is_dir(follow_symlinks=False), each.is_file(follow_symlinks=False))
            for each in found
        ]
    return sorted(listed, key=lambda each: each.name + "/" * each.is_folder)


def _enter(folder: int, name: str, *, create: bool) -> int:
    try:
        return os.open(name, _BELOW, dir_fd=folder)
    except FileNotFoundError:
        if not create:
            raise
    except OSError as error:
        raise _if_link(error, folder, name) from None
    with suppress(
        FileExistsError
    ):  # created by another thread or process, or it is a link, which the next line refuses
        os.mkdir(name, dir_fd=folder)
    return _enter(folder, name, create=False)


def _if_link(error: OSError, folder: int, name: str) -> OSError:
    """Return a clearer error if a symbolic link is the reason, which systems report differently; else `error`."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
        try:
            if stat.S_ISLNK(state_of(folder, name).st_mode):
                return OSError(errno.ELOOP, "is a symbolic link, and none is followed below an output", name)
        except OSError:
            return error
    return error
