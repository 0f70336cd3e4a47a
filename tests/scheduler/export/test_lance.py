"""Exports as Lance datasets, read back by Lance and `datasets`: each shard is a fragment that is committed once."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import lance
import pytest
from lance import LanceDataset, LanceOperation
from lance.fragment import FragmentMetadata
from PIL import Image
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.batches.status import BatchStatus
from jobs.errors import UsageError
from jobs.exports import records
from jobs.storage.open import ObjectStore, S3Options, open_store
from scheduler.export.export_options import ExportOptions
from scheduler.export.export_request import ExportRequest
from scheduler.export.exporters import exporter_of
from scheduler.export.open_export import open_export
from scheduler.export.run_export import Exported, export
from scheduler.export.tables import lance_table
from scheduler.export.tables.lance_table import LanceTable
from scheduler.export.write_shards import ShardWriter
from tests.factories import change, look
from tests.s3 import S3Server
from tests.scheduler.export.datasets import picture, with_pictures
from tests.scheduler.export.test_sealed_shards import success

ROWS = 2


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter_of("lance"), "shard_rows", ROWS)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "out"), S3Options())


@pytest.fixture
def batch(engine: Engine, tmp_path: Path) -> BatchStatus:
    """Three shards with pictures."""
    rows = [{"prompt": f"fox {n}", "label": f"l{n}", "seed": 2**64 - 1 - n} for n in range(6)]
    return with_pictures(engine, tmp_path / "images", rows)


def exported(engine: Engine, store: ObjectStore, *batches: BatchStatus, **options: Any) -> Exported:
    request = order(engine, store, *batches, **options)
    return export(engine, request, lambda _: open_store(batches[0].output, S3Options()))


def order(engine: Engine, store: ObjectStore, *batches: BatchStatus, **options: Any) -> ExportRequest:
    found = [actions.status(engine, batch.name) for batch in batches]
    chosen = ExportOptions(meta_columns=(("label", "string"),), **options.pop("chosen", {}))
    return ExportRequest(found, "lance", store, options=chosen, **options)


def retract(engine: Engine, batch: BatchStatus, ordinal: int) -> None:
    """Take an image's row away, as its retraction does."""
    change(engine, "DELETE FROM images WHERE batch_id = :batch AND ordinal = :n", batch=batch.id, n=ordinal)
    change(
        engine, "UPDATE export_shards SET generation = generation + 1 WHERE number = :n", n=ordinal // ROWS
    )


def ordinals(store: ObjectStore) -> list[int]:
    return sorted(lance.dataset(store.uri).to_table(["ordinal"])["ordinal"].to_pylist())


def told(store: ObjectStore) -> list[tuple[str, str]]:
    """Shard and version of the commits, newest first."""
    found = [transaction.transaction_properties or {} for transaction in transactions(store)]
    return [
        (each["nightmill.shard"], each["nightmill.version"]) for each in found if "nightmill.version" in each
    ]


def transactions(store: ObjectStore) -> list[Any]:
    return [found for found in lance.dataset(store.uri).get_transactions(100) if found is not None]


class TestReading:
    def test_by_lance(self, engine: Engine, store: ObjectStore, batch: BatchStatus) -> None:
        exported(engine, store, batch)
        dataset = lance.dataset(store.uri)
        rows = dataset.to_table(filter="meta_label = 'l4'").to_pylist()
        assert [(row["ordinal"], row["seed"], row["text"]) for row in rows] == [(4, 2**64 - 5, "fox 4")]
        assert rows[0]["image"] == picture(rows[0]["job_id"])
        assert Image.open(io.BytesIO(rows[0]["image"])).size == (24, 24)
        assert told(store) == [("2", "1"), ("1", "1"), ("0", "1")]
        assert success(store)["table"] == {"dataset": store.uri, "version": dataset.version}

    def test_by_datasets(
        self, engine: Engine, store: ObjectStore, batch: BatchStatus, tmp_path: Path
    ) -> None:
        exported(engine, store, batch)
        found = datasets.load_dataset(store.uri, cache_dir=str(tmp_path / "cache"), split="train")
        assert (found.num_rows, found[3]["text"], found[3]["image"].size) == (6, "fox 3", (24, 24))

    def test_the_data_files_are_the_same_bytes_elsewhere(
        self, engine: Engine, store: ObjectStore, batch: BatchStatus, tmp_path: Path
    ) -> None:
        other = open_store(str(tmp_path / "other"), S3Options())
        exported(engine, store, batch)
        exported(engine, other, batch)
        digests = [[(f.key, place.digest(f.key)) for f in place.list("data/")] for place in (store, other)]
        assert digests[0] == digests[1]
        assert len(digests[0]) == 3

    def test_in_s3(self, engine: Engine, s3: S3Server, batch: BatchStatus) -> None:
        place = open_store(f"{s3.uri}/lance", S3Options(endpoint_url=s3.endpoint_url, region="us-east-1"))
        exported(engine, place, batch)
        retract(engine, batch, 5)
        exported(engine, place, batch)
        reading = {"aws_endpoint": s3.endpoint_url, "aws_region": "us-east-1", "allow_http": "true"}
        assert lance.dataset(place.uri, storage_options=reading).count_rows() == 5


class TestChanges:
    def test_a_retraction(self, engine: Engine, store: ObjectStore, batch: BatchStatus) -> None:
        exported(engine, store, batch)
        before = {found.key for found in store.list("data/")}
        retract(engine, batch, 3)
        exported(engine, store, batch)
        assert ordinals(store) == [0, 1, 2, 4, 5]
        after = {found.key for found in store.list("data/")}
        assert (len(before & after), len(after)) == (2, 3)
        assert told(store) == [("1", "2")], "versions that name deleted files are gone"

    def test_what_a_tag_keeps_stays(self, engine: Engine, store: ObjectStore, batch: BatchStatus) -> None:
        exported(engine, store, batch)
        dataset = lance.dataset(store.uri)
        dataset.tags.create("v1", dataset.version)
        retract(engine, batch, 3)
        exported(engine, store, batch)
        assert lance.dataset(store.uri, version="v1").to_table(["image"]).num_rows == 6
        assert ordinals(store) == [0, 1, 2, 4, 5]

    def test_a_column_that_is_new(self, engine: Engine, store: ObjectStore, batch: BatchStatus) -> None:
        """As when a later nightmill goes on with the export."""
        exported(engine, store, batch, chosen={"columns": ("ordinal",)})
        opened = open_export(engine, order(engine, store, batch, chosen={"columns": ("ordinal",)}))
        wider = order(engine, store, batch, chosen={"columns": ("ordinal", "seed")})
        retract(engine, batch, 3)
        images = open_store(batch.output, S3Options())
        ShardWriter(engine, opened, wider.exporter, store, lambda _: images).write_all(unfinished=False)
        rows = lance.dataset(store.uri).to_table(["ordinal", "seed"]).sort_by("ordinal").to_pylist()
        assert [(row["ordinal"], row["seed"] is None) for row in rows] == [
            *((0, True), (1, True), (2, False)),
            *((4, True), (5, True)),
        ]

    def test_other_columns_are_another_dataset(
        self, engine: Engine, store: ObjectStore, batch: BatchStatus
    ) -> None:
        exported(engine, store, batch)
        exported(engine, store, batch, chosen={"columns": ("ordinal",)})
        assert lance.dataset(store.uri).schema.names == ["image", "text", "c2pa_manifest", "ordinal"]
        assert (ordinals(store), len(list(store.list("data/")))) == ([0, 1, 2, 3, 4, 5], 3)

    def test_without_one_of_two_batches(self, engine: Engine, store: ObjectStore, batch: BatchStatus) -> None:
        second = with_pictures(engine, Path(batch.output), 2)
        exported(engine, store, batch, second, name="both")
        assert len(ordinals(store)) == 8
        with engine.begin() as connection:
            records.remove_batch(connection, batch.id)
        exported(engine, store, second, name="both")
        assert (ordinals(store), len(list(store.list("data/")))) == ([0, 1], 1)


class _KilledError(Exception):
    """As of a writer that is killed, for all but its connections."""


def stop(*_: object, **__: object) -> None:
    raise _KilledError


def before_the_commit(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(LanceTable, "commit", stop)


def after_the_commit(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(ShardWriter, "_publish", stop)


@pytest.mark.parametrize("where", [before_the_commit, after_the_commit])
def test_a_writer_that_is_killed_is_followed(
    engine: Engine, store: ObjectStore, batch: BatchStatus, where: Callable[[pytest.MonkeyPatch], None]
) -> None:
    for version in ("1", "2"):
        with pytest.MonkeyPatch.context() as patched:
            where(patched)
            with pytest.raises(_KilledError):
                exported(engine, store, batch)
        open_export(engine, order(engine, store, batch))
        exported(engine, store, batch)
        assert told(store).count(("0", version)) == 1
        assert len(ordinals(store)) == 7 - int(version)
        retract(engine, batch, int(version) - 1)


class TestSeveralWriters:
    def test_conflicting_commits_are_made_again(
        self, engine: Engine, store: ObjectStore, batch: BatchStatus
    ) -> None:
        opened = open_export(engine, order(engine, store, batch))

        def work(_: int) -> int:
            form, images = order(engine, store, batch).exporter, open_store(batch.output, S3Options())
            return ShardWriter(engine, opened, form, store, lambda _: images).write_all(unfinished=False)

        with ThreadPoolExecutor(3) as threads:
            assert sum(threads.map(work, range(3))) == 3
        assert ordinals(store) == list(range(6))

    def test_two_files_of_one_shard_are_never_both_in_the_dataset(
        self, engine: Engine, store: ObjectStore, batch: BatchStatus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A writer loses its lease while it commits; another one writes other rows of the shard meanwhile."""
        request = order(engine, store, batch)
        opened, images = open_export(engine, request), open_store(batch.output, S3Options())
        writer = ShardWriter(engine, opened, request.exporter, store, lambda _: images)
        replace, todo = LanceTable._replace, ["once"]

        def overtaken(table: LanceTable, dataset: LanceDataset, *given: Any) -> None:
            if todo and todo.pop():
                change(
                    engine,
                    "UPDATE export_shards SET lease_until = now() - interval '1 s' WHERE lease IS NOT NULL",
                )
                retract(engine, batch, 1)
                ShardWriter(engine, opened, request.exporter, store, lambda _: images).write_all(
                    unfinished=False
                )
            replace(table, dataset, *given)

        monkeypatch.setattr(LanceTable, "_replace", overtaken)
        writer.write_all(unfinished=False)
        assert len(ordinals(store)) == len(set(ordinals(store)))
        exported(engine, store, batch)
        assert ordinals(store) == [
            row["ordinal"] for row in look(engine, "SELECT ordinal FROM images ORDER BY 1")
        ]

    def test_with_an_update_in_place_of_a_merge_they_are(
        self, engine: Engine, store: ObjectStore, batch: BatchStatus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The twin: for Lance, two updates that add are no conflict."""

        def update(fragments: list[FragmentMetadata], schema: object) -> LanceOperation.Update:
            return LanceOperation.Update(new_fragments=fragments[-1:])

        monkeypatch.setattr(lance_table.LanceOperation, "Merge", update)
        with pytest.raises(AssertionError):
            self.test_two_files_of_one_shard_are_never_both_in_the_dataset(engine, store, batch, monkeypatch)


def test_a_dataset_that_others_have_compacted_is_left_alone(
    engine: Engine, store: ObjectStore, batch: BatchStatus
) -> None:
    prefix = f"{batch.name}/export-lance/"
    exported(engine, store, batch, prefix=prefix)
    lance.dataset(f"{store.uri}/{prefix}").optimize.compact_files()
    retract(engine, batch, 3)
    with pytest.raises(UsageError, match=r"was changed: .* --replace` makes the dataset anew"):
        exported(engine, store, batch, prefix=prefix)
    exported(engine, store, batch, prefix=prefix, replace=True)
    assert lance.dataset(f"{store.uri}/{prefix}").count_rows() == 5
