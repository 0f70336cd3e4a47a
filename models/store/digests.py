"""SHA-256 digests of files, cached by path, size and modification time."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.catalogue.limited_files import read_json

_MEMORY = ".digests.json"
_MAX_MEMORY = 2**26
_Remembered = dict[str, list[int | str]]


@dataclass(frozen=True)
class FileDigest:
    """A file of a checkpoint: `name` is its path within the folder, with slashes; `size` is bytes."""

    name: str
    size: int
    sha256: str


def file_digests(folder: Path, files: Sequence[Path], memory_dir: Path | None) -> list[FileDigest]:
    """Return the SHA-256, in hex, of each of the `files` of `folder`, sorted by name.

    Digests are cached in `.digests.json` in `memory_dir` and reused while size and mtime_ns are unchanged. If
    `memory_dir` is None or can't be written to, nothing is cached.
    """
    memory_file = memory_dir and memory_dir / _MEMORY
    memory = _recall(memory_file) if memory_file else {}
    fresh: _Remembered = {}
    digests = []
    for file in files:
        stat = file.stat()
        key = _key(file, memory_dir)
        known = memory.get(key)
        if known is None or known[:2] != [stat.st_size, stat.st_mtime_ns]:
            known = fresh[key] = [stat.st_size, stat.st_mtime_ns, _sha256(file)]
        digests.append(FileDigest(file.relative_to(folder).as_posix(), stat.st_size, str(known[2])))
    if fresh and memory_file:
        _remember(memory_file, fresh)
    return sorted(digests, key=lambda digest: digest.name)


def total_digest(digests: Sequence[FileDigest]) -> str:
    """Return the SHA-256, in hex, over the sorted lines "<name>\\0<sha256 of the file>\\n" of all files."""
    lines = sorted(f"{digest.name}\0{digest.sha256}\n" for digest in digests)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _key(file: Path, memory_dir: Path | None) -> str:
    is_inside = memory_dir is not None and file.is_relative_to(memory_dir)
    return (file.relative_to(memory_dir) if memory_dir and is_inside else file.absolute()).as_posix()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _recall(memory_file: Path) -> _Remembered:
    try:
        memory = read_json(memory_file, _MAX_MEMORY)
    except (OSError, ValueError):
        return {}
    if not isinstance(memory, dict):
        return {}
    return {key: entry for key, entry in memory.items() if isinstance(entry, list) and len(entry) == 3}


def _remember(memory_file: Path, fresh: _Remembered) -> None:
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(dir=memory_file.parent, prefix=f"{_MEMORY}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(_recall(memory_file) | fresh, stream)
            Path(name).replace(memory_file)
        except OSError:
            Path(name).unlink()
            raise
