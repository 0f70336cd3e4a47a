"""The files that an Iceberg table names: data files by snapshot, and metadata."""

from collections.abc import Collection, Iterator

from pyiceberg.manifest import DataFile, DataFileContent
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot


def data_files(table: Table) -> dict[str, DataFile]:
    """Return the data files of the current snapshot, by path."""
    snapshot = table.current_snapshot()
    return {file.file_path: file for file in _files_of(table, snapshot)} if snapshot else {}


def _files_of(table: Table, snapshot: Snapshot) -> Iterator[DataFile]:
    for manifest in snapshot.manifests(table.io):
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
            if entry.data_file.content == DataFileContent.DATA:
                yield entry.data_file


def expire_snapshots_with(table: Table, paths: Collection[str]) -> set[str]:
    """Expire the snapshots that have one of these data files; returns the paths that some still have.

    Those are of the current snapshot, and of others that the user keeps by tags and branches.
    """
    held: set[str] = set()
    expired = []
    if not paths:
        return held
    named = {ref.snapshot_id for ref in table.refs().values()}
    for snapshot in table.snapshots():
        found = {file.file_path for file in _files_of(table, snapshot)} & set(paths)
        if found and snapshot.snapshot_id in named:
            held |= found
        elif found:
            expired.append(snapshot.snapshot_id)
    if expired:
        table.maintenance.expire_snapshots().by_ids(expired).commit()
    return held


def metadata_files(table: Table) -> set[str]:
    """Return the paths of all files that the table needs beside its data."""
    found = {table.metadata_location, *(entry.metadata_file for entry in table.metadata.metadata_log)}
    for snapshot in table.snapshots():
        found.add(snapshot.manifest_list)
        found |= {manifest.manifest_path for manifest in snapshot.manifests(table.io)}
    return found
