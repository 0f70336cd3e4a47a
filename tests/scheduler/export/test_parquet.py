"""Parquet: typed columns of what JSON holds, page indexes and Bloom filters; opened by DuckDB, pandas and polars."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from jobs.errors import UsageError
from jobs.storage.open import S3Options, open_store
from scheduler.export.export_options import ExportOptions, GivenOptions
from scheduler.export.export_request import ExportRequest
from scheduler.export.image_arrow_schema import SCHEMA
from scheduler.export.parquet.parquet_file import SCHEMA_VERSION, ParquetFile
from scheduler.export.parse_export_options import parse_export_options
from scheduler.export.rows.export_columns import STAGES, ExportColumns
from scheduler.export.rows.find_meta_columns import find_meta_columns
from scheduler.export.run_export import export
from tests.factories import change
from tests.scheduler.export.datasets import with_pictures, write
from worker.pipeline import PIPELINE

META: list[dict[str, Any]] = [
    {"label": "fox", "score": 1, "count": 2**60, "flag": True, "mixed": "a", "nested": {"a": [1]}},
    {"label": "owl", "score": 0.5, "count": 0, "flag": False, "mixed": 1, "nested": [], "huge": 2**70},
    {"label": None, "Ünï ☃": "x"},
]
ROWS = [{"prompt": f"p{number}", "id": f"r{number}"} | meta for number, meta in enumerate(META)]
TYPES = {
    "count": "long",
    "flag": "boolean",
    "huge": "string",
    "label": "string",
    "mixed": "string",
    "nested": "string",
    "score": "double",
    "Ünï ☃": "string",
}


def exported(engine: Engine, tmp_path: Path, rows: Any = ROWS, **options: Any) -> Path:
    """The only file of an export of a batch of these rows."""
    batch = with_pictures(engine, tmp_path / "output", rows, name="foxes")
    given = {"meta_columns": find_meta_columns(engine, [batch.id])} | options
    (file,) = write(engine, batch, "parquet", tmp_path / "export", **given)
    return tmp_path / "export" / file.name


def column(path: Path, name: str) -> list[Any]:
    return list(pq.ParquetFile(path).read([name]).column(0).to_pylist())


@pytest.mark.parametrize("is_archived", [False, True])
def test_types_have_room_for_all_values(engine: Engine, tmp_path: Path, is_archived: bool) -> None:
    batch = with_pictures(engine, tmp_path / "output", ROWS)
    if is_archived:
        change(engine, "DELETE FROM jobs")
    assert dict(find_meta_columns(engine, [batch.id])) == TYPES


def test_keys_of_meta_are_columns_of_their_own_types(engine: Engine, tmp_path: Path) -> None:
    path = exported(engine, tmp_path)
    schema = pq.read_schema(path)
    assert schema.field("meta.score").type == pa.float64()
    assert column(path, "meta.score") == [1.0, 0.5, None]
    assert column(path, "meta.count") == [2**60, 0, None]
    assert column(path, "meta.flag") == [True, False, None]
    assert column(path, "meta.mixed") == ["a", "1", None]
    assert column(path, "meta.huge") == [None, str(2**70), None], "to the last digit"
    assert column(path, "meta.nested") == ['{"a": [1]}', "[]", None]
    assert column(path, "meta.Ünï ☃") == [None, None, "x"]
    assert [json.loads(text) for text in column(path, "meta")] == META
    assert told(path) == {}


def told(path: Path) -> dict[str, int]:
    """Values that had no room, as the file's metadata counts them."""
    found: dict[str, int] = json.loads(pq.read_metadata(path).metadata[b"nightmill.unfit_values"])
    return found


def test_a_value_that_does_not_fit_is_null_and_counted(engine: Engine, tmp_path: Path) -> None:
    path = exported(engine, tmp_path, meta_columns=(("score", "long"), ("label", "double"), ("flag", "long")))
    assert column(path, "meta.score") == [1, None, None]
    assert column(path, "meta.label") == [None, None, None]
    assert told(path) == {"meta.flag": 2, "meta.label": 2, "meta.score": 1}


def test_scores_and_timings_are_columns_and_paths_are_relative(engine: Engine, tmp_path: Path) -> None:
    path = exported(engine, tmp_path, path_prefix="../../")
    assert column(path, "quality.clip_score") == [31.25] * 3
    assert column(path, "timings.generate") == [0.5] * 3
    assert column(path, "timings.upscale") == [None] * 3
    assert column(path, "nsfw_content_detected") == [False] * 3
    assert column(path, "path") == [f"../../{key}" for key in column(path, "key")]
    assert column(path, "date") == [moment.date() for moment in column(path, "created_at")]
    assert column(path, "uri") == [str(tmp_path / "output" / key) for key in column(path, "key")]
    assert pq.read_schema(path).names[: len(SCHEMA)] == SCHEMA.names


def test_seconds_of_every_stage_are_columns() -> None:
    assert list(STAGES) == [stage.name for stage in PIPELINE]


def test_what_is_flagged_is_true_and_what_was_not_checked_null(engine: Engine, tmp_path: Path) -> None:
    for name, changes in {
        "flagged": {"safety_verdict": "blurred", "safety_reason": "nudity"},
        "unchecked": {"safety_scores": None},
    }.items():
        batch = with_pictures(engine, tmp_path / "output", 1, name=name, changes=changes)
        write(engine, batch, "parquet", tmp_path / name)
    assert column(tmp_path / "flagged" / "part-00000.parquet", "nsfw_content_detected") == [True]
    assert column(tmp_path / "unchecked" / "part-00000.parquet", "nsfw_content_detected") == [None]


def test_only_the_columns_asked_for_in_their_order(engine: Engine, tmp_path: Path) -> None:
    path = exported(engine, tmp_path, columns=("meta.label", "image_id", "path"))
    assert pq.read_schema(path).names == ["meta.label", "image_id", "path"]
    assert column(path, "meta.label") == ["fox", "owl", None]


def test_a_file_has_indexes_checksums_and_the_version_of_its_schema(engine: Engine, tmp_path: Path) -> None:
    path = exported(engine, tmp_path)
    found = pq.ParquetFile(path, page_checksum_verification=True)
    found.read()
    assert found.schema_arrow.metadata[b"nightmill.schema_version"] == SCHEMA_VERSION.encode()
    group = found.metadata.row_group(0)
    chunks = {chunk.path_in_schema: chunk for chunk in map(group.column, range(group.num_columns))}
    assert all(chunk.has_offset_index for chunk in chunks.values())
    assert chunks["prompt"].has_column_index
    blooms = duckdb.execute(
        "SELECT path_in_schema FROM parquet_metadata(?) WHERE bloom_filter_offset IS NOT NULL", [str(path)]
    ).fetchall()
    assert {name for (name,) in blooms} == {"sha256", "row_id"}


def test_duckdb_pandas_and_polars_read_it(engine: Engine, tmp_path: Path) -> None:
    path = exported(engine, tmp_path)
    sha256 = column(path, "sha256")[1]
    found = duckdb.read_parquet(str(path)).filter(f"sha256 = '{sha256}'")
    assert found.project('"meta.label", seed, created_at').fetchall()[0][:1] == ("owl",)
    frame = pd.read_parquet(path)
    assert frame["meta.score"].tolist()[:2] == [1.0, 0.5]
    assert frame["seed"].dtype == "uint64"
    assert str(frame["created_at"].dtype) == "datetime64[us, UTC]"
    assert pl.scan_parquet(path).filter(pl.col("meta.flag")).select("row_id").collect().rows() == [("r0",)]


def test_bytes_do_not_depend_on_how_rows_are_handed_over(tmp_path: Path) -> None:
    rows = pa.record_batch({"sha256": [f"{number:064d}" for number in range(1000)], "n": range(1000)})
    contents = []
    for size in (1000, 7, 333):
        with ParquetFile(tmp_path / "rows.parquet", rows.schema, row_group=300) as file:
            for start in range(0, 1000, size):
                file.write(rows.slice(start, size))
        assert file.rows == 1000
        contents.append((tmp_path / "rows.parquet").read_bytes())
    assert contents[0] == contents[1] == contents[2]
    found = pq.read_metadata(tmp_path / "rows.parquet")
    assert [found.row_group(n).num_rows for n in range(found.num_row_groups)] == [300, 300, 300, 100]
    assert pq.read_table(tmp_path / "rows.parquet").to_batches()[0].column("n").to_pylist()[:2] == [0, 1]


@pytest.mark.parametrize(
    ("text", "column_type", "value"),
    [
        ('{"k": 1.0}', "long", 1),
        ('{"k": 9007199254740993}', "double", None),
        ('{"k": 1e400}', "double", None),
        ('{"k": "\\ud800"}', "string", None),
        ('{"k": true}', "long", None),
        ('{"k": true}', "string", "true"),
        ('{"k": "1"}', "double", None),
        ('{"k": 9223372036854775808}', "long", None),
        ("[1]", "string", None),
    ],
)
def test_values_of_json_as_columns(text: str, column_type: Any, value: Any) -> None:
    columns = ExportColumns(ExportOptions(columns=("meta.k",), meta_columns=(("k", column_type),)))
    rows = pa.record_batch(
        {"meta": pa.array([text, "{}"], pa.string()), "row_id": ["a", "b"], "ordinal": [0, 1]}
    )
    assert columns.of(rows).column(0).to_pylist() == [value, None]
    assert columns.unfit["meta.k"] == (value is None and text != "[1]")


def parsed(engine: Engine, format: str, **given: Any) -> ExportOptions:
    return parse_export_options(engine, [1], format, GivenOptions(**given))


def test_options_are_read_from_text(engine: Engine) -> None:
    options = parsed(
        engine, "parquet", columns="image_id, meta.a:b", meta_columns="a:b:long,c:string", split=None
    )
    assert options.meta_columns == (("a:b", "long"), ("c", "string"))
    assert options.columns == ("image_id", "meta.a:b")
    assert parsed(engine, "hf", split="train=.9,val=.1").split == (("train", 0.9), ("val", 0.1))


@pytest.mark.parametrize(
    ("format", "given", "problem"),
    [
        ("parquet", {"columns": "promt"}, "no column 'promt'; did you mean 'prompt'"),
        ("parquet", {"columns": "prompt,prompt"}, "twice"),
        ("parquet", {"meta_columns": "a:long,a:double"}, "--meta-columns names 'a' twice"),
        ("parquet", {"meta_columns": "label"}, "--meta-columns label: write NAME:VALUE"),
        ("parquet", {"meta_columns": "label:text"}, "--meta-columns: Input should be 'string', 'long'"),
        ("hf", {"split": "train=most"}, "'most' is no number"),
        ("hf", {"split": "train=.5"}, "add up to 1"),
        ("parquet", {"split": "train=1"}, "--split is for the format hf, not for parquet"),
        ("webdataset", {"embed_images": True}, "--embed-images is for the format csv, jsonl, not for"),
        ("hf", {"layout": "zip"}, "--layout: Input should be 'parquet' or 'imagefolder'"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    engine: Engine, format: str, given: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UsageError, match=problem):
        parsed(engine, format, **given)


def test_readers_open_the_folder_as_it_is(engine: Engine, tmp_path: Path) -> None:
    """What lies beside the rows, such as the card and copies of images, is none of theirs."""
    batch = with_pictures(engine, tmp_path / "output", 5, name="foxes")
    for number, options in enumerate(
        (ExportOptions(), ExportOptions(copy_images=True), ExportOptions(partition_by=("date",)))
    ):
        to = open_store(str(tmp_path / f"set-{number}"), S3Options())
        order = ExportRequest([batch], "parquet", to, options=options)
        export(engine, order, lambda _: open_store(str(tmp_path / "output"), S3Options()))
        folder = str(tmp_path / f"set-{number}")
        assert len(pd.read_parquet(folder)) == 5
        assert pq.read_table(folder).num_rows == 5
        assert ds.dataset(folder).count_rows() == 5
        assert pl.scan_parquet(f"{folder}/**/*.parquet").collect().height == 5
