"""SHA-256 digests of files, remembered by path, size and time of change."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

_MEMORY = ".digests.json"
_Remembered = dict[str, list[int | str]]


def folder_digest(folder: Path, files: Sequence[Path]) -> str:
    """The SHA-256, in hex, over one "<relative path>\\0<sha256 of the file>\\n" per file, sorted by path.

    What was hashed before is not read again while size and mtime_ns stay; that memory is `.digests.json`
    beside the folder. Where that can't be written, there is no memory.
    """
    memory_file = folder.parent / _MEMORY
    memory = _recall(memory_file)
    fresh: _Remembered = {}
    lines = []
    for file in sorted(files):
        stat = file.stat()
        key = file.relative_to(folder.parent).as_posix()
        known = memory.get(key)
        if known is None or known[:2] != [stat.st_size, stat.st_mtime_ns]:
            known = fresh[key] = [stat.st_size, stat.st_mtime_ns, _sha256(file)]
        lines.append(f"{file.relative_to(folder).as_posix()}\0{known[2]}\n")
    if fresh:
        _remember(memory_file, fresh)
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _recall(memory_file: Path) -> _Remembered:
    try:
        memory = json.loads(memory_file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(memory, dict):
        return {}
    return {key: entry for key, entry in memory.items() if isinstance(entry, list) and len(entry) == 3}


def _remember(memory_file: Path, fresh: _Remembered) -> None:
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(dir=memory_file.parent, prefix=f"{_MEMORY}.")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(_recall(memory_file) | fresh, stream)
        Path(name).replace(memory_file)
