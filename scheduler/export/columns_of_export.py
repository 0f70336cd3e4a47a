"""An export keeps the columns that it was begun with: a later version may know more, and all files are to be alike."""

import csv
import io
import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
from pyarrow import fs
from pydantic import ValidationError
from sqlalchemy import Engine

from jobs.errors import NightmillError
from jobs.exports import records
from jobs.exports.records import Export
from jobs.storage.base import ObjectStore
from scheduler.export.export_options import ExportOptions
from scheduler.export.exporters import Exporter, exporter_of
from scheduler.export.rows.export_columns import export_schema
from scheduler.export.tables.s3_access import s3_access

_WITH_ROWS = (".parquet", ".csv", ".jsonl")


@dataclass(frozen=True)
class Columns:
    """What the files of an export have, and what this version would write besides if it were begun anew."""

    kept: Sequence[str]
    further: Sequence[str]


def columns_of(export: Export) -> Columns | None:
    """Return the columns of an export; None: they aren't noted, or its format has a table, which takes all."""
    if export.columns is None:
        return None
    try:
        known = _known(_exporter(export))
    except NightmillError:  # of another version: to be shown all the same
        known = []
    return Columns(export.columns, [name for name in known if name not in export.columns])


def exporter_in_its_columns(engine: Engine, store: ObjectStore, export: Export) -> Exporter:
    """Return what writes the export's files, in the columns that it was begun with, which are noted if they weren't.

    Raises NightmillError if this version doesn't know one of them.
    """
    exporter = _exporter(export)
    known = _known(exporter)
    if not known:
        return exporter
    if export.columns is None:
        records.note_columns(engine, export.id, _columns_there(engine, store, export) or known)
        export = records.get(engine, export.id) or export  # another process may have noted them
    columns = export.columns or known
    _require_known(export, columns, known)
    return type(exporter)(exporter.options, columns)


def _exporter(export: Export) -> Exporter:
    try:
        options = ExportOptions.model_validate(export.options)
    except ValidationError as error:
        _require_known(export, [str(each["loc"][0]) for each in error.errors()], ())
        raise
    _require_known(export, [*options.columns, *options.partition_by], export_schema(options).names)
    return exporter_of(export.format)(options)


def _require_known(export: Export, names: Sequence[str], known: Collection[str]) -> None:
    """Raise NightmillError if another version has begun the export with columns or options that this one lacks."""
    if unknown := [name for name in names if name not in known]:
        raise NightmillError(
            f"export {export.id} of {export.name} was begun by another version of nightmill, with what this one "
            f"doesn't know: {', '.join(unknown)}. Let that version go on with it, or begin it anew: "
            "`nightmill export … --anew`"
        )


def _known(exporter: Exporter) -> Sequence[str]:
    """Return the columns that this version writes; none if they aren't the same in all files, or there is no table."""
    rows = exporter.row_files() if exporter.keeps_columns else None
    return [] if rows is None else list(rows.schema.names)


def _columns_there(engine: Engine, store: ObjectStore, export: Export) -> list[str]:
    """Return the columns of the first shard that an earlier version has written; none if there is no such file."""
    for shard in records.shards_of(engine, export.id):
        for file in shard.files:
            if file["name"].endswith(_WITH_ROWS) and (
                names := _names_in(store, export.prefix + file["name"])
            ):
                return names
    return []


def _names_in(store: ObjectStore, key: str) -> list[str]:
    """Return the names of a file's columns; none if it is gone, has no row that would tell, or can't be read."""
    try:
        with _opened(store, key) as file:
            if key.endswith(".parquet"):
                return list(pq.read_schema(file).names)
            first = io.TextIOWrapper(file, encoding="utf-8", newline="")
            if key.endswith(".csv"):
                return next(csv.reader(first), [])
            return list(json.loads(first.readline() or "{}"))
    except (FileNotFoundError, ValueError):  # pyarrow's are ValueErrors, too
        return []
    except OSError as error:
        raise NightmillError(f"{store.locate(key)}: {error}") from error


@contextmanager
def _opened(store: ObjectStore, key: str) -> Iterator[Any]:
    """Open a file to read parts of it: one with images may be larger than memory."""
    access, place = s3_access(store), store.locate(key)
    if access is None:
        files, path = fs.LocalFileSystem(), place
    else:
        files = fs.S3FileSystem(
            access_key=access.key_id,
            secret_key=access.secret,
            session_token=access.token,
            region=access.region,
            endpoint_override=access.endpoint_url,
        )
        path = place.removeprefix("s3://")
    with files.open_input_file(path) as file:
        yield file
