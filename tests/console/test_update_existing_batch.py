"""`--onto BATCH`: what a later manifest changes is shown before, and done once."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.job_dataclasses import LaneId
from jobs.queue import transitions
from tests.chaos.stub import stubbed
from tests.console.conftest import Typed, write_lines
from tests.factories import image, look, take

FOXES = [{"id": f"fox-{n}", "prompt": f"fox {n}"} for n in range(4)]
LATER = [
    FOXES[0],
    FOXES[1] | {"label": "red"},
    FOXES[2] | {"prompt": "a red fox"},
    {"id": "owl", "prompt": "an owl"},
]
CHANGES = {"new": 1, "changed": 1, "told": 1, "dropped": 1, "unchanged": 1, "queued": 2, "retracted": 2}


@pytest.fixture
def rendered(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    """A batch of four foxes in three steps each, all of which are rendered, and a later manifest in the same place."""
    write_lines(tmp_path / "foxes.jsonl", FOXES)
    assert typed("submit", "foxes.jsonl", "--set", "steps=3", "--set", "quality=80").code == 0
    transitions.complete(engine, [image(job) for job in take(engine, LaneId(1))])
    write_lines(tmp_path / "foxes.jsonl", LATER)


@pytest.mark.usefixtures("rendered")
def test_the_plan_says_what_is_done(typed: Typed, engine: Engine) -> None:
    planned = typed("plan", "foxes.jsonl", "--onto", "foxes", "--json")
    assert (planned.code, planned.json["onto"]) == (0, CHANGES), planned.err
    assert look(engine, "SELECT FROM jobs WHERE state <> 'done'") == []
    said = "rows: 1 new, 1 changed, 1 changed in other columns alone, 1 dropped, 1 unchanged; 2 images to render, "
    assert said + "2 images taken back" in " ".join(
        typed("plan", "foxes.jsonl", "--onto", "foxes").out.split()
    )
    done = typed("submit", "foxes.jsonl", "--onto", "foxes", "--json")
    assert (done.code, done.json["onto"], done.json["name"], done.json["is_new"]) == (
        0,
        CHANGES,
        "foxes",
        False,
    )
    assert f"batch foxes: {said}" in done.err
    assert (done.json["counts"]["done"], done.json["counts"]["queued"]) == (2, 2)
    queued = look(engine, "SELECT prompt, steps FROM jobs WHERE state = 'queued' ORDER BY ordinal")
    assert [tuple(job.values()) for job in queued] == [("a red fox", 3), ("an owl", 3)], "set as before"
    again = typed("submit", "foxes.jsonl", "--onto", "foxes")
    assert (again.code, "batch foxes: nothing to do: 4 rows unchanged" in again.err) == (0, True)
    found = typed("submit", "foxes.jsonl", "--set", "steps=3", "--set", "quality=80", "--json")
    assert (found.json["batch"], found.json["is_new"]) == (done.json["batch"], False)


def test_a_run_renders_what_changed_alone(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "foxes.jsonl", FOXES)
    with stubbed(tmp_path):
        first = typed("run", str(path), "--json")
        assert (first.code, first.json["rendered"]) == (0, 4), first.err
        before = {row["row_id"]: row["sha256"] for row in look(engine, "SELECT * FROM images")}
        write_lines(path, LATER)
        again = typed("run", str(path), "--onto", "foxes", "--json")
        assert (again.code, again.json["rendered"], again.json["onto"]) == (0, 2, CHANGES), again.err
        after = {row["row_id"]: row["sha256"] for row in look(engine, "SELECT * FROM images")}
        assert {name: after[name] for name in ("fox-0", "fox-1")} == {
            n: before[n] for n in ("fox-0", "fox-1")
        }
        assert after.keys() == {"fox-0", "fox-1", "fox-2", "owl"}
        assert typed("reconcile", "foxes", "--json").code == 0
        idle = typed("run", str(path), "--onto", "foxes", "--json")
        assert (idle.code, idle.json["rendered"]) == (0, 0)


@pytest.mark.usefixtures("rendered")
def test_what_is_set_anew_counts_from_then_on(typed: Typed, engine: Engine) -> None:
    changed = typed(
        "submit", "foxes.jsonl", "--onto", "foxes", "--set", "steps=2", "--keep-dropped", "--json"
    )
    assert (changed.json["onto"]["changed"], changed.json["onto"]["dropped"]) == (3, 0)
    assert (
        typed("plan", "foxes.jsonl", "--onto", "foxes", "--keep-dropped", "--json").json["onto"]["changed"]
        == 0
    )
    (row,) = look(engine, "SELECT settings FROM batches")
    assert row["settings"]["columns"] == {"steps": "2"}


@pytest.mark.usefixtures("rendered")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--name", "other"), "--name: with --onto the batch keeps its name, output and policy"),
        (("--out", "there"), "--out: with --onto the batch keeps"),
        (("--set", "quality=90"), "--set quality: with --onto the batch keeps"),
        (("--priority", "3"), "--priority: with --onto the batch keeps"),
    ],
)
def test_what_the_batch_keeps_is_refused(typed: Typed, options: tuple[str, str], said: str) -> None:
    ended = typed("submit", "foxes.jsonl", "--onto", "foxes", *options)
    assert (ended.code, said in ended.err) == (2, True), ended.err


def test_options_without_a_batch_are_refused(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps(FOXES[0]))
    alone = typed("submit", "m.jsonl", "--keep-dropped")
    assert (alone.code, "--keep-dropped is for --onto BATCH" in alone.err) == (2, True)
    unknown = typed("plan", "m.jsonl", "--onto", "absent")
    assert (unknown.code, "no batch 'absent'" in unknown.err) == (2, True)


@pytest.mark.usefixtures("rendered")
def test_a_later_manifest_heeds_limits_of_open_jobs_and_asks_for_very_many(
    typed: Typed, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = "submit", "foxes.jsonl", "--onto", "foxes", "--set", "tenant=ada"
    typed("tenants", "set", "ada", "--max-queued", "1")
    refused = typed(*update)
    assert (refused.code, "tenant ada would have 2 open jobs, and may have 1" in refused.err) == (1, True)
    assert typed("status", "foxes", "--json").json["counts"]["done"] == 4, "and nothing else was changed"
    typed("tenants", "set", "ada", "--max-queued", "2")
    monkeypatch.setattr("console.manifests.ingest_manifest.MAX_JOBS", 1)
    asked = typed(*update)
    assert (asked.code, "foxes.jsonl: queues 2 images; if that is meant, say --yes" in asked.err) == (2, True)
    assert look(engine, "SELECT count(*) AS n FROM jobs WHERE state = 'queued'") == [{"n": 0}]
    assert typed(*update, "--yes").code == 0
