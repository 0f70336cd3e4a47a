"""The object store interface: the ObjectStore protocol, valid keys, options and errors."""

import re
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from jobs.errors import ObjectStoreError, StoreDeniedError, StoreUnavailableError
from jobs.storage.hive_folder_names import FOLDERS

_KEY = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_PARTITIONED = re.compile(rf"([A-Za-z0-9._-]+/export/)?{FOLDERS}[A-Za-z0-9._-]+")
"""Files of partitioned exports, in a folder of their own or beside a batch's images."""

_PREFIX = re.compile(r"([A-Za-z0-9._-]+/)*[A-Za-z0-9._-]*")


class BadObjectError(ObjectStoreError):
    """The object is missing or damaged.

    `is_blocked`: something else occupies the key, so that nothing can be stored there until it is removed.
    """

    def __init__(self, message: str, *, is_blocked: bool = False) -> None:
        super().__init__(message)
        self.is_blocked = is_blocked


class MissingObjectError(BadObjectError):
    """No object has this key."""


class DamagedObjectError(BadObjectError):
    """The object's bytes differ from those that were stored."""


class InvalidKeyError(ObjectStoreError, ValueError):
    """The key isn't valid in any store."""


@dataclass(frozen=True)
class StoredObject:
    """One object of a listing: its key below the store's URI, size in bytes, modification time (UTC)."""

    key: str
    bytes: int
    modified: datetime


@dataclass(frozen=True)
class S3Options:
    """Connection options of S3 or a compatible store; times in seconds. Credentials come from boto3's own chain."""

    endpoint_url: str | None = None
    region: str | None = None
    connect_timeout: float = 5.0
    read_timeout: float = 60.0
    max_attempts: int = 5
    max_pool_connections: int = 16


class ObjectStore(Protocol):
    """A store for finished files; instances are thread-safe.

    A key is segments of ``A-Z a-z 0-9 . _ -`` joined by ``/``: the same in every store and on every file system, in no
    need of quoting, and never hidden by an encoding. Files of partitioned exports alone may lie in folders
    ``column=value`` (`jobs.storage.hive_folder_names`). Any other key raises InvalidKeyError. Every method raises
    ObjectStoreError if the store can't be reached or refuses; the message says what to do.
    """

    @property
    def uri(self) -> str:
        """The store's location: a folder's absolute path, or ``s3://bucket/prefix``."""

    def put(self, key: str, body: bytes | Path, *, content_type: str) -> None:
        """Store the bytes, or the file's content, atomically; size and digest are verified before this returns."""

    def put_new(self, key: str, body: bytes, *, content_type: str) -> bool:
        """Store the bytes unless the object exists; returns False, leaving the object unchanged, if it does."""

    def get(self, key: str) -> bytes:
        """Return the object's bytes; raise MissingObjectError when there is none."""

    def digest(self, key: str) -> str:
        """Return the SHA-256 of the object's bytes, read in chunks; raise MissingObjectError when there is none."""

    def delete(self, key: str) -> None:
        """Remove the object; does nothing if it doesn't exist."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects whose keys begin with these characters, sorted by key; ``""`` yields all."""

    def names(self, folder: str, on_closed: "OnClosed | None" = None) -> Iterator[str]:
        """Yield all names below a folder (``""`` or ``a/b``) in display form, also those that aren't valid keys.

        A folder below it that can't be read is left out if `on_closed` is there to be told of it.
        """

    def locate(self, key: str) -> str:
        """Return the full path or ``s3://`` URI of the key, for messages and exports."""


OnClosed = Callable[[str, ObjectStoreError], object]
"""Called with the path, in display form, of a folder that can't be read, and why."""


def digest_if_there(store: ObjectStore, key: str) -> str | None:
    """Return the SHA-256 of an object's bytes; None if there is no such object."""
    try:
        return store.digest(key)
    except MissingObjectError:
        return None


@contextmanager
def note_unreadable(reasons: MutableMapping[str, str], name: str) -> Iterator[None]:
    """Note under a name why the block couldn't read an object; raises what is of the store as a whole."""
    try:
        yield
    except (StoreUnavailableError, StoreDeniedError):
        raise
    except ObjectStoreError as error:
        reasons[name] = str(error)


def is_key(key: str) -> bool:
    """Whether the key is valid."""
    is_known = _KEY.fullmatch(key) or _PARTITIONED.fullmatch(key)
    return is_known is not None and not _climbs(key)


def may_hold_keys(folder: str) -> bool:
    """Whether a folder of this path can have objects with valid keys."""
    return is_key(f"{folder}/x") or is_key(f"{folder}/x=x/x")


def checked_key(key: str) -> str:
    """Return the key; raise InvalidKeyError if it isn't valid."""
    if not is_key(key):
        raise InvalidKeyError(f"{key!r} is no object key: use segments of A-Z a-z 0-9 . _ - joined by '/'")
    return key


def checked_prefix(prefix: str) -> str:
    """Return the prefix of a listing; raise ValueError if no valid key can begin with it."""
    if _PREFIX.fullmatch(prefix) is None or _climbs(prefix):
        raise ValueError(f"{prefix!r} is no beginning of an object key")
    return prefix


def _climbs(path: str) -> bool:
    return not {".", ".."}.isdisjoint(path.split("/"))
