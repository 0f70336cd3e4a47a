"""The pictures that `nightmill verify` was given: files, folders, and objects in S3, and manifests beside them."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from console.terminal.output import note, plural
from jobs.errors import NightmillError, StoreDeniedError, UsageError
from jobs.input_image_access import MAX_BYTES, PictureRefusedError, read_picture
from jobs.storage.key_layout import CONTACT_SHEET, SIDECAR
from jobs.storage.open import MissingObjectError, S3Options, open_store, read_object
from jobs.storage.recognise_own_c2pa_sidecars import MOST_SIDECAR_BYTES
from jobs.storage.safe_open import NotRegularError, open_regular

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Picture:
    """Where a picture is, and how it is read; reading raises PictureRefusedError.

    `read_sidecar` reads the manifest beside it: the file with its name and the extension `c2pa`; None if there is none.
    """

    location: str
    read: Callable[[], bytes]
    read_sidecar: Callable[[], bytes | None]


def pictures_in(given: Sequence[str], s3: S3Options) -> list[Picture]:
    """Return the pictures, those in folders by their names and without following links there; notes what is left out.

    Contact sheets and hidden folders are left out, and so are manifests beside pictures that are given.

    `s3://bucket/folder/` is a folder, and so is `s3://bucket/name` if it hasn't the name of a picture and there are
    objects below it. Raises UsageError if there are none.
    """
    found: list[Picture] = []
    left = 0
    for location in _without_sidecars(given):
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
    unreadable: list[OSError] = []
    for folder, folders, names in os.walk(path.absolute(), onerror=unreadable.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for inside in (Path(folder) / name for name in sorted(names) if not _is_sidecar(name)):
            yield _file(inside) if _is_picture(inside.name) and not inside.is_symlink() else None
    for error in unreadable:
        yield _unreadable(error)


def _unreadable(error: OSError) -> Picture:
    """Return a folder that can't be read as a picture that can't: what is in it may be no picture of ours."""

    def read() -> bytes:
        raise PictureRefusedError(f"{error.filename} can't be read: {error.strerror}")

    return Picture(str(error.filename), read, lambda: None)


def _of_s3(uri: str, s3: S3Options) -> Iterator[Picture | None]:
    if _is_picture(uri) or _is_sidecar(uri):
        yield _object(uri, s3)
        return
    may_be_object, folder = not uri.endswith("/"), uri.rstrip("/")
    for found in open_store(folder, s3).list(""):
        may_be_object = False
        *folders, name = found.key.split("/")
        if not _is_sidecar(name) and not any(each.startswith(".") for each in folders):
            yield _object(f"{folder}/{found.key}", s3) if _is_picture(name) else None
    if may_be_object:
        yield _object(uri, s3)


def _without_sidecars(given: Sequence[str]) -> list[str]:
    """Return what was given, without manifests beside pictures that were, as the shell writes them for `folder/*`."""
    stems = {location.rpartition(".")[0] for location in given if location.lower().endswith(SUFFIXES)}
    return [name for name in given if not (_is_sidecar(name) and name.rpartition(".")[0] in stems)]


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and name != CONTACT_SHEET


def _is_sidecar(name: str) -> bool:
    return name.endswith(f".{SIDECAR}")


def _file(path: Path) -> Picture:
    return Picture(str(path), partial(read_picture, str(path), ()), partial(_sidecar_of_file, path))


def _sidecar_of_file(path: Path) -> bytes | None:
    sidecar = path.with_suffix(f".{SIDECAR}")
    try:
        with os.fdopen(open_regular(sidecar, follow=False), "rb") as file:
            body = file.read(MOST_SIDECAR_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except NotRegularError as error:
        raise PictureRefusedError(f"{sidecar} {error.strerror}") from None
    except (OSError, ValueError) as error:
        raise PictureRefusedError(
            f"{sidecar} can't be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    if len(body) > MOST_SIDECAR_BYTES:
        raise PictureRefusedError(f"{sidecar} has more than {MOST_SIDECAR_BYTES:,} bytes")
    return body


def _object(uri: str, s3: S3Options) -> Picture:
    def read() -> bytes:
        try:
            return read_object(uri, MAX_BYTES, s3)
        except NightmillError as error:
            raise PictureRefusedError(str(error)) from None

    def read_sidecar() -> bytes | None:
        folder, _, name = uri.rpartition("/")
        sidecar = f"{folder}/{PurePosixPath(name).with_suffix(f'.{SIDECAR}')}"
        try:
            return read_object(sidecar, MOST_SIDECAR_BYTES, s3)
        except (
            MissingObjectError,
            StoreDeniedError,
        ):  # S3 denies what isn't there to who may not list the bucket
            return None
        except NightmillError as error:
            raise PictureRefusedError(str(error)) from None

    return Picture(uri, read, read_sidecar)
