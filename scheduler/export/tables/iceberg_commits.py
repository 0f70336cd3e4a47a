"""Commits to an Iceberg table: data files of shards, with what the snapshot's summary tells of them."""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pyiceberg.io.pyarrow import parquet_file_to_data_file
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.snapshots import ancestors_of

from scheduler.export.tables.export_table import ShardCommit, shard_of

EXPORT, SHARD, VERSION = "nightmill.export", "nightmill.shard", "nightmill.version"
CURSOR, FILES = "nightmill.cursor", "nightmill.files"

ALL = "all"
"""In place of a shard's number: the files of all shards, in a table that was made anew."""

TRIES = 40
"""Commits of others that one commit yields to."""


def by_shard(files: Mapping[str, DataFile]) -> dict[int, list[DataFile]]:
    """Return the data files of each shard; files of other names belong to none."""
    found: dict[int, list[DataFile]] = {}
    for path, file in files.items():
        if (number := shard_of(path)) is not None:
            found.setdefault(number, []).append(file)
    return found


def summary_of(export: int, shard: ShardCommit) -> dict[str, str]:
    """Return what the snapshot's summary tells of a shard."""
    return {
        EXPORT: str(export),
        SHARD: str(shard.number),
        VERSION: str(shard.version),
        CURSOR: shard.cursor,
        FILES: ",".join(shard.files),
    }


def last_commit(table: Table, number: int) -> list[str] | None:
    """Return the files of the shard's last commit that led to the current snapshot; None if that isn't known.

    None are in a table that was rolled back to before it.
    """
    oldest: int | None = 1
    for snapshot in ancestors_of(table.current_snapshot(), table.metadata):
        told = snapshot.summary.additional_properties if snapshot.summary else {}
        if told.get(SHARD) == str(number):
            return [name for name in told.get(FILES, "").split(",") if name]
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


def pauses() -> Iterator[float]:
    """Yield how long to wait before each further try, in seconds: longer and longer, up to 2 s."""
    for number in range(TRIES):
        yield random.uniform(0.5, 1) * min(0.05 * 1.5**number, 2.0)  # noqa: S311 - no secret
