"""Exports by the command line: while a batch renders, of several batches, listed, stopped, forgotten."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.exports import records, shard_claims
from jobs.queue import transitions
from jobs.settings import Settings
from jobs.storage.open import S3Options, open_store
from scheduler.export.export_request import ExportRequest
from scheduler.export.open_export import open_export
from scheduler.ingest.ingest import Ingested
from tests.chaos.stub import stubbed
from tests.console.conftest import Typed, write_lines
from tests.end_to_end.processes import running, until
from tests.factories import change, image, lanes_of, make_batch, take
from tests.ownership import render
from tests.scheduler.export.datasets import picture


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_batch_is_exported_while_processes_render_it(settings: Settings, tmp_path: Path) -> None:
    """Real scheduler, real worker; the second format is asked for when the batch is there."""
    typed = Typed(settings, tmp_path)
    write_lines(tmp_path / "foxes.jsonl", [{"prompt": f"fox {n}"} for n in range(6)])
    submitted = typed("submit", "foxes.jsonl", "--format", "jsonl", "--out", "out")
    assert submitted.code == 0, submitted.err
    assert "foxes is exported as jsonl while it renders" in submitted.err
    folder = tmp_path / "out" / "foxes" / "export-jsonl"
    with stubbed(tmp_path), running(settings, "scheduler", "worker"):
        followed = typed("export", "foxes", "--follow", "--json")
        until((folder / "_SUCCESS").is_file)
    assert (followed.code, followed.json["complete"], followed.json["images"]) == (0, True, 6)
    assert [row["ordinal"] for row in lines(folder / "part-00000.jsonl")] == list(range(6))
    shown = typed("exports", "--json").json
    assert [(each["format"], each["state"], each["is_live"]) for each in shown] == [
        ("jsonl", "complete", True),
        ("parquet", "complete", False),
    ]
    again = typed("run", "foxes.jsonl", "--out", "out", "--format", "jsonl", "--format", "parquet", "--json")
    assert again.code == 0, again.err
    assert list(again.json["exports"]) == ["jsonl", "parquet"]
    assert again.json["export"] == str(folder)


def test_a_run_keeps_the_options_of_exports_and_brings_live_ones_up_to_date(
    typed: Typed, engine: Engine, tmp_path: Path
) -> None:
    write_lines(tmp_path / "foxes.jsonl", [{"prompt": "fox"}, {"prompt": "owl"}])
    assert typed("submit", "foxes.jsonl", "--format", "jsonl", "--out", "out").code == 0
    status = actions.status(engine, "foxes")
    store = open_store(status.output, S3Options())
    render(engine, store, Ingested(status.id, "foxes", False, 2, 0, 2), picture(1))
    assert typed("export", "foxes", "--columns", "prompt,seed").code == 0
    ended = typed("run", "foxes.jsonl", "--out", "out", "--json")
    assert ended.code == 0, ended.err
    assert list(ended.json["exports"]) == ["parquet", "jsonl"]
    folder = tmp_path / "out" / "foxes"
    assert pq.read_schema(folder / "export" / "part-00000.parquet").names == ["prompt", "seed"]
    assert len(lines(folder / "export-jsonl" / "part-00000.jsonl")) == 2
    assert {each["state"] for each in typed("exports", "--json").json} == {"complete"}


@pytest.mark.parametrize("command", ["run", "submit"])
def test_an_unknown_format_stops_before_anything_is_stored(
    typed: Typed, tmp_path: Path, command: str
) -> None:
    write_lines(tmp_path / "foxes.jsonl", [{"prompt": "fox"}])
    ended = typed(command, "foxes.jsonl", "--format", "gif")
    assert (ended.code, "there is no export format 'gif'; there are" in ended.err) == (2, True)
    assert typed("status", "--json").json == []


def test_several_batches_become_one_dataset(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    for name in ("red", "blue"):
        batch = make_batch(engine, 2, name=name)
        transitions.complete(
            engine, [image(job) for lane in lanes_of(engine, batch) for job in take(engine, lane)]
        )
    refused = typed("export", "red", "blue")
    assert (refused.code, "need a place of their own: --to" in refused.err) == (2, True)
    assert "named twice" in typed("export", "red", "1", "--to", "both").err
    done = typed("export", "red", "blue", "--name", "colours", "--format", "jsonl", "--to", "both", "--json")
    assert (done.code, done.json["batches"], done.json["images"]) == (0, ["red", "blue"], 4), done.err
    assert done.json["folder"] == str(tmp_path / "both")
    told = json.loads((tmp_path / "both" / "_SUCCESS").read_text())
    assert [batch["name"] for batch in told["batches"]] == ["red", "blue"]


def test_only_what_is_complete_is_exported_by_request(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    make_batch(engine, 2, name="foxes")
    ended = typed("export", "foxes", "--to", "out", "--require-complete")
    assert (ended.code, "2 jobs of foxes are not finished: nothing is exported" in ended.err) == (1, True)
    assert not (tmp_path / "out").exists()


class TestExports:
    @pytest.fixture
    def place(self, typed: Typed, engine: Engine, tmp_path: Path) -> Path:
        """Where the batch `foxes` is exported to: one of its two jobs is done."""
        batch = make_batch(engine, 2, name="foxes")
        (first, _) = [job for lane in lanes_of(engine, batch) for job in take(engine, lane)]
        transitions.complete(engine, [image(first)])
        assert typed("export", "foxes", "--format", "jsonl", "--to", "out").code == 0
        return tmp_path / "out"

    def test_the_list_says_how_far_they_are(self, typed: Typed, place: Path) -> None:
        (shown,) = typed("exports", "--json").json
        assert (shown["name"], shown["place"], shown["state"]) == ("foxes", str(place), "incomplete")
        assert (shown["shards"], shown["sealed"], shown["images"]) == (1, 0, 1)
        heading, line = typed("exports", "--batch", "foxes").out.splitlines()
        assert heading.split() == ["number", "dataset", "format", "sealed", "images", "state", "place"]
        assert line.split()[1:5] == ["foxes", "jsonl", "0", "of"]

    def test_the_shards_of_one(self, typed: Typed, place: Path) -> None:
        shown = typed("exports", "show", "1", "--json").json
        (shard,) = shown["shard_list"]
        assert (shard["rows"], shard["version"], shard["sealed"]) == ([0, 99_999], 1, False)
        assert [file["name"] for file in shard["files"]] == ["part-00000.jsonl"]
        assert "written" in typed("exports", "show", "1").out
        assert (place / "part-00000.jsonl").is_file()

    def test_a_long_reason_leaves_the_table_readable(self, typed: Typed, place: Path, engine: Engine) -> None:
        reason = f"{place} is away: " + "because " * 30
        change(engine, "UPDATE exports SET error = :reason", reason=reason)
        assert max(map(len, typed("exports").out.splitlines())) < 250 + len(str(place))
        assert " ".join(reason.split()) in " ".join(typed("exports", "show", "1").err.split())
        assert typed("exports", "--json").json[0]["error"] == reason

    def test_live_and_stopped(self, typed: Typed, place: Path, engine: Engine) -> None:
        assert place.is_dir()
        assert typed("exports", "live", "1", "--json").json["state"] == "live"
        assert records.exports_of(engine)[0].is_live
        assert typed("exports", "stop", "1", "--json").json["state"] == "incomplete"

    def test_forgotten(self, typed: Typed, place: Path) -> None:
        assert typed("exports", "forget", "1", "--yes").code == 0
        assert typed("exports", "--json").json == []
        assert (place / "_SUCCESS").is_file()
        assert typed("export", "foxes", "--format", "jsonl", "--to", "out").code == 0, "known by its _SUCCESS"

    @pytest.mark.parametrize("command", ["show", "live", "stop", "forget"])
    def test_one_that_is_not_there(self, typed: Typed, command: str) -> None:
        ended = typed("exports", command, "7")
        assert (ended.code, "there is no export 7" in ended.err) == (2, True)


def test_a_claim_of_another_process_is_waited_for_and_told(
    typed: Typed, engine: Engine, tmp_path: Path
) -> None:
    """Such as one of a process that was killed."""
    batch = make_batch(engine, 2, name="foxes")
    transitions.complete(
        engine, [image(job) for lane in lanes_of(engine, batch) for job in take(engine, lane)]
    )
    store = open_store(f"{tmp_path}/set", S3Options())
    opened = open_export(engine, ExportRequest([actions.status(engine, "foxes")], "csv", store))
    assert shard_claims.claim_shard(engine, opened.id, -1, unfinished=True) is not None
    change(engine, "UPDATE export_shards SET lease_until = now() + interval '2 s'")
    done = typed("export", "foxes", "--format", "csv", "--to", f"{tmp_path}/set")
    assert done.code == 0, done.err
    assert done.err.count("another process is writing the rest of it: waiting for that") == 1
    assert len((tmp_path / "set" / "part-00000.csv").read_text().splitlines()) == 3


def test_a_deleted_batch_takes_its_exports_along(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    batch = make_batch(engine, 2, name="foxes", output=str(tmp_path / "out"))
    render(engine, open_store(str(tmp_path / "out"), S3Options()), batch)
    for format in ("parquet", "jsonl"):
        assert typed("export", "foxes", "--format", format).code == 0
    (tmp_path / "out" / "foxes" / "export-jsonl" / "mine.txt").write_text("stays")
    assert typed("delete", "foxes", "--files", "--yes").code == 0
    left = [path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {str(path) for path in left} <= {"foxes/export-jsonl/mine.txt", ".nightmill-output.json"}
    assert typed("exports", "--json").json == []
