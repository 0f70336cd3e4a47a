"""Workers that end by themselves, and workers of a pool; real processes with models that draw nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Engine

from jobs.queue.worker_registry import workers
from jobs.settings import Settings
from tests.chaos.stub import stubbed
from tests.console.conftest import Typed
from tests.end_to_end.processes import descendants, foxes, manifest, running, truth, until
from tests.factories import change, look

WAIT_S = 40


@contextmanager
def worker(settings: Settings, **options: Any) -> Iterator[psutil.Popen]:
    """A worker with these settings, beside a scheduler."""
    with running(settings, "scheduler"), running(settings.model_copy(update=options), "worker") as (process,):
        yield process


def log_of(settings: Settings) -> str:
    return (settings.data_dir / "processes.log").read_text()


def test_a_worker_ends_when_it_has_been_idle(
    settings: Settings, engine: Engine, tmp_path: Path, typed: Typed
) -> None:
    assert typed("submit", manifest(tmp_path, foxes(6))).code == 0
    with stubbed(tmp_path, step_s=0.3), worker(settings, until_idle_s=2) as process:
        assert process.wait(WAIT_S) == 0
    assert truth(engine, "foxes").states() == {"done"}
    assert "the worker ends: there was no work for 2 s" in log_of(settings)
    assert workers(engine) == []


def test_a_worker_without_work_ends_too(settings: Settings, tmp_path: Path) -> None:
    with stubbed(tmp_path), worker(settings, until_idle_s=0.5) as process:
        assert process.wait(WAIT_S) == 0


def test_a_worker_has_ended_before_its_time_is_over(
    settings: Settings, engine: Engine, tmp_path: Path, typed: Typed
) -> None:
    """In the midst of work: what it was at is released, and charged to nobody."""
    assert typed("submit", manifest(tmp_path, foxes(400))).code == 0
    began = time.monotonic()
    limited = {"max_time_s": 22, "shutdown_grace_s": 2, "batch_size": 1}
    with stubbed(tmp_path, step_s=0.5), worker(settings, **limited) as process:
        assert process.wait(WAIT_S) == 0
        took = time.monotonic() - began
    assert "the worker ends: its time is over" in log_of(settings)
    assert took < 22
    found = truth(engine, "foxes")
    assert found.states() == {"done", "queued"}
    assert {job["attempt"] for job in found.jobs if job["state"] == "queued"} == {0}


def test_a_worker_works_once(settings: Settings, engine: Engine, tmp_path: Path, typed: Typed) -> None:
    for number in range(2):
        assert (
            typed("submit", manifest(tmp_path, foxes(4, steps=2 + number), f"foxes-{number}.jsonl")).code == 0
        )
    with stubbed(tmp_path, step_s=0.1), worker(settings, once=True) as process:
        assert process.wait(WAIT_S) == 0
    assert "the worker ends: it has worked once" in log_of(settings)
    states = look(engine, "SELECT state, count(*) AS n FROM jobs GROUP BY 1 ORDER BY 1")
    assert [(row["state"], row["n"]) for row in states] == [("done", 4), ("queued", 4)]


@pytest.mark.parametrize("options", [{"max_time_s": 25}, {"pool": "paint"}, {"pool_models": ("sd-v1-6",)}])
def test_a_worker_that_can_t_start_says_why(
    settings: Settings, tmp_path: Path, options: dict[str, Any]
) -> None:
    with stubbed(tmp_path), running(settings.model_copy(update=options), "worker") as (process,):
        assert process.wait(WAIT_S) == 2
    said = log_of(settings)
    assert "Traceback" not in said
    assert any(
        text in said for text in ("more than the 30 s that a worker may take", "no pool 'paint'", "sd-v1-6")
    )


def test_workers_of_pools_render_what_is_theirs(
    settings: Settings, engine: Engine, tmp_path: Path, typed: Typed
) -> None:
    """Each in its own pool, with a wake-up list of its own; what no pool serves waits."""
    rows = foxes(2) + foxes(2, model="shapes", width=64, height=64) + foxes(2, model="sd-v1-5")
    change(engine, "UPDATE pools SET models = '{tiny-random}' WHERE name = 'default'")
    assert typed("submit", manifest(tmp_path, rows)).code == 0
    shapes = settings.model_copy(update={"pool": "small", "pool_models": ("shapes",)})
    with stubbed(tmp_path, step_s=0.1), running(shapes, "worker"), worker(settings):
        until(lambda: [job["state"] for job in truth(engine, "foxes").jobs] == ["done"] * 4 + ["queued"] * 2)
        until(lambda: {one.activity for one in workers(engine)} == {"idle"})
        listed = typed("workers", "--json").json
        table = typed("workers").out
        needed = {pool["name"]: pool["wanted"] for pool in typed("pools", "--json").json}
    assert {(one["pool"], one["state"], *one["warm_models"]) for one in listed} == {
        ("default", "idle", "tiny-random"),
        ("small", "idle", "shapes"),
    }
    assert "small" in table
    assert needed == {"default": 1, "small": 1}, "they have been idle for less than five minutes"
    rendered_by = {job["lane_id"]: job["worker"] for job in truth(engine, "foxes").jobs}
    assert len(set(rendered_by.values())) == 3, "two workers, and none"


def test_a_worker_that_celery_gives_up_does_not_end_as_if_all_was_well(
    settings: Settings, tmp_path: Path
) -> None:
    """So that whoever restarts what fails starts it again."""
    with stubbed(tmp_path), worker(settings) as process:
        helpers = until(
            lambda: [c for c in descendants(process) if "semaphore_tracker" in " ".join(c.cmdline())]
        )
        children = until(lambda: [c for c in descendants(process) if "spawn_main" in " ".join(c.cmdline())])
        until(lambda: "ready" in log_of(settings))
        for victim in (*helpers, *children):
            victim.kill()
        assert process.wait(WAIT_S) == 1
