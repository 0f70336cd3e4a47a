"""`nightmill feed` with its formats and choices, and consumers whose cursor nightmill keeps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine

from jobs.feed import feed
from jobs.queue import transitions
from tests.console.conftest import Typed
from tests.factories import failure, image, lanes_of, make_batch, take
from tests.jobs.feed.test_feed import settled

ROWS = [
    {"prompt": f"füchse {i}\u2028🦊", "id": f"r{i}", "label": "fox" if i % 2 else "owl"} for i in range(9)
]


@pytest.fixture
def foxes(engine: Engine) -> list[dict]:
    """A batch with eight images and a failed job; returns the image records in the feed's order."""
    batch = make_batch(engine, ROWS, name="foxes", max_attempts=1)
    (lane,) = lanes_of(engine, batch)
    for job in take(engine, lane):
        if job.ordinal == 4:
            transitions.fail(engine, [failure(job)], delay_s=0)
        else:
            transitions.complete(engine, [image(job)])
    return settled(engine, 8)


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def read(typed: Typed, *options: str) -> list[dict]:
    """What `nightmill feed` prints, which must go well."""
    ended = typed("feed", *options)
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.removesuffix("\n").split("\n") if line]


def test_kinds_conditions_and_limits(typed: Typed, foxes: list[dict]) -> None:
    assert read(typed) == foxes
    everything = read(typed, "--events", "all")
    assert [line["event"] for line in everything] == ["image"] * 4 + ["failed"] + ["image"] * 4
    assert [
        {k: v for k, v in line.items() if k not in ("event", "batch_id")}
        for line in everything
        if "key" in line
    ] == foxes
    assert [line["row_id"] for line in read(typed, "--events", "failed,blocked")] == ["r4"]
    chosen = read(typed, "--where", "meta.label = 'owl' and ordinal > 1", "--limit", "2")
    assert [line["row_id"] for line in chosen] == ["r2", "r6"]


def test_arrow_and_parquet_have_the_same_rows(typed: Typed, foxes: list[dict], tmp_path: Path) -> None:
    stream, file = tmp_path / "feed.arrow", tmp_path / "feed.parquet"
    file.write_text("what was there before")
    for options in (
        ("--format", "arrow", "--out", str(stream)),
        ("--format", "parquet", "--out", str(file), "--where", "ordinal >= 0"),
    ):
        ended = typed("feed", *options)
        assert (ended.code, ended.out) == (0, ""), ended.err
    command = [sys.executable, "-m", "console.cli", "feed", "--format", "arrow", "--events", "all"]
    piped = subprocess.run(
        command, env=typed.settings.environment(), capture_output=True, check=True, timeout=50
    ).stdout
    for table in (pa.ipc.open_stream(stream.read_bytes()).read_all(), pq.read_table(file)):
        rows = table.to_pylist()
        assert [row["cursor"] for row in rows] == [record["cursor"] for record in foxes]
        assert [row["seed"] for row in rows] == [record["seed"] for record in foxes]
        assert [json.loads(row["meta"]) for row in rows] == [record["meta"] for record in foxes]
        assert [row["prompt"] for row in rows] == [record["prompt"] for record in foxes]
        assert [row["created_at"].isoformat() for row in rows] == [record["created_at"] for record in foxes]
    with_events = pa.ipc.open_stream(piped).read_all().to_pylist()
    assert [row["event"] for row in with_events] == ["image"] * 4 + ["failed"] + ["image"] * 4
    assert json.loads(with_events[4]["detail"])["error_kind"] == "model"
    assert (with_events[4]["key"], with_events[4]["row_id"], with_events[4]["batch"]) == (None, "r4", "foxes")
    assert sorted(path.name for path in tmp_path.glob("*feed*")) == ["feed.arrow", "feed.parquet"]


def test_an_empty_feed_is_a_file_with_columns(typed: Typed, tmp_path: Path) -> None:
    for format_, read_file in (
        ("arrow", lambda path: pa.ipc.open_stream(path.read_bytes()).read_all()),
        ("parquet", pq.read_table),
    ):
        out = tmp_path / f"empty.{format_}"
        assert typed("feed", "--format", format_, "--out", str(out)).code == 0
        table = read_file(out)
        assert (table.num_rows, table.column_names[:2]) == (0, ["cursor", "image_id"])


def test_a_consumer_goes_on_and_is_listed(typed: Typed, foxes: list[dict], tmp_path: Path) -> None:
    assert read(typed, "--consumer", "etl", "--limit", "3") == foxes[:3]
    (told,) = typed("consumers", "--json").json["consumers"]
    assert (told["name"], told["rows"], told["cursor"]) == ("etl", 5, foxes[2]["cursor"])
    out = tmp_path / "rest.jsonl"
    assert read(typed, "--consumer", "etl", "--out", str(out), "--limit", "2") == []
    assert lines(out.read_text(encoding="utf-8").replace("\u2028", " "))[0]["cursor"] == foxes[3]["cursor"]
    assert read(typed, "--consumer", "etl") == foxes[5:]
    assert read(typed, "--consumer", "etl") == []
    shown = typed("consumers").out
    assert shown.splitlines()[1].split()[:2] == ["etl", "0"]
    reset = typed("consumers", "--reset", "etl", foxes[6]["cursor"], "--json")
    assert reset.json["consumers"][0]["rows"] == 1
    assert typed("consumers", "--remove", "etl", "--json").json["consumers"] == []


def test_what_no_reader_took_is_not_acknowledged(typed: Typed, foxes: list[dict]) -> None:
    """The reader closes the pipe without having read anything, or after the first line."""
    program = f"{sys.executable} -m console.cli feed --consumer etl"
    for reader in ("true", "head -c 100"):
        ended = subprocess.run(
            ["bash", "-c", f"{program} | {{ sleep 0; {reader}; }}"],
            env=typed.settings.environment(),
            capture_output=True,
            check=False,
            timeout=150,
        )
        assert b"Traceback" not in ended.stderr
        assert typed("consumers", "--json").json["consumers"][0]["rows"] == 8, reader
    assert read(typed, "--consumer", "etl") == foxes


def test_two_at_once_are_refused(typed: Typed, foxes: list[dict]) -> None:
    """The first one waits for its reader, who takes nothing."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "console.cli", "feed", "--consumer", "etl"]
    with subprocess.Popen(command, env=typed.settings.environment(), stdout=writing) as first:
        os.close(writing)
        os.read(reading, 10)
        second = typed("feed", "--consumer", "etl")
        assert second.code == 2
        assert "another process is reading as the consumer etl" in second.err
        assert typed("consumers", "--json").json["consumers"][0]["reader_pid"] is not None
        while os.read(reading, 65536):
            pass
        os.close(reading)
        assert first.wait(150) == 0
    assert read(typed, "--consumer", "etl") == []


def test_following_gives_what_comes_later(typed: Typed, engine: Engine, foxes: list[dict]) -> None:
    process = typed.start("feed", "--follow", "--consumer", "etl", "--events", "all")
    try:
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline())["event"] for _ in range(9)].count("failed") == 1
        for job in take(engine, lanes_of(engine, make_batch(engine, 1))[0]):
            transitions.complete(engine, [image(job)])
        assert json.loads(process.stdout.readline())["batch"] == "batch-1"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--events", "images"), "--events images: must be one of image, blocked"),
        (("--format", "csv"), "--format csv: must be one of jsonl, arrow, parquet"),
        (("--format", "parquet"), "--format parquet needs --out FILE"),
        (("--format", "parquet", "--out", "x.parquet", "--follow"), "--follow never ends"),
        (("--out", "not/there/x.jsonl"), "must be a file in a folder that exists"),
        (("--where", "meta = 1"), "meta holds several values"),
        (("--where", "ordinal = 1", "--events", "failed"), "--where chooses among images"),
        (("--consumer", "no good"), "can't name a consumer"),
        (("--consumer", "etl", "--since", "0-999999999999-1"), "is ahead of this database"),
        (("--limit", "0"), "greater than or equal to 1"),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(typed: Typed, options: tuple[str, ...], message: str) -> None:
    ended = typed("feed", *options)
    assert ended.code == 2
    assert message in " ".join(ended.err.split())
    assert "Traceback" not in ended.err


def test_consumers_that_are_not_there(typed: Typed) -> None:
    for options in (("--remove", "etl"), ("--reset", "etl", feed.START)):
        ended = typed("consumers", *options)
        assert (ended.code, "there is no consumer 'etl'" in ended.err) == (2, True)
    # Not what holds the feed back: that may be a transaction of another test, in a database of its own.
    assert typed("consumers", "--json").json["consumers"] == []
