"""Turns on real models: the lane that a worker picks, and what it leaves behind."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.job_dataclasses import LaneId
from jobs.queue import fair_share
from jobs.queue.fair_share import TimeSlice
from models.families.family import ModelFamily
from tests.factories import change, lanes_of, look, states
from tests.worker.contexts import submit
from worker.lanes import worker_loop as turn_module
from worker.lanes.worker_context import WorkerContext
from worker.lanes.worker_loop import follow
from worker.model_cache.cache import ModelCache
from worker.monitoring.device_usage import DeviceUsage

FOXES = [{"prompt": f"fox {number}", "steps": 2} for number in range(6)]


def test_a_time_slice_is_worked_charged_and_measured(context: WorkerContext, tmp_path: Path) -> None:
    batch = submit(context.settings, context.engine, tmp_path, FOXES)
    assert follow(context, LaneId(4711)) == 6, "the wake-up is old, the work is there"
    assert states(context.engine) == {"done": 6}
    (lane,) = look(context.engine, "SELECT * FROM lanes WHERE batch_id = :id", id=batch.id)
    assert 0 < lane["image_s"] < lane["batch_s"] + lane["image_s"] < 60
    (own,) = look(context.engine, "SELECT * FROM tenants")
    assert 0 < own["used_s"] < context.settings.time_slice_s
    assert follow(context, lane["id"]) == 0


def test_what_the_device_uses_while_the_worker_is_idle_is_charged_to_nobody(
    context: WorkerContext, tmp_path: Path
) -> None:
    counted = [0.0]
    own = replace(context, usage=DeviceUsage(lambda _: lambda: counted[0]))
    for _ in range(2):
        batch = submit(own.settings, own.engine, tmp_path, FOXES)
        (lane,) = lanes_of(own.engine, batch)
        assert follow(own, lane) == 6
        counted[0] += 1e6
    assert look(own.engine, "SELECT sum(joules) AS joules FROM lane_usage") == [{"joules": 0.0}]


def test_a_worker_stays_with_the_model_that_it_holds(context: WorkerContext, tmp_path: Path) -> None:
    sizes = [("tiny-random", 64), ("gives-black", 64), ("tiny-random", 96)]
    rows = [FOXES[0] | {"model": model, "tenant": model, "width": width} for model, width in sizes]
    batch = submit(context.settings, context.engine, tmp_path, rows, safety="flag", max_attempts="1")
    first, other, second = lanes_of(context.engine, batch)
    own = replace(
        context, model_cache=ModelCache(context.settings.model_copy(update={"model_cache_size": 1}), 0)
    )
    assert own.model_cache.models() == set()
    assert follow(own, first) == 1
    assert own.model_cache.models() == {"tiny-random"}
    assert follow(own, other) == 1
    assert not open_jobs(context.engine, second), (
        "the wake-up named the other lane, but its tenant could wait"
    )
    assert open_jobs(context.engine, other)
    assert follow(own, second) == 1
    assert own.model_cache.models() == {"gives-black"}
    assert states(context.engine) == {"done": 2, "queued": 1}, "the black one is to be tried again"


def open_jobs(engine: Engine, lane: LaneId) -> list[dict[str, object]]:
    return look(engine, "SELECT id FROM jobs WHERE lane_id = :lane AND state = 'queued'", lane=lane)


def test_nothing_starts_that_would_not_finish_before_the_window_closes(
    context: WorkerContext, tmp_path: Path
) -> None:
    batch = submit(context.settings, context.engine, tmp_path, FOXES, window="00:00-23:59 UTC")
    opened = "UPDATE batches SET opens_at = now() - interval '1 h', closes_at = now() + interval '1 min'"
    change(context.engine, opened)
    assert follow(context, LaneId(1)) == 0, "nobody knows how long it takes"
    change(context.engine, "UPDATE lanes SET batch_s = 30")
    assert follow(context, LaneId(1)) == 6
    assert actions.status(context.engine, batch.name).counts["done"] == 6


@pytest.fixture
def brief(context: WorkerContext) -> WorkerContext:
    """A context whose time slices are over at once, and which prefers no lane for its model."""
    return replace(
        context,
        settings=context.settings.model_copy(
            update={"time_slice_s": 1e-6, "model_affinity_s": 0.0, "claim": 2}
        ),
    )


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often an engine was begun, with so many rows."""
    engine, begun = ModelFamily.engine, list[int]()

    def counted(model: Any, *given: Any, rows: int, **named: Any) -> Any:
        begun.append(rows)
        return engine(model, *given, rows=rows, **named)

    monkeypatch.setattr(ModelFamily, "engine", counted)
    return begun


def test_a_lane_that_still_comes_first_goes_on_without_a_pause(
    brief: WorkerContext, engines: list[int], tmp_path: Path
) -> None:
    rows = [row | {"steps": 2 + number} for number, row in enumerate(FOXES)]
    batch = submit(brief.settings, brief.engine, tmp_path, rows)
    started = time.monotonic()
    assert follow(brief, LaneId(1)) == 6
    elapsed = time.monotonic() - started
    assert states(brief.engine) == {"done": 6}
    assert len(engines) == 1
    (lane,) = look(brief.engine, "SELECT * FROM lanes WHERE batch_id = :id", id=batch.id)
    assert 0 < lane["image_s"] < elapsed
    (tenant,) = look(brief.engine, "SELECT used_s FROM tenants WHERE name = ''")
    assert elapsed / 2 < tenant["used_s"] < elapsed


def test_others_have_their_turns_in_between(brief: WorkerContext, engines: list[int], tmp_path: Path) -> None:
    for tenant in ("ada", "bob"):
        submit(brief.settings, brief.engine, tmp_path, [row | {"tenant": tenant} for row in FOXES])
    first = look(brief.engine, "SELECT id FROM lanes WHERE tenant = 'ada'")
    assert follow(brief, first[0]["id"]) == 12
    assert states(brief.engine) == {"done": 12}
    assert len(engines) > 2
    stored = look(
        brief.engine,
        "SELECT tenant, max(created_at) AS last, min(created_at) AS first FROM images GROUP BY 1",
    )
    ada, bob = sorted(stored, key=lambda row: str(row["tenant"]))
    assert ada["first"] < bob["last"]
    assert bob["first"] < ada["last"]


def test_a_worker_takes_a_new_wakeup_now_and_then(
    brief: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Celery limits how long one task may take."""
    monkeypatch.setattr("worker.lanes.worker_loop.LONGEST_S", 0.0)
    submit(brief.settings, brief.engine, tmp_path, FOXES)
    assert follow(brief, LaneId(1)) == 2
    assert states(brief.engine) == {"done": 2, "queued": 4}


def test_a_stopped_worker_takes_up_nothing_and_is_charged_nothing(
    context: WorkerContext, tmp_path: Path
) -> None:
    submit(context.settings, context.engine, tmp_path, FOXES)
    context.stopping.set()
    assert follow(context, LaneId(1)) == 0
    assert states(context.engine) == {"queued": 6}
    (tenant,) = look(context.engine, "SELECT used_s FROM tenants WHERE name = ''")
    assert tenant["used_s"] < 1 < context.settings.time_slice_s


def test_a_time_slice_that_comes_with_a_stop_is_given_back(
    brief: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tenant in ("ada", "bob"):
        submit(brief.settings, brief.engine, tmp_path, [row | {"tenant": tenant} for row in FOXES])
    taken, ended = list[TimeSlice](), list[TimeSlice]()
    take, end = fair_share.pick_lane, fair_share.end_time_slice

    def pick_lane(*given: Any, **named: Any) -> TimeSlice | None:
        found = take(*given, **named)
        taken.extend([found] if found else [])
        if len({time_slice.tenant for time_slice in taken}) == 2:
            brief.stopping.set()
        return found

    def end_time_slice(engine: Engine, time_slice: TimeSlice, *given: Any) -> None:
        ended.append(time_slice)
        end(engine, time_slice, *given)

    monkeypatch.setattr(fair_share, "pick_lane", pick_lane)
    monkeypatch.setattr(fair_share, "end_time_slice", end_time_slice)
    follow(brief, LaneId(1))
    assert taken == ended
    assert {row["state"] for row in look(brief.engine, "SELECT state FROM jobs WHERE attempt > 0")} <= {
        "done"
    }
    assert "running" not in states(brief.engine)


class Failing:
    """A session that sees that another lane comes next, and then breaks."""

    def __init__(self, _: WorkerContext, __: LaneId, renew: Callable[[], bool]) -> None:
        self.renew = renew

    def work(self) -> int:
        assert not self.renew()
        raise RuntimeError("broken")

    def counted(self) -> tuple[int, float]:
        return 0, 0.0


def test_a_turn_that_nobody_works_any_more_is_given_back(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [FOXES[0] | {"tenant": name} for name in ("ada", "bob")]
    submit(context.settings, context.engine, tmp_path, rows)
    monkeypatch.setattr(turn_module, "LaneSession", Failing)
    with pytest.raises(RuntimeError, match="broken"):
        follow(context, LaneId(1))
    assert look(context.engine, "SELECT * FROM time_slices") == []
    assert all(row["used_s"] < 10 for row in look(context.engine, "SELECT used_s FROM tenants"))
