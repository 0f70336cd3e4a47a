"""Hive-partitioned Parquet: opened by pyarrow, DuckDB and polars; each shard replaces its own files, and no other."""

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import duckdb
import mlcroissant
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import yaml
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.errors import UsageError
from jobs.exports import records
from jobs.queue import transitions
from jobs.storage.hive_folder_names import partition_folder
from jobs.storage.open import ObjectStore, S3Options, open_store
from scheduler.export.export_options import ExportOptions, GivenOptions
from scheduler.export.export_request import ExportRequest
from scheduler.export.exporters import exporter_of
from scheduler.export.parse_export_options import parse_export_options
from scheduler.export.rows import partition_columns
from scheduler.export.run_export import Exported, export
from tests.factories import change
from tests.s3 import S3Server
from tests.scheduler.export.datasets import with_index, with_pictures, write

AWKWARD = [
    *("a/b", "..", ".", "~", "a=b", "100%", "%2F", "line\nbreak", "\x01", "é 狐", "?*[x]", "C:\\d", " "),
    *("-", "x" * 240, "__pycache__"),
]
META = (("label", "string"), ("rank", "long"), ("ok", "boolean"), ("score", "double"))


def rows_of(labels: list[Any]) -> list[dict[str, Any]]:
    return [
        {"prompt": f"p{number}", "id": f"r{number}", "label": label} for number, label in enumerate(labels)
    ]


def partitioned(
    engine: Engine, tmp_path: Path, rows: list[dict[str, Any]], *by: str, shard_rows: int | None = None
) -> Path:
    """An export of a batch of these rows, divided by columns."""
    batch = with_pictures(engine, tmp_path / "output", rows)
    folder = tmp_path / "export"
    with_index(engine, [batch], "parquet", folder, shard_rows, meta_columns=META, partition_by=by)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))


def dataset(folder: Path, *types: tuple[str, pa.DataType]) -> ds.Dataset:
    """The rows as pyarrow reads them, beside the other files of the folder."""
    parts = ds.partitioning(pa.schema(types), flavor="hive")
    return ds.dataset(folder, format="parquet", partitioning=parts, exclude_invalid_files=True)


def test_rows_lie_in_folders_by_their_values(engine: Engine, tmp_path: Path) -> None:
    folder = partitioned(
        engine, tmp_path, rows_of(["fox", "owl", "fox", "fox"]), "meta.label", "date", shard_rows=2
    )
    (day,) = {str(date) for date in duckdb.sql(f"FROM '{folder}/**/*.parquet'").df()["created_at"].dt.date}
    assert names(folder) == [
        f"label=fox/date={day}/00000.parquet",
        f"label=fox/date={day}/00001.parquet",
        f"label=owl/date={day}/00000.parquet",
    ]
    columns = ds.dataset(folder / f"label=owl/date={day}/00000.parquet").schema.names
    assert not {"meta.label", "label", "date"} & set(columns)
    assert {"prompt", "meta", "meta.rank"} <= set(columns)


def test_readers_get_every_value_back(engine: Engine, tmp_path: Path) -> None:
    folder = partitioned(engine, tmp_path, rows_of([*AWKWARD, *AWKWARD[:3], None, ""]), "meta.label")
    expected = Counter([*AWKWARD, *AWKWARD[:3], None, None])  # Hive has one name for null and for no text
    assert Counter(dataset(folder, ("label", pa.string())).to_table()["label"].to_pylist()) == expected
    found = duckdb.sql(
        f"FROM read_parquet('{folder}/**/*.parquet', hive_partitioning=true, hive_types={{'label': VARCHAR}})"
    )
    assert Counter(label for (label,) in found.project("label").fetchall()) == expected
    scanned = pl.scan_parquet(
        folder / "**/*.parquet", hive_partitioning=True, hive_schema={"label": pl.String}
    )
    assert Counter(scanned.collect()["label"].to_list()) == expected
    assert all(part.isascii() and len(part) <= 255 for name in names(folder) for part in name.split("/"))


def test_columns_of_partitions_have_types_and_sums_are_the_batchs(engine: Engine, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{n}", "rank": n % 3, "ok": n % 2 == 0, "score": n % 2 + 0.5, "label": "ab"[n % 2]}
        for n in range(12)
    ]
    folder = partitioned(
        engine, tmp_path, rows, "meta.rank", "meta.ok", "meta.score", "date", "width", shard_rows=5
    )
    found = duckdb.sql(
        f"FROM read_parquet('{folder}/**/*.parquet', hive_partitioning=true, hive_types={{'score': DOUBLE}})"
    )
    types = dict(zip(found.columns, map(str, found.types), strict=True))
    assert (types["rank"], types["date"]) == ("BIGINT", "DATE")
    assert found.aggregate("count(*), sum(rank), sum(score), count(DISTINCT image_id)").fetchall() == [
        (12, 12, 12.0, 12)
    ]
    types_of = (("rank", pa.int64()), ("ok", pa.bool_()), ("score", pa.float64()), ("date", pa.date32()))
    table = dataset(folder, *types_of, ("width", pa.int32()))
    sums = table.to_table().group_by(["rank", "ok"]).aggregate([([], "count_all")])
    assert sorted(zip(*sums.to_pydict().values(), strict=True)) == [
        (n, ok, 2) for n in range(3) for ok in (False, True)
    ]
    frame = (
        pl.scan_parquet(folder / "**/*.parquet", hive_partitioning=True).filter(pl.col("rank") == 1).collect()
    )
    assert frame["date"].dtype == pl.Date
    assert frame.height == 4


@pytest.mark.filterwarnings("ignore")
def test_the_index_tells_of_partitions(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", rows_of(["a/b", "owl", "a/b"]), name="foxes")
    folder = tmp_path / "export"
    with_index(engine, [batch], "parquet", folder, 2, meta_columns=META, partition_by=("meta.label", "date"))
    subprocess.run(
        ["sha256sum", "--strict", "-c", "_SHA256SUMS"], cwd=folder, check=True, capture_output=True
    )
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(loaded["prompt"]) == ["p0", "p1", "p2"]
    described = mlcroissant.Dataset(jsonld=folder / "_croissant.json")
    assert (list(described.metadata.issues.errors), list(described.metadata.issues.warnings)) == ([], [])
    read = {row["images/prompt"]: row["images/label"] for row in described.records("images")}
    assert read == {b"p0": b"a%2Fb", b"p1": b"owl", b"p2": b"a%2Fb"}
    contract = yaml.safe_load((folder / "_datacontract.yaml").read_text())
    properties = {column["name"]: column for column in contract["schema"][0]["properties"]}
    assert properties["label"]["partitionKeyPosition"] == 1
    assert properties["date"]["logicalType"] == "date"
    assert properties["label"]["description"] == "the manifest's column label"


def test_an_export_without_images_still_has_the_columns(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", rows_of(["fox"]))
    change(engine, "DELETE FROM images")
    (file,) = write(engine, batch, "parquet", tmp_path / "e", meta_columns=META, partition_by=("meta.label",))
    assert (file.name, file.rows) == ("label=__HIVE_DEFAULT_PARTITION__/00000.parquet", 0)
    assert "prompt" in ds.dataset(tmp_path / "e" / file.name).schema.names


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server) -> ObjectStore:
    if request.param == "folder":
        return open_store(str(tmp_path / "out"), S3Options())
    options = S3Options(endpoint_url=s3.endpoint_url, region="us-east-1", max_attempts=1)
    return open_store(f"{s3.uri}/{tmp_path.name}", options)


class TestShards:
    """What holds for sealed shards holds for those of several files."""

    @pytest.fixture(autouse=True)
    def _small_shards(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exporter_of("parquet"), "shard_rows", 2)

    def exported(self, engine: Engine, store: ObjectStore, tmp_path: Path, name: str = "foxes") -> Exported:
        options = ExportOptions(meta_columns=META, partition_by=("meta.label",))
        request = ExportRequest([actions.status(engine, name)], "parquet", store, options=options)
        output = open_store(str(tmp_path / "output"), S3Options())
        return export(engine, request, lambda _: output)

    def test_a_new_version_replaces_all_files_of_its_shard_and_no_others(
        self, engine: Engine, store: ObjectStore, tmp_path: Path
    ) -> None:
        with_pictures(engine, tmp_path / "output", rows_of(["a/b", "owl", "a/b", "owl"]), name="foxes")
        done = self.exported(engine, store, tmp_path)
        first, second = records.shards_of(engine, done.id)
        assert [file["name"] for file in first.files] == [
            "label=a%2Fb/00000.parquet",
            "label=owl/00000.parquet",
        ]
        before = {file["name"]: store.get(file["name"]) for file in done.files}
        retract_row(engine, 1)
        done = self.exported(engine, store, tmp_path)
        assert [shard.version for shard in records.shards_of(engine, done.id)] == [2, second.version]
        there = {found.key for found in store.list("")} - {file["name"] for file in done.index}
        assert there == {*before, "_SUCCESS"} - {"label=owl/00000.parquet"}
        assert {name: store.get(name) for name in there - {"_SUCCESS"}} == {
            name: before[name] for name in there - {"_SUCCESS"}
        }
        sums = dict(line.split("  ")[::-1] for line in store.get("_SHA256SUMS").decode().splitlines())
        assert {name for name in sums if "=" in name} == there - {"_SUCCESS"}
        told = json.loads(store.get("_SUCCESS"))
        assert told["shards"][0]["files"] == ["label=a%2Fb/00000.parquet"]

    def test_files_that_are_gone_are_written_again_the_same(
        self, engine: Engine, store: ObjectStore, tmp_path: Path
    ) -> None:
        with_pictures(engine, tmp_path / "output", rows_of(["a/b", "owl", "x y", None]), name="foxes")
        done = self.exported(engine, store, tmp_path)
        before = {file["name"]: store.get(file["name"]) for file in done.files}
        for name in before:
            store.delete(name)
        self.exported(engine, store, tmp_path)
        assert {name: store.get(name) for name in before} == before
        assert [shard.version for shard in records.shards_of(engine, done.id)] == [1, 1]


def retract_row(engine: Engine, ordinal: int) -> None:
    with engine.connect() as connection:
        row = connection.exec_driver_sql(
            "SELECT id, key, batch_id FROM images WHERE ordinal = %s", (ordinal,)
        ).one()
    assert transitions.retract(
        engine, row.batch_id, [(row.id, row.key)], "bad", is_archived=False, keeps_file=True
    )


@pytest.mark.parametrize(
    ("format", "by", "problem"),
    [
        ("csv", "date", "--partition-by is for the format parquet, not for csv"),
        ("parquet", "meta.lable", "there is no column 'meta.lable': --meta-columns lable:string"),
        ("parquet", "created_at", "take date"),
        ("parquet", "versions", "columns of image rows with one value"),
        ("parquet", "timings.generate", "columns of image rows with one value"),
        ("parquet", "date,date", "names a column twice"),
        ("parquet", "meta.größe", "A-Z a-z 0-9"),
    ],
)
def test_what_nothing_can_be_divided_by_is_refused(
    engine: Engine, format: str, by: str, problem: str
) -> None:
    given = GivenOptions(
        meta_columns="größe:long,label:string" if format == "parquet" else None, partition_by=by
    )
    with pytest.raises(UsageError, match=problem):
        parse_export_options(engine, [1], format, given)


def test_a_column_that_is_called_as_another_keeps_its_whole_name(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", [{"prompt": "p", "date": "monday"}])
    options = {"meta_columns": (("date", "string"),), "partition_by": ("meta.date",)}
    (file,) = write(engine, batch, "parquet", tmp_path / "export", **options)
    assert file.name == "meta.date=monday/00000.parquet"


def test_too_many_partitions_of_a_shard_are_refused(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = with_pictures(engine, tmp_path / "output", rows_of(["a", "b", "c", "c"]))
    monkeypatch.setattr(partition_columns, "MOST", 2)
    with pytest.raises(UsageError, match="the images of shard 0 would be in 3 partitions, and at most 2 are"):
        write(engine, batch, "parquet", tmp_path / "e", meta_columns=META, partition_by=("meta.label",))


def test_a_value_without_room_is_refused(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", rows_of(["狐" * 40]))
    with pytest.raises(
        UsageError, match=r"can't partition by label: the value '狐.*360 bytes.*249 have room"
    ):
        write(engine, batch, "parquet", tmp_path / "e", meta_columns=META, partition_by=("meta.label",))
    assert partition_folder("label", "x" * 249) == "label=" + "x" * 249
