"""The consumers of `examples/etl` are killed twenty times around their commits: nothing is lost or doubled."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from sqlalchemy import Engine

from jobs.batches import actions, drop_jobs_and_delete_batches
from jobs.job_dataclasses import Job
from jobs.queue import transitions
from jobs.settings import Settings
from tests.factories import image, lanes_of, look, make_batch, take
from tests.paths import ROOT

KILLS = 20
ROWS = 60
PART = 3
"""Lines that a consumer reads at once."""

Rows = list[tuple[Any, ...]]


def in_duckdb(place: Path, url: str) -> Rows:
    return (
        duckdb.connect(str(place / "images.duckdb")).execute("SELECT image_id, sha256 FROM images").fetchall()
    )


def in_postgres(place: Path, url: str) -> Rows:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT image_id, sha256 FROM etl.images").fetchall()


def in_parquet(place: Path, url: str) -> Rows:
    """By the query that the program's docstring gives."""
    text = (ROOT / "examples" / "etl" / "parquet_consumer.py").read_text(encoding="utf-8")
    query = text[text.index("SELECT * FROM 'FOLDER") : text.index('"""\n\nimport')]
    query = query.replace("FOLDER", str(place / "parts")).replace("SELECT *", "SELECT image_id, sha256", 1)
    return duckdb.connect().execute(query).fetchall()


class Source:
    """What happens in nightmill meanwhile: images, retractions, a batch that is deleted."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.chance = engine, random.Random(3)
        self.batch = make_batch(engine, ROWS, name="foxes", output="s3://bucket/out")
        self.other = make_batch(engine, 6, name="gone", output="s3://bucket/out")
        self.jobs: list[Job] = take(engine, lanes_of(engine, self.batch)[0])
        self.others: list[Job] = take(engine, lanes_of(engine, self.other)[0])

    def go_on(self) -> None:
        """Complete some jobs, retract an image at times."""
        for _ in range(3):
            for jobs in (self.jobs, self.others):
                if jobs:
                    transitions.complete(self.engine, [image(jobs.pop())])
        if self.chance.random() < 0.4:
            (row,) = look(
                self.engine,
                "SELECT id, key FROM images WHERE batch_id = :id ORDER BY random() LIMIT 1",
                id=self.batch.id,
            )
            images = [(row["id"], row["key"])]
            transitions.retract(self.engine, self.batch.id, images, "bad", is_archived=False, keeps_file=True)

    def finish(self) -> Rows:
        """Complete the rest and delete a batch; returns what every consumer must have."""
        for jobs in (self.jobs, self.others):
            for job in jobs:
                transitions.complete(self.engine, [image(job)])
        drop_jobs_and_delete_batches.delete(self.engine, actions.status(self.engine, "gone"))
        rows = look(self.engine, "SELECT id, sha256 FROM images")
        assert len(rows) > ROWS // 2
        return sorted((row["id"], row["sha256"]) for row in rows)


def run(settings: Settings, program: str, moment: str, number: int, *arguments: str) -> int:
    environment = settings.environment() | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    command = [
        sys.executable,
        "-m",
        "tests.examples.killed_consumer",
        program,
        moment,
        str(number),
        *arguments,
    ]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert ended.returncode in (0, -signal.SIGKILL) or "Constraint Error" in ended.stderr, ended.stderr
    return ended.returncode


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("program", "copied"),
    [
        ("duckdb_consumer.py", in_duckdb),
        ("postgres_consumer.py", in_postgres),
        ("parquet_consumer.py", in_parquet),
    ],
)
def test_a_consumer_that_is_killed_around_its_commits(
    engine: Engine,
    settings: Settings,
    empty_database: str,
    tmp_path: Path,
    program: str,
    copied: Callable[[Path, str], Rows],
) -> None:
    source, kills, number = Source(engine), 0, 0
    where = {"d": str(tmp_path / "images.duckdb"), "p": empty_database}.get(program[0], "")
    if program == "parquet_consumer.py":
        where = str(tmp_path / "parts")
    while kills < KILLS:
        source.go_on()
        moment = ("before", "after")[number % 2]
        kills += run(settings, program, moment, source.chance.randint(1, 2), where, str(PART)) != 0
        number += 1
        assert number < 2 * KILLS, "it ends before it is killed"
    expected = source.finish()
    assert run(settings, program, "never", 0, where, "1000") == 0
    assert sorted(copied(tmp_path, empty_database)) == expected
    assert run(settings, program, "never", 0, where, "1000") == 0
    assert sorted(copied(tmp_path, empty_database)) == expected, "nothing comes twice"


def test_the_twin_that_keeps_the_cursor_apart_doubles_rows(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    source = Source(engine)
    source.go_on()
    text = (ROOT / "examples" / "etl" / "duckdb_consumer.py").read_text(encoding="utf-8")
    before = '    connection.execute("DELETE FROM feed")'
    assert before in text
    twin = tmp_path / "twin.py"
    twin.write_text(text.replace(before, f"    connection.commit()\n    connection.begin()\n{before}"))
    where = str(tmp_path / "images.duckdb")
    assert run(settings, str(twin), "after", 1, where, str(PART)) == -signal.SIGKILL
    assert run(settings, str(twin), "never", 0, where, str(PART)) == 1, "the same rows come again"
