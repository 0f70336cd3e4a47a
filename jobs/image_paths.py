"""Where the pictures that rows start from may lie: asked when a manifest is read, and before one is opened."""

import os
from collections.abc import Sequence

from jobs.errors import NightmillError
from jobs.storage.local_files import NotRegularError, check_regular, is_below, open_regular, opened_path

MAX_BYTES = 64 << 20
ABSENT = "there is no file"


class PictureRefusedError(NightmillError):
    """A local file can't be a picture that a row starts from; the message is the reason."""


class PictureFolderGoneError(PictureRefusedError):
    """There is neither the picture nor anything else in its folder: a share isn't mounted, as it seems."""


def is_allowed(location: str, roots: Sequence[str]) -> bool:
    """Whether a path or s3:// URI lies below one of `roots`, symbolic links followed; without roots all do.

    One that can't be followed, by its permissions, a loop or a NUL character in it, doesn't.
    """
    if not roots:
        return True
    if location.startswith("s3://"):
        return any(_is_in(location, root) for root in roots if root.startswith("s3://"))
    try:
        return is_below(os.path.realpath(location), _local(roots))
    except (OSError, ValueError):
        return False


def read_picture(path: str, roots: Sequence[str]) -> bytes:
    """The bytes of the file at `path`: the one that was opened is the one that was looked at.

    Raises PictureRefusedError with the reason if it can't be a picture of ours or lies outside of `roots`, caused by an
    OSError if it can't be read; PictureFolderGoneError if its whole folder is missing or empty.
    """
    try:
        descriptor = open_regular(path)
    except NotRegularError as error:
        raise PictureRefusedError(f"{path} {error.strerror}") from None
    except (FileNotFoundError, NotADirectoryError):
        raise _absent(path) from None
    except (OSError, ValueError) as error:
        raise PictureRefusedError(
            f"{path} can't be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        if roots and not is_below(opened_path(descriptor), _local(roots)):
            raise PictureRefusedError(outside(path))
        if problem := _size_problem(path, os.fstat(descriptor).st_size):
            raise PictureRefusedError(problem)
        try:
            return file.read(MAX_BYTES)
        except OSError as error:
            raise PictureRefusedError(f"{path} can't be read: {error.strerror}") from error


def file_problem(path: str) -> str | None:
    """Why a local file can't be a picture of ours, as far as that is known without opening it; None: it may."""
    try:
        status = os.stat(path)  # noqa: PTH116 - a million rows may name a million files
    except (FileNotFoundError, NotADirectoryError):
        return f"{ABSENT} {path}"
    except (OSError, ValueError) as error:
        return f"can't look at {path}: {getattr(error, 'strerror', None) or error}"
    try:
        check_regular(status, path)
    except NotRegularError as error:
        return f"{path} {error.strerror}"
    if problem := _size_problem(path, status.st_size):
        return problem
    return None if os.access(path, os.R_OK) else f"{path} may not be read; change its permissions"


def _absent(path: str) -> PictureRefusedError:
    folder = os.path.dirname(path)  # noqa: PTH120
    try:
        with os.scandir(folder) as entries:
            if next(entries, None) is not None:
                return PictureRefusedError(f"{ABSENT} {path}")
    except OSError:
        pass
    return PictureFolderGoneError(
        f"{ABSENT} {path}, nor any in its folder: is the share mounted on this host?"
    )


def _size_problem(path: str, size: int) -> str | None:
    if not size:
        return f"{path} is empty"
    return (
        f"{path} has {size / 2**20:.0f} MiB; at most {MAX_BYTES >> 20} are read" if size > MAX_BYTES else None
    )


def outside(location: str) -> str:
    """The reason for refusing a picture that is not allowed."""
    return f"{location} lies outside of the folders of NIGHTMILL_IMAGE_ROOTS"


def _is_in(uri: str, root: str) -> bool:
    return uri == root or uri.startswith(root.rstrip("/") + "/")


def _local(roots: Sequence[str]) -> list[str]:
    return [root for root in roots if not root.startswith("s3://")]
