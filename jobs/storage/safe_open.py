"""Safe opening of local files named by users: regular files only, optionally only below given folders."""

import fcntl
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

MANIFEST_LIMIT = 2**36
"""Default limit, in bytes, of the unpacked size of a compressed, piped or fetched manifest."""

_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
    (stat.S_ISLNK, "is a link"),
)


def why_no_folder(path: Path) -> str | None:
    """Return why there can't be a folder at an absolute path (it or a parent is no folder); None if there can."""
    for place in (path, *path.parents):
        try:
            mode = place.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None
        if stat.S_ISDIR(mode):
            return None
        kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "is a file")
        return f"{place} {kind}, not a folder"
    return None


class NotRegularError(OSError):
    """The path is a folder, pipe, socket or device; `strerror` says which."""


class Writable(Protocol):
    """An object with a `write` method for bytes."""

    def write(self, data: bytes, /) -> int:
        """Append `data`."""


def open_regular(path: str | os.PathLike[str], *, follow: bool = True) -> int:
    """Open the regular file at `path` for reading, never blocking; returns its descriptor.

    Raises NotRegularError if it isn't a regular file, which a link is unless it is to be followed; OSError if it can't
    be opened, ValueError for a NUL character.
    """
    # Opening a device may already do something.
    check_regular(os.stat(path, follow_symlinks=follow), path)  # noqa: PTH116
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    try:
        check_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def check_regular(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    """Raise NotRegularError unless `status` is that of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        kind = next((text for is_kind, text in _KINDS if is_kind(status.st_mode)), "is no regular file")
        raise NotRegularError(0, kind, os.fspath(path))


def opened_path(descriptor: int) -> str:
    """Return the path of the opened file, links resolved, as it was opened even if the path was changed since."""
    if hasattr(fcntl, "F_GETPATH"):  # macOS
        return os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def is_below(place: str, folders: Sequence[str]) -> bool:
    """Whether the absolute path `place`, with links already resolved, is one of `folders` or lies below one."""
    return any(place == folder or place.startswith(folder.rstrip("/") + "/") for folder in _resolved(folders))


def _resolved(folders: Sequence[str]) -> list[str]:
    return [os.path.realpath(folder) for folder in folders]
