"""An export as a Lance dataset: one idempotent commit for each version of a shard."""

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pyarrow as pa
from sqlalchemy import text

from jobs.errors import NightmillError, UsageError
from jobs.exports.delete_unreferenced_files import lock_files
from jobs.storage.key_layout import is_table_metadata
from scheduler.export.tables.commit_properties import EXPORT, of_all_shards, of_shard, retry_delays
from scheduler.export.tables.export_table import ExportTable, ShardCommit, TablePlace
from scheduler.export.tables.s3_access import s3_access

os.environ.setdefault("LANCE_LOG", "error")  # else it tells on stderr of each dataset that is created

import lance
from lance import LanceDataset, LanceOperation, Transaction
from lance.commit import CommitConflictError
from lance.file import LanceFileReader, LanceFileWriter
from lance.fragment import DataFile, FragmentMetadata

from scheduler.export.tables.lance_fragments import (
    fragments_of,
    is_foreign,
    name_of,
    names_of,
    number_of,
    storage_options,
)

__all__ = ["FILE_VERSION", "LanceFileWriter", "LanceTable"]

FILE_VERSION = (2, 1)
"""Of Lance's file format; another one makes other bytes of the same rows."""
WHOSE = b"nightmill.export"

_IS_ANY_PENDING = text(
    "SELECT count(*) > 0 FROM export_shards WHERE export_id = :export AND pending IS NOT NULL"
)


class LanceTable(ExportTable):
    """The Lance dataset of an export, in the export's folder."""

    def __init__(self, place: TablePlace, schema: pa.Schema) -> None:
        self.place = place
        self.uri = place.folder
        whose = f"{place.export.installation}/{place.export.id}"
        self.schema = schema.with_metadata({WHOSE: whose})

    def open(self, published: Mapping[int, Sequence[str]], *, replace: bool = False) -> list[int]:
        """Create the dataset if it isn't there, and compare its files with those of the shards."""
        with self._explained():
            found = self._found()
            if found is not None and self._is_ours(found):
                differing = [n for n, names in published.items() if names_of(found, n) != set(names)]
                if not any(is_foreign(found, n, published[n]) for n in differing):
                    return differing
                if not replace:
                    raise self._changed()
            names = [name for each in published.values() for name in each]
            fragments = [self._fragment(number, name, self.schema) for number, name in enumerate(names)]
            operation = LanceOperation.Overwrite(self.schema, fragments)
            version = found.version if found is not None else 0
            self._commit(operation, version, of_all_shards(self.place.export.id))
            return []

    def commit(self, shard: ShardCommit) -> None:
        """Add the shard's fragment, or replace the one of the version before; again if another writer was first."""
        told = of_shard(self.place.export.id, shard)

        def commit(dataset: LanceDataset) -> None:
            if names_of(dataset, shard.number) == set(shard.files):
                return  # by a writer that was killed before it could say so
            if is_foreign(dataset, shard.number, shard.published):
                raise self._changed()
            self._replace(dataset, fragments_of(dataset, shard.number), shard.files, told)

        self._in_turns(commit)

    def remove_others(self, numbers: Callable[[], Collection[int]]) -> None:
        """Take out the fragments of shards that the export no longer has."""

        def remove(dataset: LanceDataset) -> None:
            found = {
                number_of(fragment) for fragment in dataset.get_fragments()
            }  # before the numbers are read
            others = [f for n in found - {None, *numbers()} for f in fragments_of(dataset, n)]
            if others:
                self._replace(dataset, others, [], {EXPORT: str(self.place.export.id)})

        self._in_turns(remove)

    def release(self, names: Collection[str]) -> set[str]:
        """Delete versions before the current one, but for tagged ones, with the files that they alone have.

        Nothing is released while a shard's file is being put in place: it may be one of those.
        """
        with self._explained(), self.place.engine.begin() as connection:
            lock_files(connection, self.place.export.id)
            values = {"export": self.place.export.id}
            if not names or connection.execute(_IS_ANY_PENDING, values).scalar_one():
                return set()
            dataset = self._loaded()
            dataset.cleanup_old_versions(timedelta(0), error_if_tagged_old_versions=False)
            held: set[str] = set()
            for version in dataset.versions():
                fragments = dataset.checkout_version(version["version"]).get_fragments()
                held |= {name_of(fragment.metadata) for fragment in fragments}
        return set(names) - held

    def report(self) -> dict[str, Any]:
        """Return where the dataset is, and its version."""
        with self._explained():
            return {"dataset": self.uri, "version": self._loaded().version}

    def drop(self) -> None:
        """Delete the dataset's versions; data files stay."""
        prefix, store = self.place.export.prefix, self.place.store
        for found in list(store.list(prefix)):
            if is_table_metadata(found.key.removeprefix(prefix)):
                store.delete(found.key)

    def _found(self) -> LanceDataset | None:
        try:
            return lance.dataset(self.uri, storage_options=self._storage)
        except (ValueError, FileNotFoundError) as error:
            if "not found" in str(error).lower() or isinstance(error, FileNotFoundError):
                return None
            raise

    def _loaded(self) -> LanceDataset:
        found = self._found()
        if found is None or not self._is_ours(found):
            raise NightmillError(
                f"{self.uri} is no longer the dataset of export {self.place.export.id}: export again, which makes it "
                "anew"
            )
        if lacking := [field for field in self.schema if field.name not in found.schema.names]:
            found.add_columns(pa.schema(lacking))
        return found

    def _is_ours(self, dataset: LanceDataset) -> bool:
        return bool((dataset.schema.metadata or {}).get(WHOSE) == self.schema.metadata[WHOSE])

    def _replace(
        self,
        dataset: LanceDataset,
        former: Sequence[FragmentMetadata],
        names: Sequence[str],
        told: Mapping[str, str],
    ) -> None:
        """Commit files in place of fragments. A commit that isn't of the current version is a conflict.

        Two updates that only add are none for Lance, and both shards' files would stay: adding is a merge, which is
        one with everything.
        """
        if former:
            new = [self._fragment(0, name, dataset.schema, dataset) for name in names]
            ids = [fragment.id for fragment in former]
            operation: Any = LanceOperation.Update(removed_fragment_ids=ids, new_fragments=new)
        else:
            first = max((fragment.fragment_id for fragment in dataset.get_fragments()), default=-1) + 1
            new = [self._fragment(first + n, name, dataset.schema, dataset) for n, name in enumerate(names)]
            kept = [fragment.metadata for fragment in dataset.get_fragments()]
            operation = LanceOperation.Merge([*kept, *new], dataset.lance_schema)
        self._commit(operation, dataset.version, told)

    def _commit(self, operation: Any, version: int, told: Mapping[str, str]) -> None:
        transaction = Transaction(version, operation, transaction_properties=dict(told))
        LanceDataset.commit(self.uri, transaction, storage_options=self._storage, max_retries=0)

    def _fragment(
        self, number: int, name: str, schema: pa.Schema, dataset: LanceDataset | None = None
    ) -> FragmentMetadata:
        """Return the fragment that a data file is."""
        path = f"{self.uri}/{name}"
        found = LanceFileReader(path, storage_options=self._storage).metadata()
        ids = {field: n for n, field in enumerate(schema.names)}
        if dataset is not None:
            ids = {field.name(): field.id() for field in dataset.lance_schema.fields()}
        fields = [ids[field] for field in found.schema.names]
        file = DataFile(
            name.removeprefix("data/"),
            fields,
            list(range(len(fields))),
            *FILE_VERSION,
        )
        return FragmentMetadata(number, [file], found.num_rows)

    def _in_turns(self, work: Callable[[LanceDataset], None]) -> None:
        with self._explained():
            for wait_s in retry_delays():
                try:
                    return work(self._loaded())
                except CommitConflictError:
                    time.sleep(wait_s)
        raise NightmillError(f"{self.uri}: others commit to it all the time; export again later")

    @property
    def _storage(self) -> dict[str, str]:
        found = s3_access(self.place.store)
        return storage_options(found) if found else {}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except NightmillError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            raise NightmillError(f"Lance, {self.uri}: {str(error).strip().splitlines()[0]}") from error

    def _changed(self) -> UsageError:
        return UsageError(
            f"{self.uri} was changed: its fragments aren't those that nightmill committed, and writing more would lose "
            "or double rows; `nightmill export … --replace` makes the dataset anew"
        )
