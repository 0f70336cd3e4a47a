"""Compares the files at an export's place with those that the database names."""

from collections.abc import Mapping
from datetime import timedelta

from sqlalchemy import Connection, Engine

from jobs.errors import UsageError
from jobs.exports import records
from jobs.exports.mark_outdated_shards import mark_outdated
from jobs.exports.records import Export, File, ShardRecord
from jobs.outputs.export_inventory import RECORDS
from jobs.storage.base import StoredObject, digest_if_there
from jobs.storage.key_layout import is_table_metadata
from scheduler.export.export_request import ExportRequest

_GRAIN = timedelta(seconds=2)
"""Tolerance for modification times, which stores give in whole seconds."""


def check_files(engine: Engine, connection: Connection, export: Export, order: ExportRequest) -> list[str]:
    """Mark the shards whose files are gone, to be written again; returns the names of files that aren't the export's.

    Raises UsageError if a file isn't what was written, unless the order allows overwriting it. Other processes may
    write shards meanwhile: the place is listed first, as the database names every file before it is put there.
    """
    folder = order.prefix.rstrip("/")
    names = [name.removeprefix(order.prefix) for name in order.store.names(folder)]
    listing = {found.key.removeprefix(order.prefix): found for found in order.store.list(order.prefix)}
    for shard in records.shards_of(engine, export.id):
        if shard.pending is None and not all(_is_listed(listing, file, shard) for file in shard.files):
            _check_closely(engine, connection, export, order, shard)
    known = {*records.recorded_digests(engine, export), *RECORDS}
    return [name for name in names if name not in known and not is_table_metadata(name)]


def _is_listed(listing: Mapping[str, StoredObject], file: File, shard: ShardRecord) -> bool:
    """Whether the file has its size and wasn't changed after it was written, as far as the listing tells."""
    found = listing.get(file["name"])
    if found is None or found.bytes != file["bytes"] or shard.written_at is None:
        return False
    return found.modified <= shard.written_at + _GRAIN


def _check_closely(
    engine: Engine, connection: Connection, export: Export, order: ExportRequest, shard: ShardRecord
) -> None:
    names = [file["name"] for file in shard.files]
    digests = {name: digest_if_there(order.store, order.prefix + name) for name in names}
    now = next((s for s in records.shards_of(engine, export.id) if s.number == shard.number), None)
    if now is None or (now.version, now.pending) != (shard.version, None):
        return  # another process is writing it
    wrong = [file["name"] for file in shard.files if digests[file["name"]] != file["sha256"]]
    changed = [name for name in wrong if digests[name] is not None]
    if changed and not order.overwrite:
        raise UsageError(
            f"{order.store.locate(order.prefix + changed[0])} was changed, which no export of {order.dataset} did: "
            "export to another folder, or say --overwrite, which writes it anew"
        )
    if wrong:
        mark_outdated(connection, shard.batch_id, [shard.first_ordinal])
