"""A database is moved in the middle of a batch, as docs/operations.md tells it: batch and feed go on."""

import json
import subprocess
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Engine

from jobs.db.engine import connect
from jobs.settings import Settings
from tests.chaos.stub import stubbed
from tests.console.conftest import Typed
from tests.end_to_end.processes import check_exactly_once, foxes, manifest, running, until
from tests.factories import look
from tests.other_postgres import postgres_tools

JOBS = 24


def test_a_batch_goes_on_in_another_database(
    settings: Settings, engine: Engine, empty_database: str, tmp_path: Path, typed: Typed
) -> None:
    slow = settings.model_copy(update={"batch_size": 2, "claim": 4})
    assert typed("submit", manifest(tmp_path, foxes(JOBS))).code == 0
    with stubbed(tmp_path, step_s=0.1), running(slow, "scheduler", "worker"):
        until(lambda: len(look(engine, "SELECT FROM images")) >= 4)
    read = feed(typed)
    assert 4 <= len(read) < JOBS

    copy(settings.database, empty_database)
    there = slow.model_copy(update={"database_url": SecretStr(empty_database)})
    moved, other = Typed(there, tmp_path), connect(empty_database)
    with stubbed(tmp_path), running(there, "scheduler", "worker"):
        until(lambda: look(other, "SELECT FROM workers WHERE state = 'unhealthy'"))
        assert "nightmill adopt foxes" in moved("workers").err
        assert moved("adopt", "foxes", "--yes").code == 0
        until(lambda: look(other, "SELECT FROM jobs WHERE finished_at IS NULL") == [])
    check_exactly_once(other, "foxes", settings.output)
    rest = feed(moved, "--since", read[-1]["cursor"])
    assert {row["job_id"] for row in read}.isdisjoint(row["job_id"] for row in rest)
    assert len(read) + len(rest) == JOBS
    other.dispose()


def feed(typed: Typed, *options: str) -> list[dict[str, Any]]:
    """The image rows that `nightmill feed` gives."""
    ended = typed("feed", *options)
    assert ended.code == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


def copy(source: str, target: str) -> None:
    """By PostgreSQL's own tools."""
    tools = postgres_tools()
    dump = subprocess.run([tools / "pg_dump", plain(source)], check=True, capture_output=True).stdout
    subprocess.run(
        [tools / "psql", "-v", "ON_ERROR_STOP=1", "-q", plain(target)],
        input=dump,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def plain(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")
