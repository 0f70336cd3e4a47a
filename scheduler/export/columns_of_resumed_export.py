"""An export keeps the columns that it was begun with: a later version may know more, and all files are to be alike."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from sqlalchemy import Engine

from jobs.errors import NightmillError
from jobs.exports import records
from jobs.exports.records import Export
from scheduler.export.export_options import ExportOptions
from scheduler.export.exporters import Exporter, exporter_of

_NOT_BEFORE = ("c2pa_sidecar_sha256", "c2pa_manifest", "c2pa_bytes")
"""Columns that came with the version that notes columns first: files of earlier ones lack them."""


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
        known = known_columns(_exporter(export))
    except NightmillError:  # of another version: to be shown all the same
        known = []
    return Columns(export.columns, [name for name in known if name not in export.columns])


def exporter_in_its_columns(engine: Engine, export: Export) -> Exporter:
    """Return what writes the export's files, in the columns that it was begun with, which are noted if they weren't.

    Raises NightmillError if this version doesn't know one of them.
    """
    exporter = _exporter(export)
    known = known_columns(exporter)
    if not known:
        return exporter
    if export.columns is None:  # begun by a version that notes none
        has_files = any(shard.version for shard in records.shards_of(engine, export.id))
        records.note_columns(
            engine, export.id, [name for name in known if not (has_files and name in _NOT_BEFORE)]
        )
        export = records.get(engine, export.id) or export  # another process may have noted them
    columns = export.columns or known
    _require_known(export, columns, known)
    return type(exporter)(exporter.options, columns)


def _exporter(export: Export) -> Exporter:
    from scheduler.export.rows.export_columns import export_schema  # noqa: PLC0415 - imports pyarrow

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


def known_columns(exporter: Exporter) -> Sequence[str]:
    """Return the columns that an exporter writes; none if they aren't the same in all files, or there is no table."""
    rows = exporter.row_files() if exporter.keeps_columns else None
    return [] if rows is None else list(rows.schema.names)
