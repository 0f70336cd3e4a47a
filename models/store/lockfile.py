"""The lock file: digests of every model's files, so that a changed file is never used."""

import json
import os
import reprlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.catalogue.limited_files import read_json
from models.errors import CheckpointError, ModelError
from models.runtime.file_lock import exclusive
from models.store.digests import FileDigest, total_digest

LOCK_FILE = "nightmill.lock"
LOCAL = "local"
_VERSION = 1
_MAX_BYTES = 2**26


@dataclass(frozen=True)
class Locked:
    """The lock entry of a model: its source repository, or "local"; the commit; every file's digest."""

    source: str
    revision: str
    files: tuple[FileDigest, ...]

    @property
    def digest(self) -> str:
        """The SHA-256 over all paths and file digests."""
        return total_digest(self.files)


def read_lock(models_dir: Path) -> dict[str, Locked]:
    """Return the lock entries by model id; empty without a lock file. Raises ModelError if it is damaged."""
    path = models_dir / LOCK_FILE
    try:
        table = read_json(path, _MAX_BYTES)
        if table["version"] != _VERSION:
            raise ModelError(
                f"{path}: is of version {reprlib.repr(table['version'])}, which this nightmill can't read"
            )
        return {id: _locked(entry) for id, entry in table["models"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: can't be read as a lock file ({reprlib.repr(error)}); bring back a good copy, or remove it"
            " and lock the models that you trust: nightmill models lock"
        ) from error


def write_lock(models_dir: Path, changes: Mapping[str, Locked | None]) -> None:
    """Apply `changes`, by model id, to the lock file atomically; None removes a model.

    Raises ModelError if the file can't be written.
    """
    with exclusive(models_dir, ".lock.lock"):
        models = {**read_lock(models_dir), **changes}
        kept = {id: _entry(locked) for id, locked in sorted(models.items()) if locked is not None}
        _replace(models_dir / LOCK_FILE, {"version": _VERSION, "models": kept})


def compare(id: str, locked: Locked, path: Path, files: Sequence[FileDigest]) -> None:
    """Raise CheckpointError, naming the file, if any of the `files` at `path` differs from the lock entry."""
    wanted = {file.name: file for file in locked.files}
    found = {file.name: file for file in files}
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"{(path / name) if path.is_dir() else path}: {_difference(wanted.get(name), found.get(name))}."
                f" If you changed it, accept that with: nightmill models lock {id}."
                f" If not, get it again: nightmill models remove {id}, then pull or add it"
            )


def _difference(wanted: FileDigest | None, found: FileDigest | None) -> str:
    if wanted is None:
        return f"is not in {LOCK_FILE}"
    if found is None:
        return f"is missing, but {LOCK_FILE} names it"
    return f"has the SHA-256 {found.sha256}, but {LOCK_FILE} says {wanted.sha256}"


def _locked(entry: Any) -> Locked:
    files = [
        FileDigest(name, int(file["size"]), str(file["sha256"])) for name, file in entry["files"].items()
    ]
    return Locked(
        str(entry["source"]), str(entry["revision"]), tuple(sorted(files, key=lambda file: file.name))
    )


def _entry(locked: Locked) -> dict[str, object]:
    files = {file.name: asdict(file) for file in locked.files}
    for file in files.values():
        del file["name"]
    return {
        "source": locked.source,
        "revision": locked.revision,
        "digest": locked.digest,
        "files": files,
    }


def _replace(path: Path, table: Mapping[str, object]) -> None:
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(table, stream, indent=2, sort_keys=True, ensure_ascii=False)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        raise ModelError(f"{path}: can't be written: {error}") from error
