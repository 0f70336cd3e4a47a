"""Exports with copies of the images: one file for equal pictures, verified, resumed, gone with what is retracted."""

import hashlib
import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import mlcroissant
import pandas as pd
import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.batches.actions import BatchStatus
from jobs.errors import ObjectStoreError, UsageError
from jobs.exports import records, shard_claims
from jobs.exports.delete_unreferenced_files import delete_unnamed, lock_files
from jobs.job_dataclasses import BatchId
from jobs.storage.open import ObjectStore, S3Options, open_store
from scheduler.export.export_options import ExportOptions, GivenOptions
from scheduler.export.export_request import ExportRequest
from scheduler.export.exporters import exporter_of
from scheduler.export.parse_export_options import parse_export_options
from scheduler.export.run_export import Exported, export
from scheduler.export.write_shards import ShardWriter
from tests.factories import change
from tests.s3 import S3Server
from tests.scheduler.export.datasets import with_pictures
from tests.scheduler.export.test_hive_partitions import retract_row

FORMATS = ["csv", "jsonl", "parquet"]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for format in FORMATS:
        monkeypatch.setattr(exporter_of(format), "shard_rows", 2)


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server) -> ObjectStore:
    """Where the exports go."""
    if request.param == "folder":
        return open_store(str(tmp_path / "set"), S3Options())
    options = S3Options(endpoint_url=s3.endpoint_url, region="us-east-1", max_attempts=1)
    return open_store(f"{s3.uri}/{tmp_path.name}/set", options)


class Source:
    """The output of the batches, which counts what is read of it."""

    def __init__(self, store: ObjectStore) -> None:
        self.store, self.read = store, list[str]()

    def get(self, key: str) -> bytes:
        self.read.append(key)
        return self.store.get(key)

    def locate(self, key: str) -> str:
        return self.store.locate(key)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(open_store(str(tmp_path / "output"), S3Options()))


def batch_of(engine: Engine, tmp_path: Path, rows: int, name: str) -> BatchStatus:
    return with_pictures(engine, tmp_path / "output", rows, name=name)


def make_equal(engine: Engine, *ordinals: int) -> None:
    """Let the images of these rows be the same picture as the first one of all."""
    rows = ", ".join(map(str, ordinals))
    change(
        engine,
        "UPDATE images SET key = first.key, sha256 = first.sha256, bytes = first.bytes "  # noqa: S608 - numbers
        f"FROM (SELECT * FROM images ORDER BY id LIMIT 1) AS first WHERE images.ordinal IN ({rows})",
    )


def exported(
    engine: Engine, store: ObjectStore, source: Any, *batches: BatchStatus, format: str = "jsonl", **more: Any
) -> Exported:
    options = ExportOptions(copy_images=True, **more)
    found = [actions.status(engine, batch.name) for batch in batches]
    return export(engine, ExportRequest(found, format, store, name="both", options=options), lambda _: source)


def copies(store: ObjectStore) -> dict[str, str]:
    """The copies that are there, by name, with what their bytes are."""
    return {found.key: store.digest(found.key) for found in store.list("_images/")}


def digests(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.exec_driver_sql("SELECT sha256 FROM images").scalars())


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_that_was_carried_away_has_its_images(
    engine: Engine, tmp_path: Path, source: Source, format: str
) -> None:
    batches = batch_of(engine, tmp_path, 3, "a"), batch_of(engine, tmp_path, 3, "b")
    make_equal(engine, 2)
    exported(engine, open_store(str(tmp_path / "set"), S3Options()), source, *batches, format=format)
    folder = (tmp_path / "set").rename(tmp_path / "elsewhere")
    (tmp_path / "output").rename(tmp_path / "gone")
    read = {
        "csv": pd.read_csv,
        "jsonl": lambda file: pd.read_json(file, lines=True),
        "parquet": pd.read_parquet,
    }
    frame = pd.concat(read[format](file) for file in sorted(folder.glob("part-*")))
    assert len(frame) == 6
    for path, sha256 in zip(frame["path"], frame["sha256"], strict=True):
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == sha256
    assert len(list(folder.glob("_images/*/*"))) == 4 == frame["path"].nunique()
    sums = "_SHA256SUMS" if format == "parquet" else "SHA256SUMS"
    subprocess.run(["sha256sum", "--strict", "-c", sums], cwd=folder, check=True, capture_output=True)
    told = [file["name"] for file in json.loads((folder / "_SUCCESS").read_text())["files"]]
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert (set(told), len(told)) == (there - {"_SUCCESS"}, len(set(told)))


@pytest.mark.filterwarnings("ignore")
def test_croissant_tells_of_the_copies_as_a_set(engine: Engine, tmp_path: Path, source: Source) -> None:
    batch = batch_of(engine, tmp_path, 3, "a")
    exported(engine, open_store(str(tmp_path / "set"), S3Options()), source, batch, format="parquet")
    described = mlcroissant.Dataset(jsonld=tmp_path / "set" / "_croissant.json")
    assert (list(described.metadata.issues.errors), list(described.metadata.issues.warnings)) == ([], [])
    assert len(list(described.records("images"))) == 3
    sets = json.loads((tmp_path / "set" / "_croissant.json").read_text())["distribution"]
    assert [each["includes"] for each in sets if each["@id"] == "png-files"] == ["_images/*/*.png"]
    assert not [each for each in sets if each["@id"].startswith("images/")]


def test_what_is_there_is_not_copied_again(
    engine: Engine, tmp_path: Path, store: ObjectStore, source: Source
) -> None:
    batch = batch_of(engine, tmp_path, 4, "a")

    class Broken(Source):
        def get(self, key: str) -> bytes:
            if len(self.read) == 3:
                raise ObjectStoreError("the output is away")
            return super().get(key)

    with pytest.raises(ObjectStoreError, match="is away"):
        exported(engine, store, Broken(source.store), batch)
    before = copies(store)
    assert 2 <= len(before) < 4
    exported(engine, store, source, batch)
    pictures = [key for key in source.read if digest_of(key) not in str(before)]
    assert len(copies(store)) == 4
    assert set(copies(store).values()) == digests(engine)
    assert set(source.read[: 4 - len(before)]) == set(pictures)  # what the card shows is read at the end
    source.read.clear()
    exported(engine, store, source, batch)
    assert source.read == []


def digest_of(key: str) -> str:
    return key.split(".")[-2]


def test_a_copy_that_is_gone_is_made_again(
    engine: Engine, tmp_path: Path, store: ObjectStore, source: Source
) -> None:
    batch = batch_of(engine, tmp_path, 4, "a")
    exported(engine, store, source, batch)
    before = copies(store)
    store.delete(next(iter(before)))
    exported(engine, store, source, batch)
    assert copies(store) == before


def test_a_damaged_image_is_not_copied(
    engine: Engine, tmp_path: Path, store: ObjectStore, source: Source
) -> None:
    batch = batch_of(engine, tmp_path, 2, "a")
    key = next(found.key for found in source.store.list("a/images/"))
    source.store.put(key, b"damaged", content_type="image/png")
    with pytest.raises(ObjectStoreError, match="differs from its row"):
        exported(engine, store, source, batch)
    assert all(sha256 in name for name, sha256 in copies(store).items())
    assert "_SUCCESS" not in [found.key for found in store.list("")]


def test_a_changed_copy_is_told_and_not_replaced(engine: Engine, tmp_path: Path, source: Source) -> None:
    store = open_store(str(tmp_path / "set"), S3Options())
    batch = batch_of(engine, tmp_path, 2, "a")
    exported(engine, store, source, batch)
    store.put(next(iter(copies(store))), b"painted over", content_type="image/png")
    with pytest.raises(UsageError, match="was changed"):
        exported(engine, store, source, batch)


class TestRetracted:
    def test_the_copy_goes_with_the_shards_new_version(
        self, engine: Engine, tmp_path: Path, store: ObjectStore, source: Source
    ) -> None:
        batch = batch_of(engine, tmp_path, 4, "a")
        before = exported(engine, store, source, batch, format="parquet")
        retract_row(engine, 1)
        done = exported(engine, store, source, batch, format="parquet")
        assert set(copies(store).values()) == digests(engine)
        assert len(copies(store)) == 3
        assert [shard.version for shard in records.shards_of(engine, before.id)] == [2, 1]
        sums = store.get("_SHA256SUMS").decode()
        assert sums.count("_images/") == 3
        assert done.id == before.id

    def test_it_stays_while_another_shard_has_the_picture(
        self, engine: Engine, tmp_path: Path, store: ObjectStore, source: Source
    ) -> None:
        batch = batch_of(engine, tmp_path, 4, "a")
        make_equal(engine, 3)
        exported(engine, store, source, batch)
        assert len(copies(store)) == 3
        retract_row(engine, 0)
        exported(engine, store, source, batch)
        assert set(copies(store).values()) == digests(engine)
        retract_row(engine, 3)
        exported(engine, store, source, batch)
        assert set(copies(store).values()) == digests(engine)
        assert len(copies(store)) == 2

    def test_a_writer_that_dies_before_it_has_deleted_the_copy_leaves_it_to_the_next(
        self,
        engine: Engine,
        tmp_path: Path,
        store: ObjectStore,
        source: Source,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        batch = batch_of(engine, tmp_path, 2, "a")
        exported(engine, store, source, batch)
        retract_row(engine, 1)

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(ShardWriter, "_delete_left_over", die)
            with pytest.raises(KeyboardInterrupt):
                exported(engine, store, source, batch)
        assert len(copies(store)) == 2
        exported(engine, store, source, batch)
        assert set(copies(store).values()) == digests(engine)
        assert len(copies(store)) == 1


def test_what_is_about_to_be_put_in_place_is_not_deleted(
    engine: Engine, tmp_path: Path, source: Source
) -> None:
    store = open_store(str(tmp_path / "set"), S3Options())
    done = exported(engine, store, source, batch_of(engine, tmp_path, 4, "a"))
    first, second = records.shards_of(engine, done.id)
    files = [*first.files, *second.files]
    change(engine, "UPDATE export_shards SET pending = files, files = '[]' WHERE number = 1")
    change(engine, "UPDATE export_shards SET files = '[]' WHERE number = 0")
    deleted: list[str] = []
    delete_unnamed(engine, done.id, files, lambda file: deleted.append(file["name"]))
    assert deleted == [file["name"] for file in first.files]


def test_nothing_is_staged_while_files_are_deleted(engine: Engine, tmp_path: Path, source: Source) -> None:
    store = open_store(str(tmp_path / "set"), S3Options())
    done = exported(engine, store, source, batch_of(engine, tmp_path, 2, "a"))
    retract_row(engine, 1)
    shard = shard_claims.claim_shard(engine, done.id, -1, unfinished=True)
    assert shard is not None
    snapshot = shard_claims.read_shard(engine, shard, tmp_path / "rows")
    with ThreadPoolExecutor(1) as thread:
        with engine.begin() as deleting:
            lock_files(deleting, done.id)
            staging = thread.submit(shard_claims.stage, engine, shard, snapshot, [])
            wait_until(lambda: waits_for_a_lock(engine))
            assert records.shards_of(engine, done.id)[0].pending is None
        staging.result()
    assert records.shards_of(engine, done.id)[0].pending == []


def waits_for_a_lock(engine: Engine) -> bool:
    query = """
        SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
        WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()
    """
    with engine.connect() as connection:
        return connection.exec_driver_sql(query).scalar_one() > 0


def wait_until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.01)


def test_another_format_goes_on_with_the_copies(
    engine: Engine, tmp_path: Path, store: ObjectStore, source: Source
) -> None:
    batch = batch_of(engine, tmp_path, 4, "a")
    exported(engine, store, source, batch)
    before = copies(store)
    source.read.clear()
    exported(engine, store, source, batch, format="csv")
    assert copies(store) == before
    assert len(source.read) == 4  # the pictures of the card
    plain = ExportRequest([actions.status(engine, "a")], "csv", store, name="both")
    export(engine, plain, lambda _: source)
    assert copies(store) == {}


def test_copies_come_from_where_each_batch_lies(
    engine: Engine, tmp_path: Path, s3: S3Server, store: ObjectStore
) -> None:
    batch = batch_of(engine, tmp_path, 2, "a")
    local = open_store(str(tmp_path / "output"), S3Options())
    options = S3Options(endpoint_url=s3.endpoint_url, region="us-east-1", max_attempts=1)
    remote = open_store(f"{s3.uri}/{tmp_path.name}/source", options)
    other = with_pictures(engine, tmp_path / "output", 2, name="b")
    for found in list(local.list("b/")):
        remote.put(found.key, local.get(found.key), content_type="image/png")
        local.delete(found.key)
    options_ = ExportOptions(copy_images=True)
    request = ExportRequest([batch, other], "parquet", store, name="both", options=options_)

    def opened(number: BatchId) -> ObjectStore:
        return local if number == batch.id else remote

    assert export(engine, request, opened).images == 4
    assert set(copies(store).values()) == digests(engine)


def test_partitions_lead_to_the_copies(engine: Engine, tmp_path: Path, source: Source) -> None:
    batch = batch_of(engine, tmp_path, 2, "a")
    store = open_store(str(tmp_path / "set"), S3Options())
    exported(engine, store, source, batch, format="parquet", partition_by=("date",))
    rows = duckdb.sql(f"FROM '{tmp_path}/set/date=*/*.parquet'").project("path").fetchall()
    assert {path for (path,) in rows} == set(copies(store))


def test_only_chosen_images_are_copied(engine: Engine, tmp_path: Path, source: Source) -> None:
    store = open_store(str(tmp_path / "set"), S3Options())
    done = exported(engine, store, source, batch_of(engine, tmp_path, 4, "a"), where="ordinal >= 3")
    assert (done.images, len(copies(store))) == (1, 1)


def test_shards_with_copies_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    kinds = [exporter_of("parquet")(ExportOptions(copy_images=copied)) for copied in (False, True)]
    assert [kind.rows_of_shard for kind in kinds] == [100_000, 10_000]


@pytest.mark.parametrize(
    ("format", "place", "problem"),
    [
        ("hf", ("/out", ""), "--copy-images is for the format csv, jsonl, parquet, not for hf"),
        (
            "csv",
            ("/out", "foxes/export-csv/"),
            "beside the images there is no need of copies; say --to FOLDER",
        ),
    ],
)
def test_where_copies_make_no_sense_they_are_refused(
    engine: Engine, format: str, place: tuple[str, str], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        parse_export_options(engine, [1], format, GivenOptions(copy_images=True), place)
