"""A database of version 0006, in which batches were being rendered, is brought to this version and finishes.

Everything is real but the models: schedulers, workers, Redis, the command line.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import Engine

import migrations
from jobs.celery_config import celery_settings
from jobs.db.engine import connect
from jobs.feed.feed import read
from jobs.settings import Settings
from tests.chaos.invariant import check
from tests.chaos.mill import mill
from tests.console.conftest import Typed
from tests.end_to_end.processes import until
from tests.factories import look, states
from tests.version_0006 import BIRDS, DONE, FOXES, OLD, POLICY, fill

OLD_TASK = "nightmill.shift"


@pytest.fixture
def database(empty_database: str, tmp_path: Path) -> str:
    """A database of the former version in the middle of its work, with the manifest and the output beside it."""
    engine = connect(empty_database)
    fill(engine, tmp_path)
    engine.dispose()
    return empty_database


@pytest.fixture
def typed(settings: Settings, tmp_path: Path) -> Typed:
    """The command line on the test's own settings, in the test's own process."""
    return Typed(settings, tmp_path)


@pytest.fixture
def old_wakeup(settings: Settings) -> Iterator[None]:
    """A wake-up that a scheduler of the former version has left in Redis."""
    app = Celery("nightmill", set_as_current=False)
    app.conf.update(celery_settings(settings))
    app.send_task(OLD_TASK, (1,), queue=settings.queue, declare=[], retry=False, ignore_result=True)
    yield
    app.close()


def policy_columns(engine: Engine) -> list[dict[str, Any]]:
    """What the former version has in its table of batches, but for what changes while they are rendered."""
    rows = look(engine, "SELECT * FROM batches ORDER BY id")
    passing = {"jobs", "canary_verdict", "opens_at", "closes_at"}
    return [{key: value for key, value in row.items() if key not in passing} for row in rows]


def counts(typed: Typed, batch: str) -> dict[str, int]:
    found: dict[str, int] = typed("status", batch, "--json").json["counts"]
    return {state: count for state, count in found.items() if count}


@pytest.mark.usefixtures("old_wakeup")
def test_batches_of_an_older_version_finish(
    engine: Engine, settings: Settings, typed: Typed, tmp_path: Path
) -> None:
    before = policy_columns(engine)
    migrated = typed("migrate")
    assert (migrated.code, f"migrated from {OLD} to {migrations.head()}" in migrated.err) == (0, True)
    assert counts(typed, "night") == {"queued": 7, "running": 3, "done": 2, "failed": 2}
    with mill(settings, tmp_path / "first", workers=1, schedulers=0):
        until(lambda: look(engine, "SELECT FROM jobs WHERE state = 'queued' AND lane_id = 1") == [])
    with mill(settings, tmp_path / "mill", workers=1):
        until(lambda: states(engine) == {"done": 13 + 3, "failed": 2, "queued": 1})

    places = [(n, 0) for n in range(FOXES)] + [(2, 1)] + [(FOXES, n) for n in range(BIRDS)]
    facts = check(engine, "night", places=places)
    assert facts.states == {"done": 13, "failed": 2}
    assert facts.attempts == 13 + 4 + 3, (
        "one each, one more where one was spent before or its worker was stopped"
    )
    check(engine, "sketches", places=[(0, 0), (1, 0), (2, 0)])
    assert counts(typed, "night") == facts.states
    assert counts(typed, "evening") == {"queued": 1}

    images = list(read(engine))
    assert len({image["job_id"] for image in images}) == len(images) == 16
    assert {(image["ordinal"], image["index"]) for image in images[:2]} == set(DONE)
    assert {image["format"] for image in images if image["batch"] == "night"} == {"webp"}
    sketches = [image for image in images if image["batch"] == "sketches"]
    assert {image["versions"].get("deep_cache") for image in sketches} == {"2"}
    assert {image["watermark"] for image in sketches} == {None}
    exported = typed("export", "night", "--format", "jsonl", "--json").json
    assert exported["images"] == 13
    lines = [json.loads(line) for path in exported["files"] for line in Path(path).read_text().splitlines()]
    of_night = [image for image in images if image["batch"] == "night"]
    assert {line["sha256"] for line in lines} == {image["sha256"] for image in of_night}

    migrations.downgrade(engine, OLD)
    assert policy_columns(engine) == before


def test_schedules_are_kept(typed: Typed) -> None:
    typed("migrate")
    night, sketches, evening = (
        typed("status", name, "--json").json for name in ("night", "sketches", "evening")
    )
    assert (night["priority"], night["canary"]) == (3, "passed")
    assert (sketches["not_before"], sketches["deadline"]) == (
        "2026-01-01T20:00:00+00:00",
        "2100-01-01T07:00:00+00:00",
    )
    assert (evening["window"], evening["starts_at"] is not None) == ("20:00-07:00 UTC", True)


def test_the_same_submit_finds_the_batch_of_before(engine: Engine, typed: Typed, tmp_path: Path) -> None:
    typed("migrate")
    policy = {key: value for key, value in POLICY.items() if key != "batch_seed"}
    given = [f"--set={key}={str(value).lower()}" for key, value in policy.items()]
    manifest = str(tmp_path / "night.jsonl")
    again = typed("submit", manifest, "--name", "night", *given, "--canary", "1", "--json")
    assert (again.code, again.json["batch"], len(look(engine, "SELECT id FROM batches"))) == (0, 1, 3), (
        again.err
    )
    other = typed("submit", manifest, "--name", "night", *given[1:])
    assert (other.code, "belongs to a batch of another manifest or other settings" in other.err) == (2, True)
