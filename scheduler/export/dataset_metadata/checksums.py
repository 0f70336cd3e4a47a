"""`SHA256SUMS`: the digest of every file of an export, for `sha256sum -c SHA256SUMS` in its folder."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from jobs.exports.records import File
from scheduler.export.exporters import WrittenFile

NAME = "SHA256SUMS"


def checksums(folder: Path, files: Sequence[File], written: Sequence[WrittenFile]) -> str:
    """Return the digests of the shards' files and of those just written to the folder, sorted by name."""
    digests = {file["name"]: file["sha256"] for file in files}
    digests |= {file.name: _digest(folder / file.name) for file in written}
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(digests.items()))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
