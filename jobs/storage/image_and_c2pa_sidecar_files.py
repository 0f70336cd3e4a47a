"""The files of an image row: the image, and the C2PA manifest beside it if the row has one (its sidecar)."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from jobs.states import ImageFormat
from jobs.storage.base import DamagedObjectError, MissingObjectError, ObjectStore
from jobs.storage.key_layout import sidecar_key

SIDECAR_TYPE = "application/c2pa"
_REPAIR = "`nightmill check --repair` renders it again"


@dataclass(frozen=True)
class ImageFile:
    """An object that an image row names: its key, the SHA-256 that it should have, and its media type."""

    key: str
    sha256: str
    content_type: str


def image_files(key: str, sha256: str, format: str, sidecar_sha256: str | None) -> list[ImageFile]:
    """Return the files of an image by the columns of its row; `key` may be one in quarantine.

    They are to be stored in this order: whoever sees the image finds its sidecar, too.
    """
    image = ImageFile(key, sha256, ImageFormat(format).media_type)
    if sidecar_sha256 is None:
        return [image]
    return [ImageFile(sidecar_key(key), sidecar_sha256, SIDECAR_TYPE), image]


def files_of_row(row: Any) -> list[ImageFile]:
    """Return the files of a row with `key`, `sha256`, `format` and `c2pa_sidecar_sha256`."""
    return image_files(row.key, row.sha256, row.format, row.c2pa_sidecar_sha256)


def image_keys(key: str, sidecar_sha256: str | None) -> list[str]:
    """Return the keys of an image's files."""
    return [key] if sidecar_sha256 is None else [key, sidecar_key(key)]


def read_file(store: ObjectStore, key: str, digest: str) -> bytes:
    """Return a file's bytes. Raises BadObjectError if it is missing or has another SHA-256 than its row says."""
    try:
        body = store.get(key)
    except MissingObjectError as error:
        raise MissingObjectError(f"{error}: {_REPAIR}", is_blocked=error.is_blocked) from error
    if sha256(body).hexdigest() != digest:
        raise DamagedObjectError(f"{store.locate(key)} differs from its row: {_REPAIR}")
    return body


def read_files(store: ObjectStore, files: Sequence[ImageFile]) -> list[bytes]:
    """Return the bytes of an image's files; raises like `read_file` if one of them can't be used."""
    return [read_file(store, file.key, file.sha256) for file in files]


def put_files(store: ObjectStore, files: Sequence[ImageFile], bodies: Sequence[bytes]) -> None:
    """Store an image's files."""
    for file, body in zip(files, bodies, strict=True):
        store.put(file.key, body, content_type=file.content_type)
