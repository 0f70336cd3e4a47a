"""An object store in a local folder: each object is a file, written to a temporary name and renamed."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from io import BufferedReader
from pathlib import Path

from jobs.errors import ObjectStoreError, OutputGoneError
from jobs.storage import folder_descriptors, folder_walk
from jobs.storage.base import (
    DamagedObjectError,
    MissingObjectError,
    OnClosed,
    StoredObject,
    checked_key,
    checked_prefix,
)
from jobs.storage.durable_write import link_new, temporary_name, write_verified
from jobs.storage.folder_walk import ABSENT

MARKER = ".nightmill-output.json"
"""The file that marks an output folder; it is missing if the folder is an empty mount point."""


@dataclass(frozen=True)
class FolderStore:
    """An ObjectStore in a local folder, created by the first write. Symbolic links below it are not followed."""

    root: Path
    is_marked: bool = False
    """Whether every method first checks that the folder has its marker."""

    @property
    def uri(self) -> str:
        """The folder's absolute path."""
        return str(self.root)

    def has_marker(self) -> bool:
        """Whether the folder exists and has its marker."""
        with _explained(f"read {self.root}"), self._opened("") as here:
            return here is not None and _has_marker(here)

    def marked(self) -> "FolderStore":
        """Return a store of the same folder whose methods raise OutputGoneError while the marker is missing."""
        return replace(self, is_marked=True)

    def put(self, key: str, body: bytes | Path, *, content_type: str) -> None:  # noqa: ARG002
        """Write a temporary file, sync it to disk, read it back, and rename it."""
        target = self.root / checked_key(key)
        temporary = temporary_name()
        with _explained(f"write {target}"), self._folder_of(key, create=True) as (folder, name):
            try:
                if not write_verified(folder, temporary, body):
                    raise ObjectStoreError(
                        f"{target} reads back differently from what was written: check the disk"
                    )
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
                raise
            os.fsync(folder)

    def put_new(self, key: str, body: bytes, *, content_type: str) -> bool:  # noqa: ARG002
        """Write a file unless the name exists; returns False, with nothing changed, if it does."""
        target = self.root / checked_key(key)
        temporary = temporary_name()
        with _explained(f"write {target}"), self._folder_of(key, create=True) as (folder, name):
            try:
                if not write_verified(folder, temporary, body):
                    raise ObjectStoreError(
                        f"{target} reads back differently from what was written: check the disk"
                    )
                is_new = link_new(folder, temporary, name)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
            os.fsync(folder)
        return is_new

    def get(self, key: str) -> bytes:
        """Return the file's bytes; raise MissingObjectError when there is none, DamagedObjectError for a link."""
        with self._read(key) as file:
            return file.read()

    def digest(self, key: str) -> str:
        """Return the SHA-256 of the file's bytes; raise MissingObjectError when there is none."""
        with self._read(key) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def delete(self, key: str) -> None:
        """Remove the file; does nothing if it doesn't exist. Raises ObjectStoreError for a symbolic link."""
        path = self.root / checked_key(key)
        with _explained(f"delete {path}"), suppress(*ABSENT), self._folder_of(key) as (folder, name):
            folder_descriptors.require_file(folder, name)
            os.unlink(name, dir_fd=folder)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the files whose keys begin with these characters, sorted by key, reading one folder at a time.

        Files deleted meanwhile are left out, and so are symbolic links.
        """
        folder, _, name = checked_prefix(prefix).rpartition("/")
        with _explained(f"list {self.root / folder}"), self._opened(folder) as here:
            if here is not None:
                yield from folder_walk.objects(here, f"{folder}/" if folder else "", name)

    def locate(self, key: str) -> str:
        """Return the file's absolute path."""
        return str(self.root / checked_key(key))

    def names(self, folder: str, on_closed: OnClosed | None = None) -> Iterator[str]:
        """Yield all names below a folder (``""`` or ``a/b``) in display form.

        Links are listed but not followed, those to folders with a slash at the end; temporary files are left out. A
        folder below it that can't be read is left out if `on_closed` is there to be told of it.
        """

        def tell(path: str, error: OSError) -> None:
            if on_closed is None:
                raise error
            try:
                with _explained(f"list {self.root / path}"):
                    raise error
            except ObjectStoreError as explained:
                on_closed(path, explained)

        with _explained(f"list {self.root / folder}"), self._opened(folder) as here:
            if here is not None:
                yield from folder_walk.names(here, f"{folder}/" if folder else "", tell)

    def has_folder(self, folder: str) -> bool:
        """Whether there is such a folder, not reached by a symbolic link."""
        with _explained(f"read {self.root / folder}"), self._opened(checked_key(folder)) as here:
            return here is not None

    def remove_temporaries(self, older_than: timedelta, folder: str = "") -> int:
        """Delete temporary files of interrupted writes below a folder; returns the number deleted."""
        limit = datetime.now(UTC) - older_than
        with _explained(f"clean up {self.root / folder}"), self._opened(folder) as here:
            return 0 if here is None else sum(folder_walk.remove_temporaries(here, limit))

    def remove_empty_folders(self, folder: str, is_ours: Callable[[str], bool]) -> None:
        """Remove this folder and those below it that are empty and whose path `is_ours` accepts."""
        *above, name = checked_key(folder).split("/")
        with _explained(f"remove {self.root / folder}"), self._opened("/".join(above)) as here:
            if here is not None:
                folder_walk.remove_empty(here, name, folder, is_ours)

    def _root(self, *, create: bool) -> int:
        try:
            root = folder_descriptors.open_root(self.root, create=create and not self.is_marked)
        except FileNotFoundError:
            if self.is_marked:
                raise OutputGoneError(_gone(self.root, "is not there")) from None
            raise
        if self.is_marked and not _has_marker(root):
            is_empty = not folder_descriptors.entries(root)
            os.close(root)
            raise OutputGoneError(_gone(self.root, "is empty" if is_empty else f"has no {MARKER}"))
        return root

    @contextmanager
    def _read(self, key: str) -> Iterator[BufferedReader]:
        path = self.root / checked_key(key)
        with _explained(f"read {path}"):
            try:
                root = self._root(create=False)
            except ABSENT:
                raise MissingObjectError(f"{path} does not exist") from None
            with os.fdopen(_descriptor(root, key, path), "rb") as file:
                yield file

    @contextmanager
    def _folder_of(self, key: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        *above, name = key.split("/")
        with folder_descriptors.folder_below(self._root(create=create), above, create=create) as folder:
            yield folder, name

    @contextmanager
    def _opened(self, folder: str) -> Iterator[int | None]:
        """Open the folder's descriptor; None if the folder doesn't exist or its path has a symbolic link."""
        try:
            opened = folder_descriptors.folder_below(
                self._root(create=False), folder.split("/") if folder else []
            )
            here = opened.__enter__()
        except OSError as error:
            if not (isinstance(error, ABSENT) or error.errno == errno.ELOOP):
                raise
            yield None
            return
        try:
            yield here
        finally:
            opened.__exit__(None, None, None)


def _descriptor(root: int, key: str, path: Path) -> int:
    """Open the file at `path` for reading; closes `root`.

    Raises MissingObjectError or DamagedObjectError, depending on what is found in its place.
    """
    *above, name = key.split("/")
    try:
        with folder_descriptors.folder_below(root, above) as folder:
            above = []
            return folder_descriptors.open_file(folder, name)
    except FileNotFoundError:
        raise MissingObjectError(f"{path} does not exist") from None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENXIO):
            raise
        kind = MissingObjectError if isinstance(error, ABSENT) else DamagedObjectError
        reason = "is a file, not a folder" if error.errno == errno.ENOTDIR else error.strerror
        # A later put replaces a link or a pipe, but not a folder.
        raise kind(
            f"can't read {path}: {error.filename} {reason}: remove it",
            is_blocked=bool(above) or error.errno == errno.EISDIR,
        ) from None


def _gone(root: Path, what: str) -> str:
    return (
        f"{root} {what}, but it held images before: is the share mounted? Nothing is written there; if it was emptied "
        "on purpose, `nightmill adopt BATCH` says so"
    )


def _has_marker(root: int) -> bool:
    try:
        folder_descriptors.require_file(root, MARKER)
    except OSError:
        return False
    return True


@contextmanager
def _explained(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "check that the folder is there, is yours to use, and has room"
        place = f" ({error.filename})" if error.filename else ""
        raise ObjectStoreError(f"can't {action}: {reason}{place}; {hint}") from error
