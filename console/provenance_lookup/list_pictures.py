"""The pictures that `nightmill verify` was given: files, folders, and objects in S3."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from console.terminal.output import note, plural
from jobs.errors import NightmillError, UsageError
from jobs.input_image_access import MAX_BYTES, PictureRefusedError, read_picture
from jobs.storage.key_layout import CONTACT_SHEET
from jobs.storage.open import S3Options, open_store, read_object

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Picture:
    """Where a picture is, and how it is read; reading raises PictureRefusedError."""

    location: str
    read: Callable[[], bytes]


def pictures_in(given: Sequence[str], s3: S3Options) -> list[Picture]:
    """Return the pictures, those in folders by their names and without following links there; notes what is left out.

    Contact sheets and hidden folders are left out.

    `s3://bucket/folder/` is a folder, `s3://bucket/name` an object. Raises UsageError if there are none.
    """
    found: list[Picture] = []
    left = 0
    for location in given:
        for picture in _of_s3(location, s3) if location.startswith("s3://") else _of_path(Path(location)):
            if picture is None:
                left += 1
            else:
                found.append(picture)
    if left:
        what = f"links, contact sheets, and names without {', '.join(SUFFIXES)}"
        note(f"{plural(left, 'file')} in folders not looked at: {what}")
    if not found:
        raise UsageError(f"no {', '.join(SUFFIXES)} in {', '.join(given)}")
    return found


def _of_path(path: Path) -> Iterator[Picture | None]:
    """Yield the picture, or those in the folder; None for what is left out."""
    if not path.is_dir():
        yield _file(path.absolute())
        return
    for folder, folders, names in os.walk(path.absolute()):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for inside in (Path(folder) / name for name in sorted(names)):
            yield _file(inside) if _is_picture(inside.name) and not inside.is_symlink() else None


def _of_s3(uri: str, s3: S3Options) -> Iterator[Picture | None]:
    if not uri.endswith("/"):
        yield _object(uri, s3)
        return
    for found in open_store(uri.rstrip("/"), s3).list(""):
        yield _object(uri + found.key, s3) if _is_picture(found.key.rpartition("/")[2]) else None


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and name != CONTACT_SHEET


def _file(path: Path) -> Picture:
    return Picture(str(path), partial(read_picture, str(path), ()))


def _object(uri: str, s3: S3Options) -> Picture:
    def read() -> bytes:
        try:
            return read_object(uri, MAX_BYTES, s3)
        except NightmillError as error:
            raise PictureRefusedError(str(error)) from None

    return Picture(uri, read)
