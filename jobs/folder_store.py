"""The object store that is a folder: every object a file, written beside its place and renamed into it."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from jobs.errors import ObjectStoreError
from jobs.object_types import MissingObjectError, StoredObject, checked_key, checked_prefix, is_key

# No key may hold a tilde, so a temporary file can neither be listed nor be overwritten by an object.
_TEMPORARY = "~nightmill-"
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True)
class FolderStore:
    """An ObjectStore in a local folder, which is made when the first object comes."""

    root: Path

    @property
    def uri(self) -> str:
        """The folder's absolute path."""
        return str(self.root)

    def put(self, key: str, body: bytes | Path, *, content_type: str) -> None:  # noqa: ARG002
        """Write a temporary file, force it to the disk, read it back, and rename it."""
        target = self.root / checked_key(key)
        temporary = target.with_name(_TEMPORARY + secrets.token_hex(8))
        with _explained(f"write {target}"):
            try:
                if not (_copied(temporary, body) if isinstance(body, Path) else _written(temporary, body)):
                    raise ObjectStoreError(
                        f"{target} reads back differently from what was written: check the disk"
                    )
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            _force_to_disk(target.parent)

    def get(self, key: str) -> bytes:
        """Return the file's bytes; raise MissingObjectError when there is none."""
        path = self.root / checked_key(key)
        with _explained(f"read {path}"):
            try:
                return path.read_bytes()
            except _ABSENT:
                raise MissingObjectError(f"{path} does not exist") from None

    def delete(self, key: str) -> None:
        """Remove the file; one that isn't there is fine."""
        path = self.root / checked_key(key)
        with _explained(f"delete {path}"), suppress(*_ABSENT):
            path.unlink()

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the files whose keys begin with these characters, sorted by key, a folder at a time.

        What is deleted meanwhile is left out.
        """
        folder, _, name = checked_prefix(prefix).rpartition("/")
        with _explained(f"list {self.root / folder}"):
            for entry in _entries(self.root / folder, name):
                yield from self._objects(entry)

    def locate(self, key: str) -> str:
        """Return the file's absolute path."""
        return str(self.root / checked_key(key))

    def remove_temporaries(self, older_than: timedelta) -> int:
        """Delete what interrupted writes left behind; return how many files that were."""
        limit = datetime.now(UTC) - older_than
        removed = 0
        with _explained(f"clean up {self.root}"):
            for path in self.root.rglob(_TEMPORARY + "*"):
                with suppress(*_ABSENT):  # written to its end or removed by somebody else
                    if _modified(path.stat()) < limit:
                        path.unlink()
                        removed += 1
        return removed

    def _objects(self, entry: os.DirEntry[str]) -> Iterator[StoredObject]:
        if entry.is_dir():
            for below in _entries(Path(entry.path), ""):
                yield from self._objects(below)
            return
        key = Path(entry.path).relative_to(self.root).as_posix()
        if is_key(key) and entry.is_file() and (state := _state(entry)):
            yield StoredObject(key, state.st_size, _modified(state))


def _entries(folder: Path, beginning: str) -> list[os.DirEntry[str]]:
    """A folder's entries in the order of the keys below them: ``a-1`` comes before ``a/1``."""
    try:
        with os.scandir(folder) as found:
            chosen = [entry for entry in found if entry.name.startswith(beginning)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(chosen, key=lambda entry: entry.name + "/" * entry.is_dir())


def _state(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except FileNotFoundError:
        return None


def _copied(path: Path, source: Path) -> bool:
    with open(_new(path), "wb") as file:
        with source.open("rb") as given:
            shutil.copyfileobj(given, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
    return _digest(path) == _digest(source)


def _written(path: Path, body: bytes) -> bool:
    """In as few calls as will do: after each, this thread and the one that draws wait for one another."""
    descriptor = _new(path)
    try:
        left = memoryview(body)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
        return os.pread(descriptor, len(body) + 1, 0) == body
    finally:
        os.close(descriptor)


def _new(path: Path) -> int:
    """The descriptor of a new file, in a folder that is made if need be."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o666)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _force_to_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _modified(state: os.stat_result) -> datetime:
    return datetime.fromtimestamp(state.st_mtime, UTC)


@contextmanager
def _explained(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "check that the folder is there, is yours to use, and has room"
        raise ObjectStoreError(f"can't {action}: {reason} ({error.filename}); {hint}") from error
