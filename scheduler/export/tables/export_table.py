"""The table of an export in a table format: what a catalog, or a log of commits, says about the files of the shards."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from jobs.exports.records import Export
from jobs.storage.base import ObjectStore

DIGITS = 12
"""Of a file's SHA-256 in its name."""
_DATA_FILE = re.compile(rf"(?:.*/)?data/([0-9]{{5,}})-[0-9a-f]{{{DIGITS}}}\.[a-z]+")


def data_file_name(number: int, sha256: str, extension: str) -> str:
    """Return the name of a shard's data file: other bytes get another name, because old snapshots name the former."""
    return f"data/{number:05d}-{sha256[:DIGITS]}.{extension}"


def name_data_file(path: Path, number: int) -> str:
    """Rename a shard's data file, in the folder that it lies in, to what the table has it as; returns that name."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    name = data_file_name(number, digest, path.suffix.removeprefix("."))
    target = path.parent / name
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    return name


def shard_of(path: str) -> int | None:
    """Return the number of the shard whose data file lies there; None for a file of another name."""
    match = _DATA_FILE.fullmatch(path)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class TablePlace:
    """Where an export lies whose shards are in a table."""

    engine: Engine
    store: ObjectStore
    export: Export

    @property
    def folder(self) -> str:
        """The export's folder: an absolute path, or `s3://bucket/…`."""
        return f"{self.store.uri.rstrip('/')}/{self.export.prefix}".rstrip("/")


@dataclass(frozen=True)
class ShardCommit:
    """A shard whose files lie in place, and are to be those of the table; names are relative to the export's folder."""

    number: int
    version: int
    """That the shard has when it is published."""
    cursor: str
    published: Sequence[str]
    """The files of the version before, as `export_shards` names them."""
    files: Sequence[str]


class ExportTable(ABC):
    """A table whose data files are those of an export's shards.

    Every method can be repeated after it was interrupted, and called by several processes at once. Raises UsageError
    for a table or catalog that can't be used, NightmillError if it can't be reached.
    """

    @abstractmethod
    def open(self, published: Mapping[int, Sequence[str]], *, replace: bool = False) -> list[int]:
        """Create the table if it isn't there, with the `published` files of the shards, by their number.

        Returns the shards whose files in the table are others than those: they are to be committed again. Raises
        UsageError if the table is somebody else's, or was changed by somebody else, unless `replace` allows making
        it anew. One process at a time may open a table.
        """

    @abstractmethod
    def commit(self, shard: ShardCommit) -> None:
        """Let the table have the shard's files, and no others of the shard, by one commit; none if it has them."""

    @abstractmethod
    def remove_others(self, numbers: Callable[[], Collection[int]]) -> None:
        """Take shards out that the export no longer has; `numbers` reads which it has."""

    @abstractmethod
    def release(self, names: Collection[str]) -> set[str]:
        """Forget earlier versions of the table that name these files; returns the files that nothing names now."""

    @abstractmethod
    def report(self) -> dict[str, Any]:
        """Return what `_SUCCESS` tells of the table."""

    @abstractmethod
    def drop(self) -> None:
        """Take the table out of its catalog and delete its metadata, if it is this export's; data files stay."""
