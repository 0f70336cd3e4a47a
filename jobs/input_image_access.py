"""Access checks for input images: which paths are allowed, at ingest and again before a file is read."""

import os
from collections.abc import Sequence

from jobs.errors import NightmillError
from jobs.storage.safe_open import NotRegularError, check_regular, is_below, open_regular, opened_path

MAX_BYTES = 64 << 20
ABSENT = "there is no file"


class PictureRefusedError(NightmillError):
    """A local file can't be used as an input image; the message is the reason."""


class PictureFolderGoneError(PictureRefusedError):
    """The input image's folder is missing or empty; its share is probably not mounted."""


def is_allowed(location: str, roots: Sequence[str]) -> bool:
    """Whether a path or s3:// URI lies below one of `roots`, symbolic links resolved; without roots, all are allowed.

    Paths that can't be resolved, because of permissions, a loop or a NUL character, are not allowed.
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
    """Return the bytes of the image file at `path`; all checks are made on the opened file.

    Raises PictureRefusedError with the reason if it can't be an input image or lies outside `roots`, caused by an
    OSError if it can't be read; PictureFolderGoneError if its folder is missing or empty.
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
    """Return why a local file can't be an input image, as far as known without opening it; None if it can."""
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
    """Return the message for an image that lies outside the allowed folders."""
    return f"{location} lies outside of the folders of NIGHTMILL_IMAGE_ROOTS"


def _is_in(uri: str, root: str) -> bool:
    return uri == root or uri.startswith(root.rstrip("/") + "/")


def _local(roots: Sequence[str]) -> list[str]:
    return [root for root in roots if not root.startswith("s3://")]
