"""Open object stores by URI: a local folder or S3; also the clean-up of interrupted writes."""

from collections.abc import Callable, Collection
from datetime import timedelta
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from jobs.errors import ObjectStoreError, UsageError
from jobs.storage.base import MissingObjectError, ObjectStore, S3Options, StoredObject
from jobs.storage.folder import FolderStore
from jobs.storage.key_layout import batch_of
from jobs.storage.safe_open import Writable, why_no_folder

if TYPE_CHECKING:
    from jobs.storage.s3 import S3Store

_ANY_AGE = timedelta(days=-1)  # negative, to allow for clock skew of the store

__all__ = [
    "MissingObjectError",
    "ObjectStore",
    "ObjectStoreError",
    "S3Options",
    "StoredObject",
    "abort_stale_uploads",
    "abort_uploads_of",
    "check_writable",
    "fetch_to_file",
    "open_store",
    "read_object",
    "remove_empty_folders",
    "remove_temporaries",
]

PROBE = ".nightmill-probe-"


def open_store(uri: str, s3: S3Options) -> ObjectStore:
    """Return the store at a folder path, ``file:///path`` or ``s3://bucket/prefix``, without connecting yet.

    Raises UsageError for any other scheme and if the path is no folder, ObjectStoreError for invalid S3 options.
    """
    if uri.startswith("s3://"):
        bucket, prefix = _bucket_and_path(uri)
        return _s3_store(bucket, prefix.strip("/"), s3)
    folder = _folder(uri)
    if why := why_no_folder(folder):
        raise UsageError(why)
    return FolderStore(folder)


def check_writable(store: ObjectStore) -> None:
    """Check that the store is writable by writing a small object and deleting it; raises ObjectStoreError."""
    probe = PROBE + token_hex(8)
    if store.put_new(probe, b"nightmill", content_type="text/plain"):
        store.delete(probe)


def fetch_to_file(uri: str, file: Writable, s3: S3Options) -> None:
    """Stream an ``s3://bucket/key`` object into `file`; an exception of `file.write` stops the transfer.

    Raises MissingObjectError if there is no such object, UsageError if the URI has no key, ObjectStoreError if S3
    refuses.
    """
    bucket, key = _bucket_and_path(uri)
    if not key:
        raise UsageError(f"{uri} names a bucket and no object: write s3://bucket/path/to/file")
    _s3_store(bucket, "", s3).download(key, file)


def read_object(uri: str, limit: int, s3: S3Options) -> bytes:
    """Return the bytes of an ``s3://bucket/key`` object.

    Raises MissingObjectError if there is no such object, UsageError if the URI has no key or the object has more than
    `limit` bytes, ObjectStoreError if S3 refuses.
    """
    bucket, key = _bucket_and_path(uri)
    if not key:
        raise UsageError(f"{uri} names a bucket and no object: write s3://bucket/path/to/file")
    return _bucket(bucket, s3).read(key, limit)


def abort_stale_uploads(store: ObjectStore, is_ours: Callable[[str], bool], older_than: timedelta) -> int:
    """Abort multipart uploads to S3 older than `older_than`, of batches whose name `is_ours` accepts.

    Only keys that nightmill makes are affected, not the uploads of other programs. Returns the number aborted.
    """
    if isinstance(store, FolderStore):
        return 0
    from jobs.storage.s3 import S3Store  # noqa: PLC0415 - boto3 takes time that folder users shouldn't pay

    def is_our_key(key: str) -> bool:
        batch = batch_of(key)
        return batch is not None and is_ours(batch)

    return store.abort_uploads(older_than, is_our_key) if isinstance(store, S3Store) else 0


def abort_uploads_of(store: ObjectStore, keys: Collection[str]) -> int:
    """Abort all multipart uploads to S3 of these keys, which only the caller writes; returns the number aborted."""
    if isinstance(store, FolderStore) or not keys:
        return 0
    from jobs.storage.s3 import S3Store  # noqa: PLC0415 - as above

    return store.abort_uploads(_ANY_AGE, keys.__contains__) if isinstance(store, S3Store) else 0


def remove_temporaries(store: ObjectStore, batch: str, older_than: timedelta) -> int:
    """Delete temporary files of interrupted writes in a batch's folder (none in S3); returns the number deleted."""
    return store.remove_temporaries(older_than, batch) if isinstance(store, FolderStore) else 0


def lacks_folder(store: ObjectStore, folder: str) -> bool:
    """Whether the first object in this folder makes it; never in S3, which has no folders."""
    return isinstance(store, FolderStore) and not store.has_folder(folder)


def remove_empty_folders(store: ObjectStore, folder: str, is_ours: Callable[[str], bool]) -> None:
    """Remove a folder and those below it that are empty and whose path `is_ours` accepts; does nothing in S3."""
    if isinstance(store, FolderStore):
        store.remove_empty_folders(folder, is_ours)


def _s3_store(bucket: str, prefix: str, options: S3Options) -> "S3Store":
    # boto3 takes time that users of folders shouldn't pay
    from jobs.storage.s3 import S3Store  # noqa: PLC0415
    from jobs.storage.s3_connection import S3Connection  # noqa: PLC0415

    return S3Store(S3Connection(options), bucket, prefix)


@cache
def _bucket(bucket: str, options: S3Options) -> "S3Store":
    """Return a store of the whole bucket; cached, as creating a client takes longer than reading a small object."""
    return _s3_store(bucket, "", options)


def _bucket_and_path(uri: str) -> tuple[str, str]:
    bucket, _, path = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        raise UsageError(f"{uri!r} names no S3 bucket: write s3://bucket/path")
    return bucket, path


def _folder(uri: str) -> Path:
    if uri.startswith("file:"):
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise UsageError(f"{uri!r} is no local folder: write file:///path or the path itself")
        return Path(unquote(parts.path))
    if "://" in uri or not uri:
        raise UsageError(f"{uri!r} is no place for objects: use a folder, file:///path or s3://bucket/prefix")
    return Path(uri).expanduser().absolute()
