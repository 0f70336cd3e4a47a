"""Commits to an Iceberg table: data files of shards, with what the snapshot's summary tells of them."""

from collections.abc import Iterable, Mapping, Sequence

from pyiceberg.io.pyarrow import parquet_file_to_data_file
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import ancestors_of

from scheduler.export.tables.commit_properties import ALL, SHARD, files_told
from scheduler.export.tables.export_table import shard_of


def by_shard(files: Mapping[str, DataFile]) -> dict[int, list[DataFile]]:
    """Return the data files of each shard; files of other names belong to none."""
    found: dict[int, list[DataFile]] = {}
    for path, file in files.items():
        if (number := shard_of(path)) is not None:
            found.setdefault(number, []).append(file)
    return found


def last_commit(table: Table, number: int) -> list[str] | None:
    """Return the files of the shard's last commit that led to the current snapshot; None if that isn't known.

    None are in a table that was rolled back to before it.
    """
    oldest: int | None = 1
    for snapshot in ancestors_of(table.current_snapshot(), table.metadata):
        told = snapshot.summary.additional_properties if snapshot.summary else {}
        if told.get(SHARD) == str(number):
            return files_told(told)
        if told.get(SHARD) == ALL:
            return None
        oldest = snapshot.sequence_number
    return [] if oldest == 1 else None  # else earlier snapshots are expired


def replace_files(
    table: Table, there: Iterable[DataFile], wanted: Sequence[str], properties: Mapping[str, str]
) -> None:
    """Commit data files, by path, in place of those that are there; as an append if none of these goes.

    Readers of increments know appends. Raises an exception of pyiceberg's if another commit came between.
    """
    former = [file for file in there if file.file_path not in wanted]
    kept = {file.file_path for file in there} & set(wanted)
    added = [path for path in wanted if path not in kept]
    transaction = table.transaction()
    if former:
        with transaction.update_snapshot(snapshot_properties=dict(properties)).overwrite() as overwrite:
            for file in former:
                overwrite.delete_data_file(file)
            for path in added:
                overwrite.append_data_file(parquet_file_to_data_file(table.io, table.metadata, path))
    else:
        transaction.add_files(added, snapshot_properties=dict(properties), check_duplicate_files=False)
    transaction.commit_transaction()
