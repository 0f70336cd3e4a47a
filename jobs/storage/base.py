"""What an object store is: four verbs, the keys it takes, and the errors it raises."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from jobs.errors import ObjectStoreError

_KEY = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_PREFIX = re.compile(r"([A-Za-z0-9._-]+/)*[A-Za-z0-9._-]*")


class BadObjectError(ObjectStoreError):
    """A key doesn't lead to the bytes that were stored.

    `is_blocked`: nor can any be stored there before something else is removed that has its place.
    """

    def __init__(self, message: str, *, is_blocked: bool = False) -> None:
        super().__init__(message)
        self.is_blocked = is_blocked


class MissingObjectError(BadObjectError):
    """No object has this key."""


class DamagedObjectError(BadObjectError):
    """The object's bytes aren't those that were stored."""


class InvalidKeyError(ObjectStoreError, ValueError):
    """No store takes this key."""


@dataclass(frozen=True)
class StoredObject:
    """One object of a listing: its key below the store's URI, size in bytes, time of writing (UTC)."""

    key: str
    bytes: int
    modified: datetime


@dataclass(frozen=True)
class S3Options:
    """How to reach S3 or a store like it; times in seconds. Credentials come from boto3's own chain."""

    endpoint_url: str | None = None
    region: str | None = None
    connect_timeout: float = 5.0
    read_timeout: float = 60.0
    max_attempts: int = 5
    max_pool_connections: int = 16


class ObjectStore(Protocol):
    """A place for finished files; one instance may be used by many threads.

    A key is segments of ``A-Z a-z 0-9 . _ -`` joined by ``/``; any other raises InvalidKeyError.
    Every verb raises ObjectStoreError with what to do when the store can't be reached or refuses.
    """

    @property
    def uri(self) -> str:
        """The place as the user would write it: a folder's absolute path, or ``s3://bucket/prefix``."""

    def put(self, key: str, body: bytes | Path, *, content_type: str) -> None:
        """Store the bytes, or the file's content, whole: size and digest are verified before this returns."""

    def put_new(self, key: str, body: bytes, *, content_type: str) -> bool:
        """Store the bytes where there is no such object yet; False where there is one, which stays as it is."""

    def get(self, key: str) -> bytes:
        """Return the object's bytes; raise MissingObjectError when there is none."""

    def digest(self, key: str) -> str:
        """Return the SHA-256 of the object's bytes, read a piece at a time; MissingObjectError when there is none."""

    def delete(self, key: str) -> None:
        """Remove the object; one that isn't there is fine."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects whose keys begin with these characters, sorted by key; ``""`` yields all."""

    def names(self, folder: str) -> Iterator[str]:
        """Yield what lies below a folder (``""`` or ``a/b``) for people to read, also what is no key of ours."""

    def locate(self, key: str) -> str:
        """Return the full path or ``s3://`` URI of the key, for people and exports."""


def is_key(key: str) -> bool:
    """Whether a store takes this key."""
    return _KEY.fullmatch(key) is not None and not _climbs(key)


def checked_key(key: str) -> str:
    """Return the key; raise InvalidKeyError when no store takes it."""
    if not is_key(key):
        raise InvalidKeyError(f"{key!r} is no object key: use segments of A-Z a-z 0-9 . _ - joined by '/'")
    return key


def checked_prefix(prefix: str) -> str:
    """Return the prefix of a listing; raise ValueError when no key could begin with it."""
    if _PREFIX.fullmatch(prefix) is None or _climbs(prefix):
        raise ValueError(f"{prefix!r} is no beginning of an object key")
    return prefix


def _climbs(path: str) -> bool:
    return not {".", ".."}.isdisjoint(path.split("/"))
