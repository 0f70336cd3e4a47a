"""Finishes an export whose shards are written: files about the whole dataset, and `_SUCCESS`, which is put last."""

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

from sqlalchemy import Engine, TextClause, text

from jobs.batches.actions import status
from jobs.db.engine import run, transact
from jobs.errors import NightmillError
from jobs.exports import records, shard_claims
from jobs.exports.delete_unreferenced_files import delete_unnamed
from jobs.exports.records import Export, File, ShardRecord
from jobs.exports.renewed_lease import renewed
from jobs.exports.shard_rfc3161_time_stamps import timestamp_of
from jobs.outputs import export_inventory
from jobs.outputs.export_inventory import INCOMPLETE, SUCCESS, ExportPlace
from jobs.storage.base import digest_if_there
from jobs.storage.open import remove_temporaries
from models.catalogue.catalogue import Catalogue
from models.errors import ModelError
from scheduler.export.dataset_metadata.dataset import Dataset
from scheduler.export.dataset_metadata.write_dataset_metadata import write_index
from scheduler.export.success_record import batches_of, shard_files, shard_report, success_record
from scheduler.export.write_shards import ShardWriter, describe

_POLL_S = 0.1
_CUT_OFF = timedelta(hours=1)
"""After this time, the temporary file of a write belongs to nobody who still writes."""

_CLAIM = text("""
    UPDATE exports SET lease = :lease, lease_until = now() + make_interval(secs => :lease_s)
    WHERE id = :id AND (lease IS NULL OR lease_until < now()) RETURNING id
""")
_EXTEND = text("""
    UPDATE exports SET lease_until = now() + make_interval(secs => :lease_s) WHERE id = :id AND lease = :lease
    RETURNING id
""")
_RELEASE = text(
    "UPDATE exports SET lease = NULL, lease_until = NULL WHERE id = :id AND lease = :lease RETURNING id"
)
_NOTE_FILES = text("""
    UPDATE exports SET files = CAST(:files AS jsonb) WHERE id = :id AND lease = :lease RETURNING id
""")
_FINISHED = text("""
    UPDATE exports SET finished = :finished, finished_at = now(), is_complete = :is_complete,
        replaced = replaced - CAST(:deleted AS text[]), error = NULL,
        superseded = coalesce((
            SELECT jsonb_agg(file) FROM jsonb_array_elements(superseded) AS file
            WHERE file ->> 'name' <> ALL (CAST(:deleted AS text[]))), '[]')
    WHERE id = :id AND lease = :lease RETURNING id
""")


class _LeaseLostError(NightmillError):
    """Another process has begun to finish the export, as this one took too long."""


def versions_digest(shards: Sequence[ShardRecord]) -> str:
    """Return the digest of the shards' versions and time stamps: while it stays, `_SUCCESS` is up to date."""
    seen = [
        (shard.number, shard.version, shard.is_sealed, shard.generation, *_stamped_at(shard))
        for shard in shards
    ]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def _stamped_at(shard: ShardRecord) -> tuple[str, ...]:
    stamp = timestamp_of(shard)
    return (stamp["time"], stamp["sha256"]) if stamp else ()


def finish(writer: ShardWriter, place: ExportPlace) -> None:
    """Write `_SUCCESS` over all shards as the table has them, and delete what this export replaced.

    If another process does so, waits for it. Files of the whole export and `_SUCCESS` are replaced one by one, each at
    once: a reader sees the former or the new one.
    """
    while True:  # a process that was too slow sees whether whoever has taken its place has finished it
        with suppress(_LeaseLostError):
            return _finish(writer, place)


def _finish(writer: ShardWriter, place: ExportPlace) -> None:
    with _claimed(writer.engine, writer.export) as lease:
        found = records.get(writer.engine, writer.export.id)
        if found is None:
            raise NightmillError(f"the export of {writer.export.name} was deleted meanwhile")
        if writer.stamper is not None:
            writer.stamper.stamp(found.id)
        shards = records.shards_of(writer.engine, found.id)
        digest = versions_digest(shards)
        if found.finished != digest or not export_inventory.has_record(place, SUCCESS):
            held = _write(writer, place, found, shards, lease)
            values = {
                "finished": digest,
                "is_complete": all(shard.is_current for shard in shards),
                "deleted": [name for name in found.former if name not in held],
            }
            _run_as_holder(writer.engine, _FINISHED, values | {"id": found.id, "lease": lease})
        if writer.stamper is not None:
            writer.stamper.note_missing(found.id, shards)
        place.store.delete(place.prefix + INCOMPLETE)
        remove_temporaries(place.store, place.prefix.rstrip("/"), _CUT_OFF)


def tell_progress(writer: ShardWriter, place: ExportPlace) -> None:
    """Write `_INCOMPLETE`: the shards that are sealed so far, for readers that don't wait for `_SUCCESS`."""
    shards = [shard for shard in records.shards_of(writer.engine, writer.export.id) if shard.is_current]
    replaced = [
        {"name": name, "sha256": sha256}
        for name, digests in writer.export.former.items()
        for sha256 in digests
    ]
    body = export_inventory.record_of(
        place, [*replaced, *shard_files(shards)], shards=[shard_report(s) for s in shards]
    )
    place.store.put(place.prefix + INCOMPLETE, body, content_type="application/json")


@contextmanager
def _claimed(engine: Engine, export: Export) -> Iterator[UUID]:
    lease = uuid4()
    values = {"id": export.id, "lease": lease, "lease_s": shard_claims.LEASE_S}
    while not run(engine, _CLAIM, values):
        if records.get(engine, export.id) is None:
            raise NightmillError(
                f"the export of {export.name} was deleted or replaced by another one meanwhile"
            )
        time.sleep(_POLL_S)
    try:
        with renewed(lambda: run(engine, _EXTEND, values), shard_claims.LEASE_S):
            yield lease
    finally:
        run(engine, _RELEASE, values)


def _write(
    writer: ShardWriter, place: ExportPlace, export: Export, shards: Sequence[ShardRecord], lease: UUID
) -> Set[str]:
    """Write the files of the whole export; returns files that it has replaced and that its table still names."""
    engine, store, table = writer.engine, writer.store, writer.table
    if table is not None:
        table.remove_others(lambda: [shard.number for shard in records.shards_of(engine, export.id)])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        written = write_index(engine, _catalogue(writer.models_dir), _dataset(writer, place, shards), folder)
        files = [describe(folder, file) for file in written]
        known = [*export.files, *(file for file in files if file not in export.files)]
        _run_as_holder(engine, _NOTE_FILES, {"id": export.id, "lease": lease, "files": json.dumps(known)})
        writer.put(folder, files)
    body = success_record(engine, place, export, shards, files, table.report() if table else None)
    store.put(place.prefix + SUCCESS, body, content_type="application/json")
    kept = {file["name"] for file in [*shard_files(shards), *files]}
    former = export.former
    for file in export.files:
        former.setdefault(file["name"], set()).add(file["sha256"])
    unneeded = former.keys() - kept
    held = unneeded - table.release(unneeded) if table else set()
    _delete_former(engine, export, place, former, {*kept, *held})
    try:
        _run_as_holder(engine, _NOTE_FILES, {"id": export.id, "lease": lease, "files": json.dumps(files)})
    except _LeaseLostError:  # what was put may have replaced files of whoever has taken this one's place
        transact(engine, lambda connection: records.finish_again(connection, export.id, files))
        raise
    return held


def _run_as_holder(engine: Engine, statement: TextClause, values: Mapping[str, object]) -> None:
    if not run(engine, statement, values):
        raise _LeaseLostError("another process finishes the export")


def _dataset(writer: ShardWriter, place: ExportPlace, shards: Sequence[ShardRecord]) -> Dataset:
    return Dataset(
        name=writer.export.name,
        batches=[status(writer.engine, str(batch)) for batch in batches_of(shards)],
        exporter=writer.exporter,
        files=[file for shard in shards for file in shard.files],
        read=lambda name: place.store.get(place.prefix + name),
        images=lambda batch, rows: writer.image_reader(batch)(rows),
        is_stamped=any(timestamp_of(shard) for shard in shards),
    )


def _catalogue(models_dir: Path | None) -> Catalogue:
    """Return the package's cards and, if they can be read, the user's own."""
    with suppress(ModelError):
        if models_dir is not None:
            return Catalogue.load(models_dir)
    return Catalogue.load(Path())


def _delete_former(
    engine: Engine, export: Export, place: ExportPlace, files: Mapping[str, Set[str]], kept: set[str]
) -> None:
    """Delete files, SHA-256 by name, of an earlier index or export at the place, as far as they are still the same."""

    def delete(file: File) -> None:
        key = place.prefix + file["name"]
        if digest_if_there(place.store, key) in files[file["name"]]:
            place.store.delete(key)

    gone = [{"name": name} for name in files if name not in kept]
    delete_unnamed(engine, export.id, gone, delete)
