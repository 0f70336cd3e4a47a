"""Exports as Iceberg tables, read by pyiceberg and DuckDB: each shard is committed once, whoever is killed when."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pytest
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.table import StaticTable, Table
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.db.engine import connect
from jobs.errors import NightmillError, UsageError
from jobs.exports import records
from jobs.job_dataclasses import Failure
from jobs.queue import transitions
from jobs.states import ErrorKind
from jobs.storage.open import ObjectStore, S3Options, open_store
from scheduler.export.export_options import ExportOptions
from scheduler.export.export_request import ExportRequest
from scheduler.export.exporters import exporter_of
from scheduler.export.open_export import open_export
from scheduler.export.run_export import Exported, export
from scheduler.export.tables import iceberg_table
from scheduler.export.tables.catalog_names import SCHEMA
from scheduler.export.tables.commit_properties import CURSOR, FILES, SHARD, VERSION
from scheduler.export.tables.drop_tables import drop_tables_beside_images
from scheduler.export.tables.iceberg_table import IcebergTable
from scheduler.export.write_shards import ShardWriter
from scheduler.ingest.ingest import Ingested
from tests.factories import change, image, look, make_batch
from tests.s3 import S3Server
from tests.scheduler.export.test_sealed_shards import claimed, success

ROWS = 2
FEW = {"columns": ("image_id", "ordinal", "prompt", "seed", "meta.label")}
"""Reading and writing statistics of ninety columns takes most of a test's time."""


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter_of("iceberg"), "shard_rows", ROWS)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "out"), S3Options())


@pytest.fixture
def batch(engine: Engine) -> Ingested:
    """Three shards, all of whose images are there but the row 3, which has failed."""
    batch = make_batch(
        engine, [{"prompt": f"fox {n}", "label": f"l{n}", "seed": 2**64 - 1 - n} for n in range(6)]
    )
    jobs = claimed(engine, batch)
    third = jobs.pop(3)
    transitions.fail(
        engine, [Failure(third.id, third.lease, ErrorKind.BAD_INPUT, "no such picture")], delay_s=0
    )
    transitions.complete(engine, [image(job) for job in jobs.values()])
    return batch


def order(engine: Engine, store: ObjectStore, *batches: Ingested, **options: Any) -> ExportRequest:
    found = [actions.status(engine, batch.name) for batch in batches]
    chosen = ExportOptions(meta_columns=(("label", "string"),), **FEW | options.pop("chosen", {}))
    return ExportRequest(found, "iceberg", store, options=chosen, **options)


def exported(engine: Engine, store: ObjectStore, *batches: Ingested, **options: Any) -> Exported:
    return export(engine, order(engine, store, *batches, **options), lambda _: store)


@contextmanager
def own_catalog(engine: Engine) -> Iterator[Catalog]:
    """Nightmill's own catalog as another program opens it."""
    url = engine.url.update_query_dict({"options": f"-csearch_path={SCHEMA}"})
    with closing(load_catalog("nightmill", uri=url.render_as_string(hide_password=False))) as catalog:
        yield catalog


def ordinals(table: Table) -> list[int]:
    return sorted(table.scan(selected_fields=("ordinal",)).to_arrow()["ordinal"].to_pylist())


def table_of(engine: Engine, batch: Ingested) -> Table:
    with own_catalog(engine) as catalog:
        return catalog.load_table(("nightmill", batch.name.replace("-", "_")))


def told(table: Table) -> list[tuple[str, str, str]]:
    """Operation, shard and version of all snapshots that nightmill committed."""
    summaries = [snapshot.summary for snapshot in table.snapshots()]
    return [(s.operation.value, s[SHARD] or "", s[VERSION] or "") for s in summaries if s is not None]


def data_paths(table: Table) -> list[str]:
    return sorted(task.file.file_path for task in table.scan().plan_files())


def render_rest(engine: Engine, batch: Ingested) -> None:
    actions.retry(engine, batch.id)
    transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])


class TestReading:
    def test_by_pyiceberg_and_duckdb(self, engine: Engine, store: ObjectStore, batch: Ingested) -> None:
        exported(engine, store, batch)
        table = table_of(engine, batch)
        rows = table.scan().to_arrow()  # noqa: F841 - DuckDB finds it by its name
        found = duckdb.sql(
            'SELECT ordinal, seed::UHUGEINT, "meta_label" FROM rows ORDER BY ordinal'
        ).fetchall()
        assert found == [(n, 2**64 - 1 - n, f"l{n}") for n in (0, 1, 2, 4, 5)]
        assert table.scan(row_filter="meta_label = 'l4'").to_arrow()["prompt"].to_pylist() == ["fox 4"]
        assert told(table) == [("append", "0", "1"), ("append", "1", "1"), ("append", "2", "1")]
        summary = table.snapshots()[1].summary
        assert summary is not None
        shard = records.shards_of(engine, 1)[1]
        assert (summary[CURSOR], summary[FILES]) == (shard.cursor, shard.files[0]["name"])

    def test_by_the_metadata_that_success_names(
        self, engine: Engine, store: ObjectStore, batch: Ingested
    ) -> None:
        exported(engine, store, batch)
        said = success(store)["table"]
        assert (said["catalog"], said["table"]) == ("nightmill", f"nightmill.{batch.name.replace('-', '_')}")
        table = StaticTable.from_metadata(said["metadata"])
        assert (ordinals(table), table.metadata.current_snapshot_id) == ([0, 1, 2, 4, 5], said["snapshot"])

    def test_the_data_files_are_the_same_bytes_elsewhere(
        self, engine: Engine, store: ObjectStore, batch: Ingested, tmp_path: Path
    ) -> None:
        other = open_store(str(tmp_path / "other"), S3Options())
        exported(engine, store, batch)
        exported(engine, other, batch, chosen={"table": "elsewhere"})
        digests = [
            [(found.key, place.digest(found.key)) for found in place.list("data/")]
            for place in (store, other)
        ]
        assert digests[0] == digests[1]
        assert len(digests[0]) == 3

    def test_in_s3(
        self, engine: Engine, s3: S3Server, batch: Ingested, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exporter_of("iceberg"), "shard_rows", 100)
        place = open_store(f"{s3.uri}/lake", S3Options(endpoint_url=s3.endpoint_url, region="us-east-1"))
        exported(engine, place, batch)
        render_rest(engine, batch)
        exported(engine, place, batch)
        reading = {"s3.endpoint": s3.endpoint_url, "s3.region": "us-east-1"}
        table = StaticTable.from_metadata(success(place)["table"]["metadata"], reading)
        assert ordinals(table) == list(range(6))


class TestChanges:
    """A later version of a shard takes the place of its file, in one commit."""

    def test_a_retry_and_a_retraction(self, engine: Engine, store: ObjectStore, batch: Ingested) -> None:
        exported(engine, store, batch)
        before = {
            path: store.digest(path.partition("/out/")[2]) for path in data_paths(table_of(engine, batch))
        }
        render_rest(engine, batch)
        assert ordinals(table_of(engine, batch)) == [0, 1, 2, 4, 5], "readers see what was there"
        exported(engine, store, batch)
        table = table_of(engine, batch)
        assert ordinals(table) == list(range(6))
        assert told(table)[-1] == ("overwrite", "1", "2")
        assert len(before.keys() & set(data_paths(table))) == 2
        (row,) = look(engine, "SELECT id, key FROM images WHERE ordinal = 5")
        transitions.render_again(engine, batch.id, [(row["id"], row["key"])], "missing")
        assert exported(engine, store, batch).images == 5
        table = table_of(engine, batch)
        assert ordinals(table) == [0, 1, 2, 3, 4]
        assert [f"file://{store.uri}/{found.key}" for found in store.list("data/")] == data_paths(table)
        assert told(table)[-1] == ("overwrite", "2", "2"), "snapshots that name deleted files are expired"
        for snapshot in table.snapshots():
            assert table.scan(snapshot_id=snapshot.snapshot_id).to_arrow().num_rows

    def test_what_a_tag_keeps_stays_until_the_tag_goes(
        self, engine: Engine, store: ObjectStore, batch: Ingested
    ) -> None:
        exported(engine, store, batch)
        with own_catalog(engine) as catalog:
            table = catalog.load_table(("nightmill", batch.name.replace("-", "_")))
            table.manage_snapshots().create_tag(table.snapshots()[-1].snapshot_id, "v1").commit()
        render_rest(engine, batch)
        exported(engine, store, batch)
        table = table_of(engine, batch)
        assert table.scan().use_ref("v1").to_arrow().num_rows == 5
        assert len(list(store.list("data/"))) == 4
        with own_catalog(engine) as catalog:
            catalog.load_table(table.name()).manage_snapshots().remove_tag("v1").commit()
        change(engine, "UPDATE exports SET finished = NULL")
        exported(engine, store, batch)
        assert len(list(store.list("data/"))) == 3

    def test_metadata_that_nothing_names_is_deleted_once_it_is_old(
        self, engine: Engine, store: ObjectStore, batch: Ingested, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exported(engine, store, batch)
        lost = "metadata/5c4f1a9e-0000-4000-8000-000000000000-m0.avro"
        others = "metadata/notes.txt"
        for key in (lost, others):
            store.put(key, b"of a commit that was cut off", content_type="text/plain")
        change(engine, "UPDATE exports SET finished = NULL")
        exported(engine, store, batch, overwrite=True)
        assert store.get(lost)
        monkeypatch.setattr(iceberg_table, "ORPHANED_AFTER", -iceberg_table.ORPHANED_AFTER)
        change(engine, "UPDATE exports SET finished = NULL")
        exported(engine, store, batch, overwrite=True)
        names = [found.key for found in store.list("metadata/")]
        assert (lost in names, others in names) == (False, True)
        assert ordinals(table_of(engine, batch)) == [0, 1, 2, 4, 5]

    def test_a_column_that_is_new(self, engine: Engine, store: ObjectStore, batch: Ingested) -> None:
        """As when a later nightmill goes on with the export."""
        exported(engine, store, batch, chosen={"columns": ("ordinal", "prompt")})
        opened = open_export(engine, order(engine, store, batch, chosen={"columns": ("ordinal", "prompt")}))
        wider = order(engine, store, batch, chosen={"columns": ("ordinal", "prompt", "seed")})
        render_rest(engine, batch)
        ShardWriter(engine, opened, wider.exporter, store, lambda _: store).write_all(unfinished=False)
        rows = table_of(engine, batch).scan().to_arrow().sort_by("ordinal").to_pylist()
        assert [(row["ordinal"], row["seed"] is None) for row in rows] == [
            *((0, True), (1, True), (2, False)),
            *((3, False), (4, True), (5, True)),
        ]

    def test_other_columns_are_another_table(
        self, engine: Engine, store: ObjectStore, batch: Ingested
    ) -> None:
        exported(engine, store, batch)
        exported(engine, store, batch, chosen={"columns": ("ordinal",)})
        table = table_of(engine, batch)
        assert (ordinals(table), table.schema().column_names) == ([0, 1, 2, 4, 5], ["ordinal"])
        assert len(list(store.list("data/"))) == 3

    def test_without_one_of_two_batches(self, engine: Engine, store: ObjectStore, batch: Ingested) -> None:
        second = make_batch(engine, 2)
        transitions.complete(engine, [image(job) for job in claimed(engine, second).values()])
        exported(engine, store, batch, second, name="both")
        both = Ingested(0, "both", False, 0, 0, 0)  # type: ignore[arg-type]
        assert len(ordinals(table_of(engine, both))) == 7
        with engine.begin() as connection:
            records.remove_batch(connection, batch.id)
        exported(engine, store, second, name="both")
        assert ordinals(table_of(engine, both)) == [0, 1]
        assert len(list(store.list("data/"))) == 1


class _KilledError(Exception):
    """As of a writer that is killed, for all but its connections."""


def stop(*_: object, **__: object) -> None:
    raise _KilledError


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


Death = Callable[..., None]
Where = Callable[[pytest.MonkeyPatch, Death], None]


def before_the_commit(patched: pytest.MonkeyPatch, death: Death) -> None:
    patched.setattr(IcebergTable, "commit", death)


def after_the_commit(patched: pytest.MonkeyPatch, death: Death) -> None:
    patched.setattr(ShardWriter, "_publish", death)


def interrupted(engine: Engine, store: ObjectStore, batch: Ingested, where: Where) -> None:
    with pytest.MonkeyPatch.context() as patched:
        where(patched, stop)
        with pytest.raises(_KilledError):
            exported(engine, store, batch)


@pytest.mark.parametrize("where", [before_the_commit, after_the_commit])
class TestKilled:
    """Between the file and the commit, and between the commit and nightmill's own table."""

    @pytest.mark.parametrize("is_changed", [False, True])
    def test_the_next_writer_goes_on(
        self, engine: Engine, store: ObjectStore, batch: Ingested, where: Where, is_changed: bool
    ) -> None:
        exported(engine, store, batch)
        render_rest(engine, batch)
        interrupted(engine, store, batch, where)
        if is_changed:
            (row,) = look(engine, "SELECT id, key FROM images WHERE ordinal = 3")
            transitions.render_again(engine, batch.id, [(row["id"], row["key"])], "missing")
            transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        assert exported(engine, store, batch).is_complete
        table = table_of(engine, batch)
        assert ordinals(table) == list(range(6))
        assert len(list(store.list("data/"))) == 3
        assert sum(shard == "1" and version == "2" for _, shard, version in told(table)) == 1

    def test_the_first_writer(
        self, engine: Engine, store: ObjectStore, batch: Ingested, where: Where
    ) -> None:
        interrupted(engine, store, batch, where)
        exported(engine, store, batch)
        assert told(table_of(engine, batch)) == [("append", str(n), "1") for n in range(3)]

    def test_by_sigkill(self, engine: Engine, store: ObjectStore, batch: Ingested, where: Where) -> None:
        if (child := os.fork()) == 0:
            try:
                with pytest.MonkeyPatch.context() as patched:
                    where(patched, die)
                    exported(connect(engine.url.render_as_string(hide_password=False)), store, batch)
            finally:
                traceback.print_exc()
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        change(
            engine, "UPDATE export_shards SET lease_until = now() - interval '1 s' WHERE lease IS NOT NULL"
        )
        exported(engine, store, batch)
        assert told(table_of(engine, batch)) == [("append", str(n), "1") for n in range(3)]


class TestSeveralWriters:
    def test_conflicting_commits_are_made_again(self, engine: Engine, store: ObjectStore) -> None:
        batch = make_batch(engine, 8 * ROWS)
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        opened = open_export(engine, order(engine, store, batch))

        def work(_: int) -> int:
            form = order(engine, store, batch).exporter
            return ShardWriter(engine, opened, form, store, lambda _: store).write_all(unfinished=False)

        with ThreadPoolExecutor(4) as threads:
            assert sum(threads.map(work, range(4))) == 8
        table = table_of(engine, batch)
        assert ordinals(table) == list(range(8 * ROWS))
        assert sorted(told(table)) == [("append", str(n), "1") for n in range(8)]

    def test_two_files_of_one_shard_are_never_both_in_the_table(
        self, engine: Engine, store: ObjectStore, batch: Ingested, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A writer loses its lease while it commits; another one writes other rows of the shard meanwhile."""
        opened = open_export(engine, order(engine, store, batch))
        form = order(engine, store, batch).exporter
        replace, todo = iceberg_table.replace_files, ["once"]

        def overtaken(table: Table, *given: Any) -> None:
            if todo and todo.pop():
                change(
                    engine,
                    "UPDATE export_shards SET lease_until = now() - interval '1 s' WHERE lease IS NOT NULL",
                )
                (row,) = look(engine, "SELECT id, key FROM images WHERE ordinal = 1")
                transitions.render_again(engine, batch.id, [(row["id"], row["key"])], "missing")
                transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
                ShardWriter(engine, opened, form, store, lambda _: store).write_all(unfinished=False)
            replace(table, *given)

        monkeypatch.setattr(iceberg_table, "replace_files", overtaken)
        ShardWriter(engine, opened, form, store, lambda _: store).write_all(unfinished=False)
        assert ordinals(table_of(engine, batch)) == [0, 1, 2, 4, 5]
        exported(engine, store, batch)
        rows = table_of(engine, batch).scan().to_arrow()
        newest = look(engine, "SELECT id FROM images ORDER BY ordinal")
        assert sorted(rows["image_id"].to_pylist()) == sorted(row["id"] for row in newest)

    def test_with_pyiceberg_s_own_retries_they_are(
        self, engine: Engine, store: ObjectStore, batch: Ingested, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The twin: what is wanted isn't compared again with what there is."""
        monkeypatch.setattr(iceberg_table, "TableProperties", SimpleNamespace(COMMIT_NUM_RETRIES="of.nobody"))
        with pytest.raises(AssertionError, match=r"\[0, 0, 1, 1, "):
            self.test_two_files_of_one_shard_are_never_both_in_the_table(engine, store, batch, monkeypatch)


class TestOthers:
    def test_a_table_that_others_have_rewritten_is_left_alone(
        self, engine: Engine, store: ObjectStore, batch: Ingested
    ) -> None:
        prefix = f"{batch.name}/export-iceberg/"
        exported(engine, store, batch, prefix=prefix)
        with own_catalog(engine) as catalog:
            table = catalog.load_table(("nightmill", batch.name.replace("-", "_")))
            table.overwrite(table.scan().to_arrow())
        render_rest(engine, batch)
        with pytest.raises(UsageError, match=r"was changed: .* --replace` makes the table anew"):
            exported(engine, store, batch, prefix=prefix)
        exported(engine, store, batch, prefix=prefix, replace=True)
        assert ordinals(table_of(engine, batch)) == list(range(6))

    def test_a_table_that_was_rolled_back_is_brought_up_to_date(
        self, engine: Engine, store: ObjectStore, batch: Ingested
    ) -> None:
        exported(engine, store, batch)
        with own_catalog(engine) as catalog:
            table = catalog.load_table(("nightmill", batch.name.replace("-", "_")))
            table.manage_snapshots().rollback_to_snapshot(table.snapshots()[1].snapshot_id).commit()
            assert ordinals(catalog.load_table(table.name())) == [0, 1, 2]
        exported(engine, store, batch)
        assert ordinals(table_of(engine, batch)) == [0, 1, 2, 4, 5]

    def test_a_table_that_is_gone_is_made_anew_of_the_files(
        self, engine: Engine, store: ObjectStore, batch: Ingested
    ) -> None:
        exported(engine, store, batch)
        with own_catalog(engine) as catalog:
            catalog.drop_table(("nightmill", batch.name.replace("-", "_")))
        exported(engine, store, batch)
        assert ordinals(table_of(engine, batch)) == [0, 1, 2, 4, 5]

    def test_the_name_of_another_export_is_refused(
        self, engine: Engine, store: ObjectStore, batch: Ingested, tmp_path: Path
    ) -> None:
        exported(engine, store, batch)
        other = open_store(str(tmp_path / "other"), S3Options())
        with pytest.raises(UsageError, match=r"is there already, at file://.*/out: name another by --table"):
            exported(engine, other, batch)
        assert ordinals(table_of(engine, batch)) == [0, 1, 2, 4, 5]

    def test_a_folder_whose_name_is_no_url(self, engine: Engine, batch: Ingested, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="has a '#' in it"):
            exported(engine, open_store(str(tmp_path / "out#1"), S3Options()), batch)


class TestCatalogs:
    @pytest.fixture
    def elsewhere(self, tmp_path: Path) -> str:
        """A catalog of the user's own."""
        return f"sqlite:///{tmp_path}/catalog.db"

    def test_by_uri(self, engine: Engine, store: ObjectStore, batch: Ingested, elsewhere: str) -> None:
        exported(engine, store, batch, chosen={"catalog": elsewhere, "table": "lake.foxes"})
        render_rest(engine, batch)
        exported(engine, store, batch, chosen={"catalog": elsewhere, "table": "lake.foxes"})
        with closing(load_catalog("nightmill", uri=elsewhere)) as catalog:
            assert ordinals(catalog.load_table("lake.foxes")) == list(range(6))
        assert look(engine, "SELECT to_regnamespace(:name) AS found", name=SCHEMA) == [{"found": None}]

    def test_another_catalog_takes_the_table_out_of_the_first(
        self, engine: Engine, store: ObjectStore, batch: Ingested, elsewhere: str
    ) -> None:
        exported(engine, store, batch, chosen={"catalog": elsewhere})
        exported(engine, store, batch)
        assert ordinals(table_of(engine, batch)) == [0, 1, 2, 4, 5]
        with closing(load_catalog("nightmill", uri=elsewhere)) as catalog:
            assert catalog.list_tables("nightmill") == []

    def test_one_that_cannot_be_reached(
        self, engine: Engine, store: ObjectStore, batch: Ingested, tmp_path: Path
    ) -> None:
        with pytest.raises(NightmillError, match="unable to open database file"):
            exported(engine, store, batch, chosen={"catalog": f"sqlite:///{tmp_path}/missing/catalog.db"})

    def test_a_table_of_somebody_else_stays(
        self, engine: Engine, store: ObjectStore, batch: Ingested, elsewhere: str
    ) -> None:
        exported(engine, store, batch, chosen={"catalog": elsewhere})
        change(engine, "UPDATE exports SET installation = gen_random_uuid()")
        (theirs,) = records.exports_of(engine)
        assert theirs.format == "iceberg"
        drop_tables_beside_images(engine, store, actions.status(engine, batch.name))
        with closing(load_catalog("nightmill", uri=elsewhere)) as catalog:
            assert len(catalog.list_tables("nightmill")) == 1
