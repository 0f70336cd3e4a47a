"""What an export contains, by options of the command."""

import csv
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from scheduler.export.exporters import exporter_of
from tests.console.conftest import Typed
from tests.scheduler.export.datasets import SIZE, with_pictures

ROWS: list[dict[str, Any]] = [
    {"prompt": f"fox {number}", "id": f"r{number}", "label": "ab"[number % 2], "score": number / 2}
    for number in range(6)
]


def test_beside_the_images_paths_lead_to_them(engine: Engine, typed: Typed, tmp_path: Path) -> None:
    with_pictures(engine, tmp_path / "output", ROWS, name="foxes")
    assert typed("export", "foxes").code == 0
    folder = tmp_path / "output" / "foxes" / "export"
    table = pq.read_table(folder / "part-00000.parquet")
    assert table.column("meta.score").to_pylist() == [row["score"] for row in ROWS]
    for path, size in zip(table.column("path").to_pylist(), table.column("bytes").to_pylist(), strict=True):
        assert (folder / path).stat().st_size == size
    assert (folder / "_README.md").exists()


def test_splits_are_what_the_card_says(engine: Engine, typed: Typed, tmp_path: Path) -> None:
    with_pictures(engine, tmp_path / "output", ROWS, name="foxes")
    ended = typed("export", "foxes", "--format", "hf", "--split", "train=.5,val=.5", "--to", "set", "--json")
    assert ended.code == 0, ended.err
    loaded = datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "val"}
    assert loaded["val"][0]["image"].size == (SIZE, SIZE)


def test_columns_and_their_types_are_as_asked(engine: Engine, typed: Typed, tmp_path: Path) -> None:
    with_pictures(engine, tmp_path / "output", ROWS, name="foxes")
    named = "--columns", "meta.score,prompt", "--meta-columns", "score:string"
    ended = typed("export", "foxes", "--format", "csv", *named, "--to", "rows")
    assert ended.code == 0, ended.err
    with (tmp_path / "rows" / "part-00000.csv").open() as file:
        assert list(csv.reader(file))[:2] == [["meta.score", "prompt"], ["0.0", "fox 0"]]


def test_columns_of_meta_stay_when_an_export_is_written_again(
    engine: Engine, typed: Typed, tmp_path: Path
) -> None:
    with_pictures(engine, tmp_path / "output", ROWS, name="foxes")
    given = "export", "foxes", "--to", "rows", "--json"
    first = typed(*given, "--meta-columns", "label:string").json
    assert typed(*given).json["export"] == first["export"]
    schema = pq.read_schema(tmp_path / "rows" / "part-00000.parquet")
    assert [name for name in schema.names if name.startswith("meta.")] == ["meta.label"]


@pytest.mark.parametrize("format", ["parquet", "csv", "hf", "webdataset"])
def test_values_that_their_type_has_no_room_for_are_told(
    engine: Engine, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    monkeypatch.setattr(exporter_of(format), "shard_rows", 4)
    with_pictures(engine, tmp_path / "output", ROWS, name="foxes")
    given = "export", "foxes", "--format", format, "--meta-columns", "label:double,score:long", "--to", "rows"
    for _ in ("written", "there already"):
        ended = typed(*given, "--json")
        assert ended.code == 0, ended.err
        assert ended.json["unfit"] == {
            "meta.label": {"values": 6, "row_id": "r0", "ordinal": 0},
            "meta.score": {"values": 3, "row_id": "r1", "ordinal": 1},
        }
        told = " ".join(ended.err.split())
        assert (
            "6 values of meta.label not of its type, double: null in the export; the first is in row r0"
            in told
        )
        assert "3 values of meta.score not of its type, long" in told
    assert typed("export", "foxes", "--to", "others", "--json").json["unfit"] == {}


def test_rows_without_a_value_for_their_partition_are_told(
    engine: Engine, typed: Typed, tmp_path: Path
) -> None:
    with_pictures(
        engine, tmp_path / "output", [{"prompt": "p", "label": label} for label in "a1"], name="foxes"
    )
    divided = "--partition-by", "meta.label", "--meta-columns", "label:long"
    ended = typed("export", "foxes", *divided, "--to", "rows", "--json")
    assert ended.json["unfit"] == {"meta.label": {"values": 2, "row_id": None, "ordinal": 0}}
    assert "the first is in row number 0" in " ".join(ended.err.split())


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--columns", "promt"], "no column 'promt'; did you mean 'prompt'?"),
        (["--split", "train=.9,val=.2"], "--split is for the format hf, not for parquet"),
        (["--format", "hf", "--split", "train=.9,val=.2"], "add up to 1"),
        (["--meta-columns", "label:text"], "--meta-columns: Input should be 'string'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    engine: Engine, typed: Typed, tmp_path: Path, options: list[str], problem: str
) -> None:
    with_pictures(engine, tmp_path / "output", 1, name="foxes")
    ended = typed("export", "foxes", "--to", "rows", *options)
    assert (ended.code, problem in " ".join(ended.err.split())) == (2, True), ended.err
    assert not (tmp_path / "rows").exists()
