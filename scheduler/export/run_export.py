"""Runs an export from beginning to end: at once, of what there is, or beside the rendering until all is sealed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Engine

from jobs.errors import NightmillError
from jobs.exports import records
from jobs.exports.progress import progress_of
from jobs.exports.records import File, ShardRecord
from jobs.outputs.export_inventory import ExportPlace
from scheduler.export.columns_of_resumed_export import columns_of, exporter_in_its_columns
from scheduler.export.export_request import ExportRequest, OpenBatch
from scheduler.export.finish_export import finish, tell_progress
from scheduler.export.open_export import OnChanged, open_export, place_of
from scheduler.export.rfc3161_time_stamps.authority_client import TimeStampAuthority
from scheduler.export.rows.unfit_values import Report, summed
from scheduler.export.write_shards import ShardWriter

POLL_S = 0.5

Pause = Callable[[float], object]
OnWait = Callable[[], object]
"""Called when other processes have claimed all shards that are left."""


@dataclass(frozen=True)
class Exported:
    """What an export has written: `files` in the order of the shards, and `index`, those of the whole dataset."""

    id: int
    files: Sequence[File]
    index: Sequence[File]
    images: int
    shards: int
    is_complete: bool
    """Whether every shard is sealed: no job was unfinished."""
    unfit: Report
    """Values that are null in the files, as their columns have types without room for them."""
    unstamped: int = 0
    """Sealed shards that were to have a time stamp and have none yet."""
    stamp_error: str | None = None
    """Why."""
    further_columns: Sequence[str] = ()
    """Those that this version knows, and that the export was begun without."""


def export(
    engine: Engine,
    request: ExportRequest,
    open_batch: OpenBatch,
    on_rows: Callable[[int], None] = lambda _: None,
    *,
    follow: bool = False,
    pause: Pause = time.sleep,
    models_dir: Path | None = None,
    authority: TimeStampAuthority | None = None,
    on_changed: OnChanged = lambda *_: None,
    on_wait: OnWait = lambda: None,
) -> Exported:
    """Write all shards of the request's export that aren't up to date, and `_SUCCESS` last.

    Shards with unfinished jobs are written as they are, and again by the next call; with `follow`, they are waited for.
    Several processes may write one export at once. `models_dir` has the user's own model cards; `authority` stamps
    sealed shards. Raises as `open_export` does.
    """
    opened = open_export(engine, request, on_changed)
    writer = ShardWriter(
        engine,
        opened,
        exporter_in_its_columns(engine, opened),
        request.store,
        open_batch,
        on_rows,
        models_dir=models_dir,
        authority=authority,
        overwrite=request.overwrite,
        replace=request.replace,
    )
    place = place_of(engine, request)
    if follow:
        _write_until_sealed(writer, place, pause)
    else:
        _write_once(writer, pause, on_wait)
    finish(writer, place)
    done = exported(engine, opened.id)
    return done if writer.stamper is None else replace(done, stamp_error=writer.stamper.error)


def exported(engine: Engine, export: int) -> Exported:
    """Return what an export has written so far."""
    found, shards = records.get(engine, export), records.shards_of(engine, export)
    if found is None:
        raise NightmillError("the export was deleted meanwhile")
    files = [file for shard in shards for file in shard.files]
    is_complete = all(shard.is_current for shard in shards)
    return Exported(
        export,
        files,
        found.files,
        sum(shard.images for shard in shards),
        len(shards),
        is_complete,
        summed(file.get("unfit", {}) for file in files),
        found.timestamps_missing,
        further_columns=columns.further if (columns := columns_of(found)) else (),
    )


def _write_once(writer: ShardWriter, pause: Pause, on_wait: OnWait) -> None:
    writer.write_all(unfinished=True)
    while missing := _missing(writer):
        if all(shard.is_leased for shard in missing):
            on_wait()
            pause(POLL_S)
        else:
            writer.write_all(unfinished=True)


def _write_until_sealed(writer: ShardWriter, place: ExportPlace, pause: Pause) -> None:
    while True:
        written = writer.write_all(unfinished=False)
        if progress_of(writer.engine, writer.export.id).is_complete:
            return
        if written:
            tell_progress(writer, place)
        pause(POLL_S)


def _missing(writer: ShardWriter) -> list[ShardRecord]:
    """Return the shards that have no files yet, or are being written."""
    shards = records.shards_of(writer.engine, writer.export.id)
    return [shard for shard in shards if shard.written_generation is None or shard.is_leased]
