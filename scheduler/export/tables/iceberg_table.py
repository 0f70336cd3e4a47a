"""An export as an Iceberg table: one idempotent commit for each version of a shard."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException, ValidationException
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table, TableProperties

from jobs.errors import NightmillError, UsageError
from jobs.storage.key_layout import is_table_metadata
from scheduler.export.export_options import ExportOptions
from scheduler.export.tables.catalog_names import OWN
from scheduler.export.tables.commit_properties import EXPORT, of_all_shards, of_shard, retry_delays
from scheduler.export.tables.export_table import ExportTable, ShardCommit, TablePlace
from scheduler.export.tables.iceberg_catalog_entry import TableIdentity
from scheduler.export.tables.iceberg_commits import by_shard, last_commit, replace_files
from scheduler.export.tables.iceberg_snapshot_files import data_files, expire_snapshots_with, metadata_files

ORPHANED_AFTER = timedelta(days=1)
"""After this time, a metadata file that the table doesn't name is of no commit that is still being made."""

_CONFLICTS = (CommitFailedException, CommitStateUnknownException, ValidationException)


class IcebergTable(ExportTable):
    """The Iceberg table of an export; its catalog is opened for each operation."""

    def __init__(self, place: TablePlace, options: ExportOptions, schema: pa.Schema | None = None) -> None:
        """`schema` isn't needed to drop the table."""
        self.place = place
        self.identity = TableIdentity(place, options, pa.schema([]) if schema is None else schema)

    def open(self, published: Mapping[int, Sequence[str]], *, replace: bool = False) -> list[int]:
        """Create the table if it isn't there, and compare its files with those of the shards."""
        with self.identity.opened() as entry:
            table = entry.make()
            files = by_shard(data_files(table))
            if table.current_snapshot() is not None:
                differing = [n for n, names in published.items() if not self._has(files.get(n, ()), names)]
                if not any(self._is_foreign(table, files.get(n, ()), n, published[n]) for n in differing):
                    return differing
                if not replace:
                    raise self._changed()
                entry.drop()
                table = entry.make()
            if paths := [self.identity.path(name) for names in published.values() for name in names]:
                table.add_files(paths, snapshot_properties=of_all_shards(self.place.export.id))
            return []

    def commit(self, shard: ShardCommit) -> None:
        """Add the shard's file, or replace the one of the version before; again if another writer was first."""

        def commit(table: Table) -> None:
            there = by_shard(data_files(table)).get(shard.number, [])
            if self._has(there, shard.files):
                return  # by a writer that was killed before it could say so
            if self._is_foreign(table, there, shard.number, shard.published):
                raise self._changed()
            paths = [self.identity.path(name) for name in shard.files]
            replace_files(table, there, paths, of_shard(self.place.export.id, shard))

        self._in_turns(commit)

    def remove_others(self, numbers: Callable[[], Collection[int]]) -> None:
        """Delete the files of shards that the export no longer has."""

        def remove(table: Table) -> None:
            files = by_shard(data_files(table))  # before the numbers are read: a later commit is a conflict
            others = [file for number in files.keys() - set(numbers()) for file in files[number]]
            if others:
                replace_files(table, others, [], {EXPORT: str(self.place.export.id)})

        self._in_turns(remove)

    def release(self, names: Collection[str]) -> set[str]:
        """Expire snapshots that have the files, and delete metadata that nothing names."""
        paths = {self.identity.path(name): name for name in names}
        held: set[str] = set()

        def forget(table: Table) -> None:
            held.clear()
            held.update(expire_snapshots_with(table, paths))

        self._in_turns(forget)
        self._delete_orphans()
        return {name for path, name in paths.items() if path not in held}

    def report(self) -> dict[str, Any]:
        """Return the catalog, the table, and where its metadata is at present."""
        with self.identity.opened() as entry:
            table = entry.load()
        snapshot = table.current_snapshot()
        return {
            "catalog": self.identity.catalog_name or OWN,
            "table": ".".join(self.identity.identifier),
            "metadata": table.metadata_location,
            "snapshot": snapshot.snapshot_id if snapshot else None,
        }

    def drop(self) -> None:
        """Take the table out of the catalog, if it is this export's, and delete its metadata in the export's folder."""
        with self.identity.opened() as entry:
            found = entry.find()
            if found is None or not entry.is_ours(found):
                return
            entry.drop()
        if found.location() == self.identity.location:
            self._delete_metadata(lambda _path, _modified: True)

    def _has(self, there: Iterable[DataFile], names: Iterable[str]) -> bool:
        """Whether these data files are those of these names, and no others."""
        return {file.file_path for file in there} == {self.identity.path(name) for name in names}

    def _is_foreign(
        self, table: Table, there: Iterable[DataFile], number: int, published: Sequence[str]
    ) -> bool:
        """Whether the shard's files in the table are neither what nightmill last committed nor what is published.

        So it is when somebody has rewritten or deleted data files, as compaction does. The shard's rows might be in
        files of other names: adding them again would double them.
        """
        committed = last_commit(table, number)
        return not self._has(there, published if committed is None else committed)

    def _changed(self) -> UsageError:
        return UsageError(
            f"{self.identity} was changed: its data files aren't those that nightmill committed, and writing more "
            "would lose or double rows; `nightmill export … --replace` makes the table anew"
        )

    def _in_turns(self, work: Callable[[Table], None]) -> None:
        """Call `work` with the table as it is, again when another commit came between.

        It compares what there is with what is wanted each time, which pyiceberg's own retries don't: two writers of a
        shard, one of which had lost its lease, would both add their file.
        """
        with self.identity.opened() as entry:
            for wait_s in retry_delays():
                try:
                    table = entry.load()
                    table.metadata.properties[TableProperties.COMMIT_NUM_RETRIES] = "0"  # of this copy alone
                    return work(table)
                except _CONFLICTS:
                    time.sleep(wait_s)
        raise NightmillError(f"{self.identity}: others commit to it all the time; export again later")

    def _delete_orphans(self) -> None:
        """Delete metadata of commits that others were faster than, and of snapshots that are expired."""
        with self.identity.opened() as entry:
            named = metadata_files(entry.load())
        limit = datetime.now(UTC) - ORPHANED_AFTER
        self._delete_metadata(lambda path, modified: path not in named and modified < limit)

    def _delete_metadata(self, is_chosen: Callable[[str, datetime], bool]) -> None:
        prefix, store = self.place.export.prefix, self.place.store
        for found in list(store.list(f"{prefix}metadata/")):
            name = found.key.removeprefix(prefix)
            if is_table_metadata(name) and is_chosen(self.identity.path(name), found.modified):
                store.delete(found.key)
