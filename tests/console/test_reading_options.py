"""How a manifest is read, as it is said on the command line: --delimiter, --drop, --unique-ids."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.console.conftest import Typed, write_lines
from tests.factories import change, look


def test_a_delimiter_of_ones_own(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("prompt~seed\na fox, red~5\n")
    assert typed("plan", "m.csv", "--delimiter", "~", "--json").json["jobs"] == 1
    ended = typed("submit", "m.csv", "--delimiter", "~")
    assert ended.code == 0, ended.err
    assert [*map(tuple, (row.values() for row in look(engine, "SELECT prompt, seed FROM jobs")))] == [
        ("a fox, red", 5)
    ]
    for mark in ("ab", "a", '"'):
        assert typed("plan", "m.csv", "--delimiter", mark).code == 2
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox"}])
    refused = typed("plan", "m.jsonl", "--delimiter", ";")
    assert refused.code == 2
    assert "--delimiter: m.jsonl is jsonl" in refused.err


def test_a_column_is_dropped(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox", "num_imagse": 3, "a": 1}, {"prompt": "owl", "b": 2}])
    assert typed("plan", "m.jsonl", "--json").json["rejected"] == 1
    given = ["m.jsonl", "--drop", "NUM_imagse", "--drop", "b", "--drop", "nothing"]
    planned = typed("plan", *given, "--json").json
    assert (planned["rejected"], planned["not_found_columns"]) == (0, ["nothing"])
    assert "no row has a column nothing" in typed("plan", *given).out
    ended = typed("submit", *given)
    assert ended.code == 0
    assert "--drop: no row has a column nothing" in ended.err
    assert [row["meta"] for row in look(engine, "SELECT meta FROM jobs ORDER BY id")] == [{"a": 1}, {}]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_dropped_column_that_a_header_has_is_found(typed: Typed, tmp_path: Path, suffix: str) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    table = pa.table({"prompt": ["fox"], "b": ["1"]})
    if suffix == "csv":
        pyarrow.csv.write_csv(table, tmp_path / "m.csv")
    else:
        pyarrow.parquet.write_table(table.append_column("c", [[b"1"]]), tmp_path / "m.parquet")
    given = ["--drop", "b", "--drop", "c", "--drop", "d"]
    planned = typed("plan", f"m.{suffix}", *given, "--json").json
    assert planned["not_found_columns"] == (["d"] if suffix == "parquet" else ["c", "d"])
    told = "c (of bytes, which JSON has no form for)" in typed("plan", f"m.{suffix}").out
    assert told == (suffix == "parquet")


def test_ids_that_come_twice_stop_everything(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox", "id": 1}, {"prompt": "owl", "id": "1"}])
    for command in ("plan", "submit"):
        refused = typed(command, "m.jsonl", "--unique-ids")
        assert refused.code == 2
        assert "1 ids are repeated, lines 2; nothing was ingested (--unique-ids)" in refused.err
    assert look(engine, "SELECT 1 FROM jobs") == []
    ended = typed("submit", "m.jsonl")
    assert ended.code == 0
    assert "1 rows repeat the id of an earlier one" in ended.err


@pytest.mark.parametrize(
    "arguments", [("status", "\udcff"), ("export", "\udcff", "--to", "x"), ("cancel", "\udcff")]
)
def test_a_name_in_another_encoding_is_wrong_use(typed: Typed, arguments: tuple[str, ...]) -> None:
    ended = typed(*arguments)
    assert ended.code == 2
    assert "'\\udcff' isn't UTF-8, which only the names of files to read may be" in ended.err


def test_files_are_named_in_any_encoding(typed: Typed, tmp_path: Path) -> None:
    folder = tmp_path / "sub\udcff"
    folder.mkdir()
    write_lines(folder / "m\udcfe.jsonl", [{"prompt": "fox"}, {"prompt": "fox", "init_image": "x.png"}])
    (folder / "r.yaml").write_text("prompts: {file: p.txt}\n")
    (folder / "p.txt").write_text("fox\n")
    planned = typed("plan", "sub\udcff/m\udcfe.jsonl", "--json").json
    assert planned["jobs"] == 1
    assert "is not UTF-8, so that it can't be stored; rename it" in planned["rejects"][0]["reason"]
    assert typed("plan", "sub\udcff/r.yaml", "--json").json["jobs"] == 1
    for arguments in (
        ("m\udcff.jsonl",),
        ("sub\udcff/r.yaml", "--out", "o\udcff"),
        ("s3://b\udcff/m.jsonl",),
    ):
        refused = typed("plan", *arguments)
        assert refused.code in (1, 2)
        assert "should not happen" not in refused.err


def test_doctor_tells_of_a_database_that_came_from_another_cluster(typed: Typed, engine: Engine) -> None:
    def feed() -> dict[str, object]:
        return next(check for check in typed("doctor", "--json").json if check["check"] == "feed")

    assert feed()["ok"]
    assert typed("migrate").code == 0
    assert feed()["ok"]
    change(engine, "UPDATE feed_epochs SET cluster = 'elsewhere'")
    told = feed()
    assert not told["ok"]
    assert "came from another cluster" in str(told["finding"])
    assert typed("migrate").code == 0
    assert feed()["ok"]
