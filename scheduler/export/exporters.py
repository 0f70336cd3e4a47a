"""The export formats: a file in `scheduler/export/formats/` for each, whose name is that of the format."""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from jobs.errors import UsageError
from models.optional_packages import require
from scheduler.export.export_options import ExportOptions

if TYPE_CHECKING:
    import pyarrow as pa  # takes time, which commands that export nothing shouldn't pay

    from scheduler.export.rows.unfit_values import Report
    from scheduler.export.tables.export_table import ExportTable, TablePlace

ROWS_WITH_COPIES = 10_000
"""Manifest rows of a shard at most where images are copied: the database names all files of a shard in one row."""

_FOLDER = Path(__file__).parent / "formats"


@dataclass(frozen=True)
class WrittenFile:
    """A file that an exporter wrote: `name` is its path in the export's folder, of key segments joined by `/`."""

    name: str
    content_type: str
    rows: int | None = None
    """Image rows in it; None for a file about others, such as an index."""
    unfit: "Report | None" = None
    """What its columns have no room for, or also those of the files beside it; None: every value fitted."""


@dataclass(frozen=True)
class Shard:
    """The part of an export that is written at once: the images of a range of a batch's manifest rows."""

    number: int
    """From 0 on."""
    count: int
    """Shards of the whole export; grows when rows are added to the batch."""
    images: "Iterator[pa.RecordBatch]"
    """The image rows in manifest order, in `scheduler.export.image_arrow_schema.SCHEMA`; can be iterated once."""
    files: "Callable[[pa.RecordBatch], Iterator[bytes]]"
    """Reads image files of rows, in their order. Raises BadObjectError for one that is missing or isn't the row's."""
    sidecars: "Callable[[pa.RecordBatch], Iterator[bytes | None]]"
    """Reads the C2PA manifests beside them, in the same way; None for rows that have none."""


@dataclass(frozen=True)
class RowFiles:
    """The files of an export that hold its rows as a table: a glob, their media type, and their columns."""

    pattern: str
    media_type: str
    schema: "pa.Schema"
    partitions: "Sequence[pa.Field]" = ()
    """Columns that aren't in the files, but in the names of their folders, `column=value`."""


class Exporter(ABC):
    """An export format. The bytes that `write` makes depend on the shard and the options alone."""

    name: ClassVar[str]
    index_prefix: ClassVar[str]
    """What the names of index files begin with: `_`, where readers take every other file in the folder for rows."""
    shard_rows: ClassVar[int]
    """Manifest rows of a shard."""
    extra: ClassVar[str | None]
    """Of nightmill, that installs what the format needs."""
    keeps_columns: ClassVar[bool] = True
    """Whether all files of an export have the same columns. Table formats add columns to their table instead."""

    def __init__(self, options: ExportOptions, columns: Sequence[str] = ()) -> None:
        """`columns`: the names of all that the files of rows have, in this order; none: all that this version knows."""
        self.options, self.columns = options, tuple(columns)

    @property
    def rows_of_shard(self) -> int:
        """Manifest rows of a shard with these options."""
        return min(self.shard_rows, ROWS_WITH_COPIES) if self.options.copy_images else self.shard_rows

    @abstractmethod
    def write(self, folder: Path, shard: Shard) -> Sequence[WrittenFile]:
        """Write the shard's files below a local folder; none if there is nothing to write."""

    def write_index(
        self,
        folder: Path,  # noqa: ARG002 - others need it
        files: Sequence[str],  # noqa: ARG002
        read: Callable[[str], bytes],  # noqa: ARG002
    ) -> Sequence[WrittenFile]:
        """Write the format's own files about the whole export, whose files are named; `read` reads one of them."""
        return []

    def table(self, place: "TablePlace") -> "ExportTable | None":  # noqa: ARG002
        """Return the table whose data files are those of the shards; None for formats that are files alone."""
        return None

    def row_files(self) -> RowFiles | None:
        """Return what describes the files with the rows; None if they are no table."""
        return None

    def splits(self, files: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Return the names, or patterns, of what holds each split; `files` are those with images or rows."""
        return {"train": files}

    def features(
        self,
        formats: Collection[str],  # noqa: ARG002
        *,
        has_sidecars: bool,  # noqa: ARG002
    ) -> "pa.Schema | None":
        """Return what `datasets` loads of a sample, where it can't infer it; `formats` are those of the images.

        `has_sidecars`: some have a C2PA manifest beside them.
        """
        return None


Kind = TypeVar("Kind", bound=type[Exporter])

_REGISTERED: dict[str, type[Exporter]] = {}


def exporter(
    name: str, *, shard_rows: int, index_prefix: str = "", extra: str | None = None
) -> Callable[[Kind], Kind]:
    """Register the decorated class as a format, with the number of manifest rows of its shards, and its extra."""

    def register(kind: Kind) -> Kind:
        kind.name, kind.shard_rows, kind.index_prefix, kind.extra = name, shard_rows, index_prefix, extra
        _REGISTERED[name] = kind
        return kind

    return register


def format_names() -> list[str]:
    """Return the names of all formats, sorted, without importing what writes them."""
    files = {
        module.name for module in pkgutil.iter_modules([str(_FOLDER)]) if not module.name.startswith("_")
    }
    return sorted(files | _REGISTERED.keys())


def exporter_of(name: str) -> type[Exporter]:
    """Return the exporter of a format. Raises UsageError if there is none, MissingPackagesError without its extra."""
    if name not in format_names():
        raise UsageError(f"there is no export format {name!r}; there are {', '.join(format_names())}")
    if name not in _REGISTERED:
        import_module(f"scheduler.export.formats.{name}")
    if name not in _REGISTERED:
        raise UsageError(f"scheduler/export/formats/{name}.py registers no @exporter({name!r})")
    kind = _REGISTERED[name]
    if kind.extra is not None:
        require(kind.extra, f"the export format {name} needs")
    return kind
