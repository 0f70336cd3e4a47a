"""Datasets for the Hugging Face hub: opened by datasets, DuckDB, pandas and polars; splits that stay as they are."""

import io
import json
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError
from sqlalchemy import Engine

from scheduler.export.export_options import ExportOptions
from scheduler.export.rows.splits import splits_of
from tests.scheduler.export.datasets import SIZE, with_pictures, write

ROWS: list[dict[str, Any]] = [
    {"prompt": f"fox {number}", "id": f"r{number}", "seed": 2**64 - 1 - number, "caption": f"Füchse {number}"}
    for number in range(6)
]
TEXTS = [row["caption"] for row in ROWS]


@pytest.fixture
def folder(engine: Engine, tmp_path: Path) -> Path:
    """An export of six rows in two shards."""
    batch = with_pictures(engine, tmp_path / "output", ROWS, name="foxes")
    write(engine, batch, "hf", tmp_path / "export", rows=3)
    return tmp_path / "export"


def test_a_shard_is_a_file_with_its_images(folder: Path) -> None:
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.parquet"))]
    assert names == ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    schema = pq.read_schema(folder / names[0])
    assert schema.names[:2] == ["image", "text"]
    info = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert info["image"] == {"_type": "Image"}
    assert info["seed"] == {"dtype": "uint64", "_type": "Value"}
    assert set(info) == set(schema.names)


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_decodes_the_images(folder: Path, tmp_path: Path, streaming: bool) -> None:
    loaded = datasets.load_dataset(
        "parquet",
        data_files={"train": str(folder / "data" / "*.parquet")},
        split="train",
        streaming=streaming,
        cache_dir=str(tmp_path / "cache"),
    )
    samples = list(loaded)
    assert [sample["text"] for sample in samples] == TEXTS
    assert {sample["image"].size for sample in samples} == {(SIZE, SIZE)}
    assert samples[0]["seed"] == 2**64 - 1
    assert loaded.features["created_at"] == datasets.Value("timestamp[us, tz=UTC]")
    assert loaded.features["date"] == datasets.Value("date32")


def test_duckdb_pandas_and_polars_read_it(folder: Path) -> None:
    files = str(folder / "data" / "*.parquet")
    found = duckdb.read_parquet(files).order("ordinal").project("text, image.bytes, seed").fetchall()
    assert [text for text, _, _ in found] == TEXTS
    assert Image.open(io.BytesIO(found[0][1])).size == (SIZE, SIZE)
    frame = pd.read_parquet(folder / "data")
    assert frame["seed"].tolist() == [2**64 - 1 - number for number in range(6)]
    assert Image.open(io.BytesIO(frame["image"][5]["bytes"])).size == (SIZE, SIZE)
    lazy = pl.scan_parquet(files).select("text", pl.col("image").struct.field("path")).collect()
    assert lazy["text"].to_list() == TEXTS
    assert lazy["path"][0].endswith(".png")


def test_row_groups_hold_few_images_which_are_not_compressed_again(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", 101)
    write(engine, batch, "hf", tmp_path / "export")
    found = pq.read_metadata(tmp_path / "export" / "data" / "train-00000-of-00001.parquet")
    assert [found.row_group(number).num_rows for number in range(found.num_row_groups)] == [100, 1]
    columns = {
        column.path_in_schema: column.compression
        for column in map(found.row_group(0).column, range(found.num_columns))
    }
    assert (columns["image.bytes"], columns["prompt"]) == ("UNCOMPRESSED", "ZSTD")


def test_it_is_the_same_bytes_each_time(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", ROWS)
    contents = []
    for name in ("one", "other"):
        write(engine, batch, "hf", tmp_path / name, rows=3, split=(("train", 0.5), ("val", 0.5)))
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name / "data").iterdir()})
    assert contents[0] == contents[1]
    assert len(contents[0]) > 2


def split_by_row(folder: Path) -> dict[str, str]:
    """The split of each row of an export."""
    return {
        row["row_id"]: path.name.partition("-")[0]
        for path in folder.rglob("*.parquet")
        for row in pq.ParquetFile(path).read(["row_id"]).to_pylist()
    }


def test_rows_stay_in_their_split_when_the_batch_grows(engine: Engine, tmp_path: Path) -> None:
    many = [{"prompt": "fox", "id": f"r{number}"} for number in range(40)]
    split = {"split": (("train", 0.7), ("val", 0.2), ("test", 0.1))}
    small = with_pictures(engine, tmp_path / "output", many[:25], name="small")
    large = with_pictures(engine, tmp_path / "output", many[::-1], name="large")
    write(engine, small, "hf", tmp_path / "small", **split)
    write(engine, large, "hf", tmp_path / "large", rows=7, **split)
    before, after = split_by_row(tmp_path / "small"), split_by_row(tmp_path / "large")
    assert len(before) == 25
    assert before.items() <= after.items()
    assert set(after.values()) == {"train", "val", "test"}


def test_shares_are_as_asked() -> None:
    count = 20_000
    rows = pa.record_batch(
        {"row_id": pa.nulls(count, pa.string()), "batch": ["b"] * count, "ordinal": list(range(count))}
    )
    found = splits_of(rows, (("train", 0.9), ("val", 0.1)))
    assert found.count("val") / count == pytest.approx(0.1, abs=0.01)
    assert splits_of(rows, (("all", 1.0),)) == ["all"] * count


@pytest.mark.parametrize(
    ("split", "problem"),
    [
        ((("train", 0.9),), "add up to 1"),
        ((("a", 0.5), ("a", 0.5)), "named twice"),
        ((("a", 1.5), ("b", -0.5)), "above 0"),
        ((("../a", 1.0),), "no name of a split"),
    ],
)
def test_splits_that_make_no_sense_are_refused(split: Any, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        ExportOptions(split=split)


def test_a_folder_of_images_is_read_by_datasets(engine: Engine, tmp_path: Path) -> None:
    batch = with_pictures(engine, tmp_path / "output", ROWS)
    export = tmp_path / "export"
    split = (("train", 0.5), ("val", 0.5))
    written = write(engine, batch, "hf", export, rows=3, layout="imagefolder", split=split)
    assert sorted(file.name for file in written) == sorted(
        path.relative_to(export).as_posix() for path in export.rglob("*") if path.is_file()
    )
    assert sum(file.rows or 0 for file in written) == 6
    loaded = datasets.load_dataset("imagefolder", data_dir=str(export), cache_dir=str(tmp_path / "cache"))
    assert sum(part.num_rows for part in loaded.values()) == 6
    sample = loaded["train"][0]
    assert sample["image"].size == (SIZE, SIZE)
    assert sample["text"].startswith("Füchse")
