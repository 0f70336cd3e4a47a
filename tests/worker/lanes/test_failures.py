"""What a shift does when a part of it fails, or when it is told to stop."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.batches import actions
from jobs.errors import UsageError
from jobs.process_lifecycle import Latch
from tests.factories import states
from tests.worker.desk import attempts_of, images_of, jobs_of, only_lane, render, submit
from tests.worker.faults import LosingStudio, NarrowStudio, PickyStudio, RingingStudio
from worker.lanes.session import Desk, work

FOX = {"prompt": "a red fox", "steps": 2, "seed": 7}


@pytest.mark.parametrize(("model", "kind"), [("gives-nan", "nan"), ("gives-black", "black")])
def test_broken_pictures_are_tried_again_then_failed(
    desk: Desk, tmp_path: Path, model: str, kind: str
) -> None:
    batch = render(desk, tmp_path, [FOX | {"model": model, "num_images": 2}], safety="flag")
    assert states(desk.engine) == {"failed": 2}
    assert {(job["error_kind"], job["attempt"]) for job in jobs_of(desk.engine, batch)} == {(kind, 2)}
    outcomes = [row["outcome"] for row in attempts_of(desk.engine, batch)]
    assert outcomes == ["retried"] * 2 + ["failed"] * 2
    assert images_of(desk.engine, batch) == []
    assert not list(Path(desk.settings.output).rglob("*.png"))


def test_out_of_memory_halves_the_batch(desk: Desk, tmp_path: Path) -> None:
    studio = NarrowStudio(desk.studio, limit=1)
    batch = render(replace(desk, studio=studio), tmp_path, [FOX | {"num_images": 6}])
    assert studio.asked == [4, 2, 1], "all the others are drawn by one"
    assert [row["batch_rows"] for row in images_of(desk.engine, batch)] == [1] * 6
    assert {job["attempt"] for job in jobs_of(desk.engine, batch)} == {1}


def test_out_of_memory_for_a_single_image_fails_the_job(desk: Desk, tmp_path: Path) -> None:
    studio = NarrowStudio(desk.studio, limit=0)
    batch = render(replace(desk, studio=studio), tmp_path, [FOX], max_attempts="2")
    (job,) = jobs_of(desk.engine, batch)
    assert (job["state"], job["error_kind"], job["attempt"]) == ("failed", "oom", 2)


def test_a_shift_that_breaks_keeps_no_job(desk: Desk, tmp_path: Path) -> None:
    batch = submit(desk.settings, desk.engine, tmp_path, [FOX] * 3)
    before = threading.active_count()
    with pytest.raises(UsageError):
        work(replace(desk, studio=LosingStudio(desk.settings, 0)), only_lane(desk.engine, batch))
    assert states(desk.engine) == {"queued": 3}
    assert {job["attempt"] for job in jobs_of(desk.engine, batch)} == {0}
    assert threading.active_count() == before


def test_stopping_between_two_steps_gives_all_jobs_back(desk: Desk, tmp_path: Path) -> None:
    batch = submit(desk.settings, desk.engine, tmp_path, [FOX | {"steps": 50, "num_images": 9}])
    stopped = replace(desk, studio=RingingStudio(desk.studio, 3, desk.stopping.set))
    assert work(stopped, only_lane(desk.engine, batch)) == 9
    assert states(desk.engine) == {"queued": 9}
    assert {job["attempt"] for job in jobs_of(desk.engine, batch)} == {0}
    assert work(replace(desk, stopping=Latch()), only_lane(desk.engine, batch)) == 9
    assert states(desk.engine) == {"done": 9}


def test_a_cancelled_batch_is_dropped_between_two_steps(desk: Desk, tmp_path: Path) -> None:
    batch = submit(desk.settings, desk.engine, tmp_path, [FOX | {"steps": 900}])
    cancelling = RingingStudio(desk.studio, 3, lambda: actions.cancel(desk.engine, batch.id))
    work(replace(desk, studio=cancelling), only_lane(desk.engine, batch))
    assert states(desk.engine) == {"cancelled": 1}
    assert images_of(desk.engine, batch) == []
    assert not list(Path(desk.settings.output).rglob("*.png"))


def test_a_paused_batch_is_left_after_the_device_batch(desk: Desk, tmp_path: Path) -> None:
    batch = submit(desk.settings, desk.engine, tmp_path, [FOX | {"num_images": 9}])
    pausing = RingingStudio(desk.studio, 1, lambda: actions.pause(desk.engine, batch.id))
    work(replace(desk, studio=pausing), only_lane(desk.engine, batch))
    assert states(desk.engine) == {"done": 4, "queued": 5}
    actions.resume(desk.engine, batch.id)
    work(desk, only_lane(desk.engine, batch))
    assert states(desk.engine) == {"done": 9}
    assert {job["attempt"] for job in jobs_of(desk.engine, batch)} == {1}


def test_a_stop_during_delivery_waits_no_longer_than_it_may(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = threading.Event()
    monkeypatch.setattr("jobs.storage.folder.FolderStore.put", lambda *_, **__: opened.wait(30))
    hurried = replace(desk, settings=desk.settings.model_copy(update={"drain_s": 0.5}))
    batch = submit(desk.settings, desk.engine, tmp_path, [FOX | {"num_images": 2}])
    threading.Timer(2, desk.stopping.set).start()
    work(hurried, only_lane(desk.engine, batch))
    opened.set()
    assert desk.stopping.is_set()
    assert states(desk.engine) == {"queued": 2}
    assert {job["attempt"] for job in jobs_of(desk.engine, batch)} == {0}


def test_a_bad_job_takes_no_other_with_it_and_changes_no_other(desk: Desk, tmp_path: Path) -> None:
    rows = [FOX | {"prompt": prompt} for prompt in ("one", "two", "poison", "four", "five")]
    well = render(desk, tmp_path, rows)
    picky = replace(desk, studio=PickyStudio(desk.studio, "poison"))
    batch = render(picky, tmp_path, rows, max_attempts="2")
    jobs = jobs_of(desk.engine, batch)
    assert [job["state"] for job in jobs] == ["done", "done", "failed", "done", "done"]
    assert [job["attempt"] for job in jobs] == [1, 1, 2, 1, 1]
    assert (jobs[2]["error_kind"], jobs[2]["error_text"]) == (
        "exception",
        "RuntimeError: index out of range in self",
    )
    digests = {row["prompt"]: row["sha256"] for row in images_of(desk.engine, well)}
    assert {row["prompt"]: row["sha256"] for row in images_of(desk.engine, batch)} == {
        prompt: digest for prompt, digest in digests.items() if prompt != "poison"
    }


def test_those_that_come_after_a_bad_job_are_not_given_back(desk: Desk, tmp_path: Path) -> None:
    rows = [FOX | {"prompt": prompt} for prompt in ["poison", *map(str, range(9))]]
    batch = submit(desk.settings, desk.engine, tmp_path, rows, max_attempts="1")
    picky = replace(desk, studio=PickyStudio(desk.studio, "poison"))
    assert work(picky, only_lane(desk.engine, batch)) == len(rows)
    assert states(desk.engine) == {"done": 9, "failed": 1}
