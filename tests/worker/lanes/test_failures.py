"""What a lane session does when a part of it fails, or when it is told to stop."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.batches import actions
from jobs.errors import UsageError
from jobs.process_lifecycle import SignalSafeEvent
from tests.factories import states
from tests.worker.contexts import attempts_of, images_of, jobs_of, only_lane, render, submit
from tests.worker.faults import (
    LosingModelCache,
    NarrowModelCache,
    PickyModelCache,
    RingingModelCache,
    UnopenedModelCache,
)
from worker.lanes.lane_session import work
from worker.lanes.worker_context import WorkerContext

FOX = {"prompt": "a red fox", "steps": 2, "seed": 7}


@pytest.mark.parametrize(("model", "kind"), [("gives-nan", "nan"), ("gives-black", "black")])
def test_broken_pictures_are_tried_again_then_failed(
    context: WorkerContext, tmp_path: Path, model: str, kind: str
) -> None:
    batch = render(context, tmp_path, [FOX | {"model": model, "num_images": 2}], safety="flag")
    assert states(context.engine) == {"failed": 2}
    assert {(job["error_kind"], job["attempt"]) for job in jobs_of(context.engine, batch)} == {(kind, 2)}
    outcomes = [row["outcome"] for row in attempts_of(context.engine, batch)]
    assert outcomes == ["retried"] * 2 + ["failed"] * 2
    assert images_of(context.engine, batch) == []
    assert not list(Path(context.settings.output).rglob("*.png"))


def test_out_of_memory_halves_the_batch(context: WorkerContext, tmp_path: Path) -> None:
    model_cache = NarrowModelCache(context.model_cache, limit=1)
    batch = render(replace(context, model_cache=model_cache), tmp_path, [FOX | {"num_images": 6}])
    assert model_cache.asked == [4, 2, 1], "all the others are drawn by one"
    assert [row["batch_rows"] for row in images_of(context.engine, batch)] == [1] * 6
    assert {job["attempt"] for job in jobs_of(context.engine, batch)} == {1}


def test_out_of_memory_for_a_single_image_fails_the_job(context: WorkerContext, tmp_path: Path) -> None:
    model_cache = NarrowModelCache(context.model_cache, limit=0)
    batch = render(replace(context, model_cache=model_cache), tmp_path, [FOX], max_attempts="2")
    (job,) = jobs_of(context.engine, batch)
    assert (job["state"], job["error_kind"], job["attempt"]) == ("failed", "oom", 2)


def test_a_session_that_breaks_keeps_no_job(context: WorkerContext, tmp_path: Path) -> None:
    batch = submit(context.settings, context.engine, tmp_path, [FOX] * 3)
    before = threading.active_count()
    with pytest.raises(UsageError):
        work(
            replace(context, model_cache=LosingModelCache(context.settings, 0)),
            only_lane(context.engine, batch),
        )
    assert states(context.engine) == {"queued": 3}
    assert {job["attempt"] for job in jobs_of(context.engine, batch)} == {0}
    assert threading.active_count() == before


def test_stopping_between_two_steps_gives_all_jobs_back(context: WorkerContext, tmp_path: Path) -> None:
    batch = submit(context.settings, context.engine, tmp_path, [FOX | {"steps": 50, "num_images": 9}])
    stopped = replace(context, model_cache=RingingModelCache(context.model_cache, 3, context.stopping.set))
    assert work(stopped, only_lane(context.engine, batch)) == 9
    assert states(context.engine) == {"queued": 9}
    assert {job["attempt"] for job in jobs_of(context.engine, batch)} == {0}
    assert work(replace(context, stopping=SignalSafeEvent()), only_lane(context.engine, batch)) == 9
    assert states(context.engine) == {"done": 9}


def test_a_cancelled_batch_is_dropped_between_two_steps(context: WorkerContext, tmp_path: Path) -> None:
    batch = submit(context.settings, context.engine, tmp_path, [FOX | {"steps": 900}])
    cancelling = RingingModelCache(context.model_cache, 3, lambda: actions.cancel(context.engine, batch.id))
    work(replace(context, model_cache=cancelling), only_lane(context.engine, batch))
    assert states(context.engine) == {"cancelled": 1}
    assert images_of(context.engine, batch) == []
    assert not list(Path(context.settings.output).rglob("*.png"))


def test_a_paused_batch_is_left_after_the_device_batch(context: WorkerContext, tmp_path: Path) -> None:
    batch = submit(context.settings, context.engine, tmp_path, [FOX | {"num_images": 9}])
    pausing = RingingModelCache(context.model_cache, 1, lambda: actions.pause(context.engine, batch.id))
    work(replace(context, model_cache=pausing), only_lane(context.engine, batch))
    assert states(context.engine) == {"done": 4, "queued": 5}
    actions.resume(context.engine, batch.id)
    work(context, only_lane(context.engine, batch))
    assert states(context.engine) == {"done": 9}
    assert {job["attempt"] for job in jobs_of(context.engine, batch)} == {1}


def test_a_stop_during_delivery_waits_no_longer_than_it_may(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = threading.Event()
    monkeypatch.setattr("jobs.storage.folder.FolderStore.put", lambda *_, **__: opened.wait(30))
    hurried = replace(context, settings=context.settings.model_copy(update={"shutdown_grace_s": 0.5}))
    batch = submit(context.settings, context.engine, tmp_path, [FOX | {"num_images": 2}])
    threading.Timer(2, context.stopping.set).start()
    work(hurried, only_lane(context.engine, batch))
    opened.set()
    assert context.stopping.is_set()
    assert states(context.engine) == {"queued": 2}
    assert {job["attempt"] for job in jobs_of(context.engine, batch)} == {0}


@pytest.mark.parametrize("renders", [True, False])
def test_an_engine_that_cannot_be_opened_fails_like_any_step(
    context: WorkerContext, tmp_path: Path, renders: bool
) -> None:
    model_cache = UnopenedModelCache(context.model_cache, renders=renders)
    worker = replace(context, model_cache=model_cache)
    batch = render(worker, tmp_path, [FOX | {"num_images": 3}], max_attempts="1")
    jobs = jobs_of(context.engine, batch)
    kinds = {(job["state"], job["attempt"], job["error_kind"]) for job in jobs}
    assert kinds == {("done", 1, None) if renders else ("failed", 1, "exception")}


def test_a_bad_job_takes_no_other_with_it_and_changes_no_other(
    context: WorkerContext, tmp_path: Path
) -> None:
    rows = [FOX | {"prompt": prompt} for prompt in ("one", "two", "poison", "four", "five")]
    well = render(context, tmp_path, rows)
    picky = replace(context, model_cache=PickyModelCache(context.model_cache, "poison"))
    batch = render(picky, tmp_path, rows, max_attempts="2")
    jobs = jobs_of(context.engine, batch)
    assert [job["state"] for job in jobs] == ["done", "done", "failed", "done", "done"]
    assert [job["attempt"] for job in jobs] == [1, 1, 2, 1, 1]
    assert (jobs[2]["error_kind"], jobs[2]["error_text"]) == (
        "exception",
        "RuntimeError: index out of range in self",
    )
    digests = {row["prompt"]: row["sha256"] for row in images_of(context.engine, well)}
    assert {row["prompt"]: row["sha256"] for row in images_of(context.engine, batch)} == {
        prompt: digest for prompt, digest in digests.items() if prompt != "poison"
    }


def test_those_that_come_after_a_bad_job_are_not_given_back(context: WorkerContext, tmp_path: Path) -> None:
    rows = [FOX | {"prompt": prompt} for prompt in ["poison", *map(str, range(9))]]
    batch = submit(context.settings, context.engine, tmp_path, rows, max_attempts="1")
    picky = replace(context, model_cache=PickyModelCache(context.model_cache, "poison"))
    assert work(picky, only_lane(context.engine, batch)) == len(rows)
    assert states(context.engine) == {"done": 9, "failed": 1}
