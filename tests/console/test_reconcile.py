"""`nightmill reconcile`: each row of the manifest has one outcome, before and after archiving; sums that are wrong."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from console.terminal.write_row_outcomes import FORMATS, write_outcomes
from jobs.batches import accepted_image_quotas, actions, drop_jobs_and_delete_batches
from jobs.batches.manifest_reconciliation import RowOutcome, outcomes, sums
from jobs.job_dataclasses import Failure
from jobs.queue import transitions
from jobs.states import ErrorKind
from tests.command_line import Ended
from tests.console.conftest import Typed
from tests.factories import change, failure, image, lanes_of, look, make_batch, take

ROWS: list[dict[str, Any]] = [
    {"prompt": "two", "id": "r0", "num_images": 2, "z": {"b": 1, "a": [2]}},
    {"prompt": "fails", "id": "r1", "label": "=1+1"},
    {"prompt": "blocked", "id": "r2"},
    {"prompt": "", "id": "r3"},
    {"prompt": "retracted", "id": "r4"},
    {"prompt": "cancelled", "id": "r5"},
    {"prompt": "one of two", "id": "r6", "num_images": 2},
]
EXPECTED = ["image", "failed", "blocked", "rejected", "retracted", "cancelled", "failed"]


@pytest.fixture
def foxes(engine: Engine) -> str:
    """A batch with every outcome."""
    batch = make_batch(engine, ROWS, name="foxes", max_attempts=1)
    (lane,) = lanes_of(engine, batch)
    jobs = {(job.ordinal, job.index): job for job in take(engine, lane)}
    transitions.complete(engine, [image(jobs[place]) for place in [(0, 0), (0, 1), (4, 0), (6, 1)]])
    failures = [failure(jobs[1, 0], ErrorKind.BAD_INPUT, "no such file"), failure(jobs[6, 0])]
    transitions.fail(engine, failures, delay_s=0)
    blocked = jobs[2, 0]
    transitions.block(
        engine, [Failure(blocked.id, blocked.lease, ErrorKind.SAFETY, "concept 3", {"concepts": [0.5]})]
    )
    actions.cancel(engine, batch.id)
    (row,) = look(engine, "SELECT id, key FROM images WHERE ordinal = 4")
    rows = [(row["id"], row["key"])]
    transitions.retract(engine, batch.id, rows, "bad label", is_archived=False, keeps_file=True)
    return batch.name


def lines(ended: Ended) -> list[dict[str, Any]]:
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


@pytest.mark.parametrize("is_archived", [False, True])
def test_each_row_has_one_outcome(
    engine: Engine, typed: Typed, foxes: str, tmp_path: Path, is_archived: bool
) -> None:
    if is_archived:
        assert drop_jobs_and_delete_batches.archive(engine, actions.status(engine, foxes)) == 8
        assert look(engine, "SELECT FROM jobs") == []
    rows = lines(typed("reconcile", foxes, "--format", "jsonl"))
    assert [row["outcome"] for row in rows] == EXPECTED
    assert [row["row_id"] for row in rows] == ["r0", "r1", "r2", None, "r4", "r5", "r6"]
    assert [len(row["images"]) for row in rows] == [2, 0, 0, 0, 0, 0, 1]
    made = look(engine, "SELECT id, key, sha256, index FROM images WHERE ordinal = 0 ORDER BY index")
    assert rows[0]["images"] == [
        {"index": row["index"], "image_id": row["id"], "key": row["key"], "sha256": row["sha256"]}
        for row in made
    ]
    assert (rows[0]["meta"], rows[1]["meta"]) == ({"z": {"b": 1, "a": [2]}}, {"label": "=1+1"})
    assert (rows[1]["error_kind"], rows[1]["error_text"], rows[1]["attempts"]) == (
        "bad-input",
        "no such file",
        1,
    )
    assert (rows[2]["error_text"], rows[2]["scores"]) == ("concept 3", {"concepts": [0.5]})
    assert (rows[3]["line"], rows[3]["column"], rows[3]["jobs"]) == (4, "prompt", 0)
    assert rows[3]["reason"]
    assert '"r3"' in rows[3]["excerpt"]
    assert rows[4]["reason"] == "bad label"
    assert (rows[6]["jobs"], rows[6]["images"][0]["index"], rows[6]["error_kind"]) == (2, 1, "model")
    summary = typed("reconcile", foxes, "--json").json
    assert summary["outcomes"] == {
        "running": 0,
        "queued": 0,
        "failed": 2,
        "blocked": 1,
        "cancelled": 1,
        "retracted": 1,
        "replaced": 0,
        "image": 1,
        "rejected": 1,
    }
    assert (summary["rows"], summary["jobs"], summary["images"], summary["problems"]) == (7, 8, 3, [])
    assert (summary["lines"]["read"], summary["lines"]["rows"], summary["lines"]["rejected"]) == (7, 6, 1)


def test_csv_and_parquet(typed: Typed, foxes: str, tmp_path: Path) -> None:
    expected = lines(typed("reconcile", foxes, "--format", "jsonl"))
    printed = typed("reconcile", foxes, "--format", "csv")
    table = list(csv.DictReader(io.StringIO(printed.out)))
    assert [row["outcome"] for row in table] == EXPECTED
    assert json.loads(table[0]["meta"]) == expected[0]["meta"]
    assert json.loads(table[0]["images"]) == expected[0]["images"]
    assert typed("reconcile", foxes, "--format", "parquet", "--out", str(tmp_path / "r.parquet")).code == 0
    rows = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert [(row["ordinal"], row["outcome"]) for row in rows] == list(enumerate(EXPECTED))
    assert [row["images"] for row in rows] == [row["images"] for row in expected]
    assert typed("reconcile", foxes, "--format", "parquet").code == 2
    assert typed("reconcile", foxes, "--out", "x").code == 2


def test_what_a_spreadsheet_would_run_is_made_harmless(engine: Engine, typed: Typed) -> None:
    batch = make_batch(engine, [{"prompt": "a", "id": "=cmd()"}], max_attempts=1)
    for job in take(engine, lanes_of(engine, batch)[0]):
        transitions.fail(engine, [failure(job, text="+1")], delay_s=0)
    (row,) = csv.DictReader(io.StringIO(typed("reconcile", batch.name, "--format", "csv").out))
    assert (row["row_id"], row["error_text"]) == ("'=cmd()", "'+1")


@pytest.mark.parametrize("is_archived", [False, True])
def test_a_job_that_was_made_up_for_is_replaced(engine: Engine, is_archived: bool) -> None:
    batch = make_batch(engine, 2, target=2, max_attempts=1)
    first, second = take(engine, lanes_of(engine, batch)[0])
    transitions.complete(engine, [image(first)])
    transitions.block(engine, [failure(second, ErrorKind.SAFETY)])
    assert accepted_image_quotas.make_up(engine, batch.id) == 1
    (made,) = take(engine, lanes_of(engine, batch)[0])
    status = actions.status(engine, batch.name)
    assert [row.outcome for row in outcomes(engine, status)] == ["image", "running"]
    transitions.complete(engine, [image(made)])
    if is_archived:
        drop_jobs_and_delete_batches.archive(engine, status)
    _, replaced = outcomes(engine, status)
    assert (replaced.outcome, replaced.replaced, replaced.jobs) == ("image", 1, 2)
    assert sums(engine, batch.id).problems == []


def test_a_batch_in_progress_says_what_is_left(engine: Engine, typed: Typed) -> None:
    batch = make_batch(engine, 5, name="owls")
    take(engine, lanes_of(engine, batch)[0], 2)
    shown = typed("reconcile", "owls")
    assert shown.code == 0
    assert "5 = 2 running, 3 queued" in " ".join(shown.out.split())
    assert "every row of the manifest is accounted for; 5 jobs not finished" in shown.err
    pages = [list(outcomes(engine, actions.status(engine, "owls"), size=size)) for size in (1, 2, 100)]
    assert pages[0] == pages[1] == pages[2]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("DELETE FROM jobs WHERE ordinal = 1", "1 of 7 rows have neither a job nor a reject"),
        ("DELETE FROM images WHERE ordinal = 0 AND index = 1", "4 jobs are done, 3 image rows are there"),
        ("DELETE FROM rejects", "1 rows were rejected, 0 rejects are there"),
        ("UPDATE batches SET jobs = 9", "9 jobs were made, 8 are accounted for"),
        ("UPDATE rejects SET ordinal = 0", "1 rows have both jobs and a reject"),
        (
            "UPDATE jobs SET ordinal = 99 WHERE ordinal = 6 AND index = 1",
            "1 rows are there that the manifest doesn't",
        ),
        (
            "UPDATE batches SET lines = jsonb_set(lines, '{read}', '8')",
            "8 lines were read, and 7 are accounted for",
        ),
        ("UPDATE batches SET lines = NULL, rows = 8", "1 of 8 rows have neither a job nor a reject"),
    ],
)
def test_sums_that_do_not_add_up_are_told(
    engine: Engine, typed: Typed, foxes: str, damage: str, problem: str
) -> None:
    change(engine, damage)
    problem = problem.replace("4 jobs are done, 3", "3 jobs are done, 2")
    ended = typed("reconcile", foxes, "--json")
    assert ended.code == 1
    assert problem in " ".join(ended.json["problems"])


def test_rows_that_a_later_manifest_has_dropped_leave_gaps(engine: Engine, typed: Typed) -> None:
    batch = make_batch(engine, 30, name="owls")
    change(engine, "DELETE FROM jobs WHERE ordinal % 7 <> 0")
    change(engine, "UPDATE batches SET rows = 5, jobs = 5, manifest_sha256 = 'of the later one'")
    found = outcomes(engine, actions.status(engine, batch.name), size=4)
    assert [row.ordinal for row in found] == [0, 7, 14, 21, 28]
    ended = typed("reconcile", "owls", "--json")
    assert (ended.code, ended.json["problems"], ended.json["lines"]) == (0, [], None)


def test_a_batch_that_an_earlier_version_has_archived_says_so(
    engine: Engine, typed: Typed, foxes: str
) -> None:
    drop_jobs_and_delete_batches.archive(engine, actions.status(engine, foxes))
    change(engine, "DELETE FROM archived_jobs")
    problems = " ".join(typed("reconcile", foxes, "--json").json["problems"])
    assert "an earlier version may have archived the batch" in problems


def test_a_deleted_batch_leaves_nothing_of_what_was_archived(engine: Engine, foxes: str) -> None:
    drop_jobs_and_delete_batches.archive(engine, actions.status(engine, foxes))
    assert look(engine, "SELECT count(*) AS n FROM archived_jobs") == [{"n": 5}]
    drop_jobs_and_delete_batches.delete(engine, actions.status(engine, foxes))
    assert look(engine, "SELECT FROM archived_jobs") == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_takes_its_name_when_all_rows_are_in_it(tmp_path: Path, format: str) -> None:
    out = tmp_path / "rows"
    out.write_text("the former")

    def rows() -> Iterator[RowOutcome]:
        yield from ()
        raise ConnectionError("the database went away")

    with pytest.raises(ConnectionError):
        write_outcomes(format, rows(), out)
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
    assert out.read_text() == "the former"
