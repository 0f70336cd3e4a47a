"""Walk the tree below an open folder without following links: list files, and remove what is empty or left over."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from jobs.storage import folder_descriptors
from jobs.storage.base import StoredObject, is_key, may_hold_keys
from jobs.storage.durable_write import IS_TEMPORARY

ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""Errors of a path at which there is no file."""


def objects(folder: int, above: str, beginning: str = "") -> Iterator[StoredObject]:
    """Yield the files below an open folder, sorted by key; names right in it begin with `beginning`."""
    for entry in folder_descriptors.entries(folder):
        key = above + entry.name
        if not entry.name.startswith(beginning):
            continue
        with _unless_gone():
            if entry.is_folder and may_hold_keys(key):
                with folder_descriptors.entered(folder, entry.name) as below:
                    yield from objects(below, f"{key}/")
            elif entry.is_file and is_key(key):
                state = folder_descriptors.state_of(folder, entry.name)
                yield StoredObject(key, state.st_size, _modified(state))


def names(folder: int, above: str, on_closed: Callable[[str, OSError], object]) -> Iterator[str]:
    """Yield all names below an open folder in display form, without temporary files; links to folders with a slash.

    `on_closed` is called with each folder below it that can't be read, and may raise.
    """
    for entry in folder_descriptors.entries(folder):
        path = above + entry.name
        if entry.is_folder:
            try:
                with _unless_gone(), folder_descriptors.entered(folder, entry.name) as below:
                    yield from names(below, f"{path}/", on_closed)
            except OSError as error:
                on_closed(_shown(path), error)
        elif not IS_TEMPORARY.fullmatch(entry.name):
            yield _shown(path) + ("/" if _leads_to_folder(folder, entry) else "")


def _leads_to_folder(folder: int, entry: folder_descriptors.Entry) -> bool:
    if entry.is_file:
        return False
    try:
        return stat.S_ISDIR(os.stat(entry.name, dir_fd=folder).st_mode)
    except OSError:
        return False


def _shown(path: str) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def remove_temporaries(folder: int, limit: datetime) -> Iterator[int]:
    """Delete temporary files below an open folder that are older than `limit`; yields 1 for each."""
    for entry in folder_descriptors.entries(folder):
        with _unless_gone():  # finished or removed by another process
            if entry.is_folder:
                with folder_descriptors.entered(folder, entry.name) as below:
                    yield from remove_temporaries(below, limit)
            elif (
                entry.is_file
                and IS_TEMPORARY.fullmatch(entry.name)
                and _modified(folder_descriptors.state_of(folder, entry.name)) < limit
            ):
                os.unlink(entry.name, dir_fd=folder)
                yield 1


def remove_empty(folder: int, name: str, path: str, is_ours: Callable[[str], bool]) -> None:
    """Remove a folder and those below it that are empty and whose path `is_ours` accepts."""
    with _unless_gone():
        with folder_descriptors.entered(folder, name) as here:
            for entry in folder_descriptors.entries(here):
                if entry.is_folder and is_ours(f"{path}/{entry.name}"):
                    remove_empty(here, entry.name, f"{path}/{entry.name}", is_ours)
        if is_ours(path):
            try:
                os.rmdir(name, dir_fd=folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise


@contextmanager
def _unless_gone() -> Iterator[None]:
    """Ignore errors of entries that were deleted, or replaced by a link, since they were listed."""
    try:
        yield
    except ABSENT:
        pass
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise


def _modified(state: os.stat_result) -> datetime:
    return datetime.fromtimestamp(state.st_mtime, UTC)
