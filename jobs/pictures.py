"""Where the pictures that rows start from may lie: asked when a manifest is read, and before one is opened."""

import os
import stat
from collections.abc import Sequence

MAX_BYTES = 64 << 20
ABSENT = "there is no file"


def is_allowed(location: str, roots: Sequence[str]) -> bool:
    """Whether a path or s3:// URI lies below one of `roots`, symbolic links followed; without roots all do."""
    if not roots:
        return True
    is_remote = location.startswith("s3://")
    place = location if is_remote else os.path.realpath(location)
    return any(
        _is_below(place, root if is_remote else os.path.realpath(root))
        for root in roots
        if root.startswith("s3://") == is_remote
    )


def file_problem(path: str) -> str | None:
    """Why a local file can't be a picture of ours, as far as that is known without opening it; None: it may."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a million rows may name a million files
    except (FileNotFoundError, NotADirectoryError):
        return f"{ABSENT} {path}"
    except (OSError, ValueError) as error:
        return f"can't look at {path}: {getattr(error, 'strerror', None) or error}"
    if not stat.S_ISREG(status.st_mode):
        return f"{path} is a folder" if stat.S_ISDIR(status.st_mode) else f"{path} is no regular file"
    if not status.st_size:
        return f"{path} is empty"
    if status.st_size > MAX_BYTES:
        return f"{path} has {status.st_size / 2**20:.0f} MiB; at most {MAX_BYTES >> 20} are read"
    return None if os.access(path, os.R_OK) else f"{path} may not be read; change its permissions"


def outside(location: str) -> str:
    """The reason for refusing a picture that is not allowed."""
    return f"{location} lies outside of the folders of NIGHTMILL_IMAGE_ROOTS"


def _is_below(place: str, root: str) -> bool:
    return place == root or place.startswith(root.rstrip("/") + "/")
