"""Compares the files at an export's place with those that the database names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import Connection, Engine

from jobs.exports import records
from jobs.exports.mark_outdated_shards import mark_shard
from jobs.exports.records import Export, File, ShardRecord
from jobs.outputs.export_inventory import RECORDS
from jobs.storage.base import StoredObject, digest_if_there
from jobs.storage.key_layout import belongs_to_table
from scheduler.export.export_request import ExportRequest

_GRAIN = timedelta(seconds=2)
"""Tolerance for modification times, which stores give in whole seconds."""


@dataclass
class Compared:
    """What an export's place holds: the names of files that aren't the export's, and of those that were changed."""

    others: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """Files of shards that aren't as they were written; their shards are marked."""
    changed_index: list[str] = field(default_factory=list)
    """Files about the export as a whole, such as its card."""
    gone_index: list[str] = field(default_factory=list)


def check_files(engine: Engine, connection: Connection, export: Export, request: ExportRequest) -> Compared:
    """Mark the shards whose files are gone or were changed, to be written again; returns what isn't as written.

    Other processes may write shards meanwhile: the place is listed first, as the database names every file before it
    is put there.
    """
    folder = request.prefix.rstrip("/")
    names = [name.removeprefix(request.prefix).rstrip("/") for name in request.store.names(folder)]
    listing = {found.key.removeprefix(request.prefix): found for found in request.store.list(request.prefix)}
    compared = Compared()
    for shard in records.shards_of(engine, export.id):
        if shard.pending is None and not all(_is_listed(listing, file, shard) for file in shard.files):
            compared.changed += _check_closely(engine, connection, export, request, shard)
    known = records.recorded_digests(engine, export)
    ours = {*known, *RECORDS}
    compared.others = [name for name in names if name not in ours and not belongs_to_table(name)]
    for name in sorted(file["name"] for file in export.files):
        if name not in listing:
            compared.gone_index.append(name)
        elif digest_if_there(request.store, request.prefix + name) not in (None, *known[name]):
            compared.changed_index.append(name)
    return compared


def _is_listed(listing: Mapping[str, StoredObject], file: File, shard: ShardRecord) -> bool:
    """Whether the file has its size and wasn't changed after it was written, as far as the listing tells."""
    found = listing.get(file["name"])
    if found is None or found.bytes != file["bytes"] or shard.written_at is None:
        return False
    return found.modified <= shard.written_at + _GRAIN


def _check_closely(
    engine: Engine, connection: Connection, export: Export, request: ExportRequest, shard: ShardRecord
) -> list[str]:
    """Mark the shard if a file is gone or was changed; returns the names of those that somebody else changed."""
    names = [file["name"] for file in shard.files]
    digests = {name: digest_if_there(request.store, request.prefix + name) for name in names}
    now = next((s for s in records.shards_of(engine, export.id) if s.number == shard.number), None)
    if now is None or (now.version, now.pending) != (shard.version, None):
        return []  # another process is writing it
    wrong = [file["name"] for file in shard.files if digests[file["name"]] != file["sha256"]]
    if wrong:
        mark_shard(connection, export.id, shard.number)
    known = records.recorded_digests(engine, export)  # a writer that was overtaken may have put its own there
    return [name for name in wrong if digests[name] not in (None, *known[name])]
