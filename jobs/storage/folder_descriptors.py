"""Going down a folder by directory descriptors, so that no symbolic link is followed, not even one made meanwhile.

The folder itself may be reached through links: its path is the user's choice. Nothing below it is.
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
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO would wait for its writer


@dataclass(frozen=True)
class Entry:
    """A name in a directory; what is neither a folder nor a regular file is a link or something odder."""

    name: str
    is_folder: bool
    is_file: bool


def open_root(root: Path, *, create: bool = False) -> int:
    """The descriptor of a directory at this path, which is made if `create` says so."""
    try:
        return os.open(root, _DIRECTORY)
    except FileNotFoundError:
        if not create:
            raise
        root.mkdir(parents=True, exist_ok=True)
        return os.open(root, _DIRECTORY)


@contextmanager
def folder_below(root: int, names: Sequence[str], *, create: bool = False) -> Iterator[int]:
    """The descriptor of the directory that these names lead to; OSError (ELOOP) where one of them is a link.

    Takes `root` over: it is closed in any case.
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
    """The descriptor of one directory in another."""
    below = _enter(folder, name, create=False)
    try:
        yield below
    finally:
        os.close(below)


def open_file(folder: int, name: str) -> int:
    """The descriptor of a regular file, for reading; OSError where it is a link or no file."""
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
    """What there is by this name, a link as such."""
    return os.stat(name, dir_fd=folder, follow_symlinks=False)


def require_file(folder: int, name: str) -> None:
    """Raise OSError unless the name is a regular file."""
    mode = state_of(folder, name).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder", name)
    if not stat.S_ISREG(mode):
        raise OSError(errno.ELOOP, "is a symbolic link or no regular file", name)


def entries(folder: int) -> list[Entry]:
    """All names in a directory, in the order of the keys below them: ``a-1`` comes before ``a/1``."""
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
    ):  # by another thread or process, or it is a link, which the next line refuses
        os.mkdir(name, dir_fd=folder)
    return _enter(folder, name, create=False)


def _if_link(error: OSError, folder: int, name: str) -> OSError:
    """The same error, said plainly where a link is the reason; systems differ in how they say so."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
        try:
            if stat.S_ISLNK(state_of(folder, name).st_mode):
                return OSError(errno.ELOOP, "is a symbolic link, and none is followed below an output", name)
        except OSError:
            return error
    return error
