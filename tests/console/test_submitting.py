"""From a manifest to queued jobs: where it comes from, how it is read, and what is said about it."""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine

from console.manifests import ingest_manifest
from jobs.job_dataclasses import LaneId
from jobs.queue import transitions
from jobs.settings import Settings
from tests.console.conftest import Typed, write_lines
from tests.factories import image, look, take

TSV = "Caption\tCategory\tseed\nA red fox\tAnimals\t5\nA blue door\tHouses\t6\n"


def prompts(engine: Engine) -> list[str]:
    return [row["prompt"] for row in look(engine, "SELECT prompt FROM jobs ORDER BY id")]


def test_submit_and_submit_again(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "Toys & Games.tsv").write_text(TSV)
    first = typed("submit", "Toys & Games.tsv", "--map", "prompt=Caption", "--set", "num_images=2", "--json")
    assert first.code == 0, first.err
    assert (first.json["name"], first.json["is_new"], first.json["counts"]["queued"]) == (
        "toys-games",
        True,
        4,
    )
    assert "batch toys-games: 2 rows gave 4 jobs, 0 rejected" in first.err
    again = typed("submit", "Toys & Games.tsv", "--map", "prompt=Caption", "--set", "num_images=2")
    assert again.code == 0
    assert "nothing is ingested twice" in again.err
    assert prompts(engine) == ["A red fox"] * 2 + ["A blue door"] * 2
    assert look(engine, "SELECT meta FROM jobs LIMIT 1")[0]["meta"] == {"Category": "Animals"}
    other = typed("submit", "Toys & Games.tsv", "--map", "prompt=Caption", "--name", "toys-2", "--json")
    assert (other.json["name"], other.json["is_new"], other.json["batch"]) == ("toys-2", True, 2)


def test_a_manifest_from_standard_input(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    ended = typed("submit", "-", "--name", "piped", "--input-format", "csv", stdin='prompt\n"a\nfox"\n')
    assert ended.code == 0, ended.err
    assert prompts(engine) == ["a\nfox"]
    guessed = typed("submit", "-", "--name", "guessed", stdin='{"prompt": "an owl"}\n')
    assert guessed.code == 0, guessed.err
    assert prompts(engine) == ["a\nfox", "an owl"]


def test_a_packed_manifest(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "m.txt.gz").write_bytes(gzip.compress("ein Fuchs\n狐狸\n".encode()))
    assert typed("submit", "m.txt.gz").code == 0
    assert prompts(engine) == ["ein Fuchs", "狐狸"]


def test_a_connection_that_is_cut_in_the_midst_of_it_is_no_end(
    typed: Typed, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": f"fox {number}"} for number in range(5_000)])
    told: list[int] = []

    @contextmanager
    def counting(*_: object) -> Iterator[Callable[[int], None]]:
        def tell(rows: int) -> None:
            told.append(rows)
            if len(told) == 2:
                cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                look(engine, cut + "AND datname = current_database()")

        yield tell

    monkeypatch.setattr(ingest_manifest, "counting", counting)
    ended = typed("submit", "m.jsonl")
    assert ended.code == 0, ended.err
    assert "PostgreSQL is away; waiting up to" in ended.err
    assert told[-5:] == [1_000, 2_000, 3_000, 4_000, 5_000]
    assert len(told) > 5
    assert look(engine, "SELECT count(*), count(DISTINCT prompt) AS prompts FROM jobs")[0] == {
        "count": 5_000,
        "prompts": 5_000,
    }


def test_strict_ingests_all_or_nothing(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox"}, {"prompt": "fox", "steps": -1}])
    ended = typed("submit", "m.jsonl", "--strict")
    assert ended.code == 2
    assert "m.jsonl, line 2, column steps: " in ended.err
    assert look(engine, "SELECT 1 FROM batches") == []
    assert typed("submit", "m.jsonl").code == 0
    assert len(prompts(engine)) == 1


def test_rows_that_are_all_rejected(typed: Typed, tmp_path: Path) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": ""}, {"prompt": "fox", "steps": "many"}])
    for command in ("plan", "submit", "run"):
        ended = typed(command, "m.jsonl", "--json")
        assert ended.code == 1, (command, ended.err)
        assert ended.json["rejected"] == 2
    assert [row["line"] for row in typed("rejects", "m", "--json").json] == [1, 2]


def test_an_empty_manifest(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text("")
    ended = typed("run", "m.jsonl")
    assert ended.code in (1, 2)
    assert "Traceback" not in ended.err


def test_plan_touches_nothing(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": "fox", "num_images": 3},
        {"prompt": "a fox " * 100, "width": 128},
        {"prompt": "fox", "width": 65},
    ]
    write_lines(tmp_path / "m.jsonl", rows)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    planned = typed("plan", "m.jsonl", "--json")
    assert planned.code == 0, planned.err
    assert (planned.json["rows"], planned.json["jobs"], planned.json["rejected"]) == (3, 4, 1)
    assert [(lane["width"], lane["jobs"]) for lane in planned.json["lanes"]] == [(64, 3), (128, 1)]
    assert planned.json["truncated_lines"] == [2]
    assert planned.json["estimated_bytes"] > 0
    (reject,) = planned.json["rejects"]
    assert (reject["line"], reject["column"]) == (3, "width")
    shown = typed("plan", "m.jsonl")
    assert "1 prompts are longer than their model reads, lines 2" in shown.out
    assert typed("plan", "m.jsonl", "--strict").code == 1
    assert look(engine, "SELECT 1 FROM batches") == []
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_plan_needs_no_service(tmp_path: Path, settings: Settings) -> None:
    own = settings.model_copy(
        update={"database_url": None, "broker_url": None, "data_dir": tmp_path / "none"}
    )
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox"}])
    assert Typed(own, tmp_path)("plan", "m.jsonl").code == 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("change", ["pause", "cancel"])
def test_a_batch_that_was_stopped_is_not_run(
    typed: Typed, engine: Engine, tmp_path: Path, change: str
) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox"}])
    typed("submit", "m.jsonl")
    state = {"pause": "paused", "cancel": "cancelled"}[change]
    assert typed(change, "m", "--json").json["state"] == state
    ended = typed("run", "m.jsonl")
    assert ended.code == 2
    assert state in ended.err.splitlines()[-1]
    back = {"pause": "resume", "cancel": "retry"}[change]
    assert f"`nightmill {back} m`" in ended.err
    queued = typed(back, "m", "--json")
    assert (queued.code, queued.json["state"], queued.json["counts"]["queued"]) == (0, "queued", 1)


def test_nothing_but_json_on_stdout(typed: Typed, tmp_path: Path) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox"}])
    typed("submit", "m.jsonl")
    for arguments in (
        "status",
        "status m",
        "rejects m",
        "pause m",
        "resume m",
        "cancel m",
        "retry m",
        "models",
    ):
        ended = typed(*arguments.split(), "--json")
        assert ended.code == 0, ended.err
        assert json.loads(ended.out) is not None


def test_a_batch_that_has_ended_cannot_be_cancelled(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox"}])
    typed("submit", "m.jsonl")
    (job,) = take(engine, LaneId(look(engine, "SELECT id FROM lanes")[0]["id"]))
    transitions.complete(engine, [image(job)])
    assert typed("cancel", "m", "--json").json["state"] == "done"
    assert typed("status", "m", "--json").json["counts"]["done"] == 1
