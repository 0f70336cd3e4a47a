"""What isn't a job's fault is never charged to it: the worker turns unhealthy, tries again by itself, and recovers."""

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.errors import ObjectStoreError, StoreUnavailableError
from jobs.outputs.mount_marker import open_output
from jobs.queue.worker_health_reports import unhealthy_workers, waiting
from jobs.storage.folder import FolderStore
from tests.factories import lanes_of, states
from tests.s3 import S3Server
from tests.worker.contexts import attempts_of, images_of, jobs_of, only_lane, render, submit
from tests.worker.faults import BrokenModelCache, RingingModelCache
from worker.health import lane_backoff, retry_while_service_is_unavailable
from worker.health.error_classification import HostFaultError, is_host_fault, reason_of
from worker.health.lane_backoff import Health, pause_s
from worker.lanes.lane_session import work
from worker.lanes.worker_context import WorkerContext
from worker.lanes.worker_loop import follow

FOX = {"prompt": "a red fox", "steps": 2, "seed": 7}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unhealthy workers try again soon."""
    monkeypatch.setattr(lane_backoff, "FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(retry_while_service_is_unavailable, "_PAUSES_S", (0.02,))
    monkeypatch.setattr("worker.lanes.worker_loop.UNABLE_S", 0.01)


def uncharged(engine: Engine) -> bool:
    """Whether no attempt of any job was charged but for those that gave an image."""
    return set(charges(engine)) <= {("queued", 0), ("done", 1)}


def charges(engine: Engine) -> list[tuple[str, int]]:
    """State and attempt of all jobs."""
    with engine.connect() as connection:
        return [
            tuple(row) for row in connection.exec_driver_sql("SELECT state, attempt FROM jobs ORDER BY id")
        ]  # type: ignore[misc]


def test_a_model_that_cannot_be_loaded_for_any_reason_costs_no_attempt(
    context: WorkerContext, tmp_path: Path
) -> None:
    model_cache = BrokenModelCache(context.model_cache)
    broken = replace(context, model_cache=model_cache)
    batch = render(broken, tmp_path, [FOX] * 3, max_attempts="1")
    assert charges(context.engine) == [("queued", 0)] * 3
    (worker,) = unhealthy_workers(context.engine)
    assert worker.reason.startswith("can't load the model 'tiny-random': RuntimeError: ")
    assert "illegal memory access" in worker.reason
    assert waiting(context.engine).reason(batch.id) == worker.reason
    model_cache.broken = False
    while not follow(broken, only_lane(context.engine, batch)):
        pass
    assert charges(context.engine) == [("done", 1)] * 3
    assert unhealthy_workers(context.engine) == []
    assert waiting(context.engine).reason(batch.id) is None


def test_other_lanes_go_on_being_served(context: WorkerContext, tmp_path: Path) -> None:
    class OneModelIsMissing(BrokenModelCache):
        def lane_models(self, lane: Any) -> Any:
            self.broken = lane.model == "unjudged"
            return super().lane_models(lane)

    model_cache = OneModelIsMissing(context.model_cache)
    worker = replace(context, model_cache=model_cache)
    rows = [FOX | {"model": "unjudged"}, FOX, FOX | {"model": "unjudged", "width": 128}]
    batch = submit(context.settings, context.engine, tmp_path, rows)
    first = min(lanes_of(context.engine, batch))
    while jobs_of(context.engine, batch)[1]["state"] != "done":
        follow(worker, first)
    assert charges(context.engine) == [("queued", 0), ("done", 1), ("queued", 0)]
    assert "can't load the model 'unjudged'" in unhealthy_workers(context.engine)[0].reason


def test_pauses_double_up_to_five_minutes_and_meanwhile_nothing_is_tried(
    context: WorkerContext, tmp_path: Path
) -> None:
    assert [round(pause_s(n) / pause_s(1), 6) for n in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert pause_s(1000) == lane_backoff.LONGEST_PAUSE_S
    model_cache = BrokenModelCache(context.model_cache)
    broken = replace(context, model_cache=model_cache)
    batch = submit(context.settings, context.engine, tmp_path, [FOX])
    lane = only_lane(context.engine, batch)
    ends = time.monotonic() + 1
    while time.monotonic() < ends:
        follow(broken, lane)
        work(broken, lane)
    assert 2 <= model_cache.tried <= 6, "0.05 + 0.1 + 0.2 + 0.4 s lie between the first five"


def test_a_fault_is_forgotten_when_nobody_needs_the_lane_any_more(
    context: WorkerContext, tmp_path: Path
) -> None:
    broken = replace(context, model_cache=BrokenModelCache(context.model_cache))
    batch = render(broken, tmp_path, [FOX])
    time.sleep(2 * lane_backoff.FIRST_PAUSE_S)
    broken.health.refresh()
    assert unhealthy_workers(context.engine)
    actions.cancel(context.engine, batch.id)
    broken.health.refresh()
    assert unhealthy_workers(context.engine) == []


def test_a_bucket_that_does_not_exist(context: WorkerContext, tmp_path: Path, s3: S3Server) -> None:
    reaching = context.settings.model_copy(
        update={"s3_endpoint_url": s3.endpoint_url, "s3_region": "us-east-1"}
    )
    worker = replace(context, settings=reaching)
    batch = render(
        worker, tmp_path, [FOX | {"num_images": 3}], output="s3://no-such-bucket/x", max_attempts="1"
    )
    assert charges(context.engine) == [("queued", 0)] * 3
    assert "no-such-bucket" in unhealthy_workers(context.engine)[0].reason
    assert attempts_of(context.engine, batch) == images_of(context.engine, batch) == []


def test_a_client_of_s3_is_kept_until_there_is_trouble(
    context: WorkerContext, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Mock(side_effect=open_output)
    monkeypatch.setattr("worker.lanes.lane_models_and_output.open_output", made)
    reaching = context.settings.model_copy(
        update={"s3_endpoint_url": s3.endpoint_url, "s3_region": "us-east-1"}
    )
    worker = replace(context, settings=reaching)
    output = f"{s3.uri}/{tmp_path.name}"
    for _ in range(2):
        render(worker, tmp_path, [FOX], output=output)
    assert made.call_count == 1
    batch = submit(worker.settings, context.engine, tmp_path, [FOX], output=output)
    worker.health.failed(("output", output), "503")
    time.sleep(2 * lane_backoff.FIRST_PAUSE_S)
    work(worker, only_lane(context.engine, batch))
    assert made.call_count == 2
    assert charges(context.engine) == [("done", 1)] * 3


def test_an_output_that_cannot_be_opened(context: WorkerContext, tmp_path: Path) -> None:
    render(context, tmp_path, [FOX], output="ftp://somewhere/x", max_attempts="1")
    assert charges(context.engine) == [("queued", 0)]
    assert "ftp://somewhere/x" in unhealthy_workers(context.engine)[0].reason


def full(_: object, key: str, *__: object, **___: object) -> None:
    raise ObjectStoreError(f"can't write {key}: No space left on device") from OSError(errno.ENOSPC, "full")


def fill(monkeypatch: pytest.MonkeyPatch, after: int) -> Callable[[], None]:
    """Let the disk be full after so many objects, until what is returned is called."""
    real, real_new, stored = FolderStore.put, FolderStore.put_new, []

    def put(store: FolderStore, key: str, body: bytes, *, content_type: str) -> None:
        if len(stored) >= after and not emptied.is_set():
            full(store, key)
        stored.append(key)
        real(store, key, body, content_type=content_type)

    def put_new(store: FolderStore, key: str, body: bytes, *, content_type: str) -> bool:
        if len(stored) >= after and not emptied.is_set():
            full(store, key)
        return real_new(store, key, body, content_type=content_type)

    emptied = threading.Event()
    monkeypatch.setattr(FolderStore, "put", put)
    monkeypatch.setattr(FolderStore, "put_new", put_new)
    return emptied.set


def test_finished_images_wait_for_the_output_and_are_not_drawn_again(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, steps = fill(monkeypatch, after=4), list[int]()
    worker = replace(context, model_cache=RingingModelCache(context.model_cache, -1, lambda: None, steps))
    batch = submit(context.settings, context.engine, tmp_path, [FOX | {"seed": n} for n in range(60)])
    session = threading.Thread(target=work, args=(worker, only_lane(context.engine, batch)))
    session.start()
    while not unhealthy_workers(context.engine):
        time.sleep(0.01)
    before = -1
    while before != len(steps):  # until the buffer is full
        before = len(steps)
        time.sleep(0.5)
    assert before < 60 * 2 / 4, "not all was drawn"
    assert states(context.engine).get("done", 0) <= 4, "threads may have stored images of several bundles"
    assert "No space left on device" in unhealthy_workers(context.engine)[0].reason
    empty()
    session.join(150)
    assert charges(context.engine) == [("done", 1)] * 60
    assert len(steps) == 60 * 2 / 4, "nothing was drawn twice"
    assert unhealthy_workers(context.engine) == []


def test_an_output_that_stays_away_is_given_up_and_left_to_a_probe(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_while_service_is_unavailable, "PATIENCE_S", 0.2)
    empty, steps = fill(monkeypatch, after=1), list[int]()
    worker = replace(context, model_cache=RingingModelCache(context.model_cache, -1, lambda: None, steps))
    batch = submit(context.settings, context.engine, tmp_path, [FOX | {"seed": n} for n in range(12)])
    lane = only_lane(context.engine, batch)
    work(worker, lane)
    assert set(charges(context.engine)) <= {("queued", 0), ("done", 1)}
    drawn = len(steps)
    for _ in range(3):
        time.sleep(lane_backoff.FIRST_PAUSE_S)
        work(worker, lane)
    assert len(steps) == drawn, "nothing is drawn for an output that is away"
    empty()
    while states(context.engine) != {"done": 12}:
        follow(worker, lane)
    assert uncharged(context.engine)


def test_a_stop_gives_back_what_waits_for_the_output(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(monkeypatch, after=1)
    batch = submit(context.settings, context.engine, tmp_path, [FOX | {"seed": n} for n in range(40)])
    session = threading.Thread(target=work, args=(context, only_lane(context.engine, batch)))
    session.start()
    while not unhealthy_workers(context.engine):
        time.sleep(0.01)
    context.stopping.set()
    session.join(context.settings.shutdown_grace_s / 2)
    assert not session.is_alive()
    assert states(context.engine) == {"done": 1, "queued": 39}
    assert uncharged(context.engine)


def test_pictures_that_cannot_be_fetched_at_present_are_no_fault_of_their_jobs(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bytes:
        raise StoreUnavailableError("can't read s3://inputs/fox.png: S3 does not answer")

    monkeypatch.setattr("worker.imaging.input_cache.read_bytes", away)
    picture = tmp_path / "fox.png"
    picture.write_bytes(Path("docs/pictures/demo.png").read_bytes())
    row = {"prompt": "fox", "init_image": str(picture), "strength": 0.5, "steps": 2, "seed": 7}
    render(context, tmp_path, [row] * 3)
    assert charges(context.engine) == [("queued", 0)] * 3
    assert "does not answer" in unhealthy_workers(context.engine)[0].reason


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StoreUnavailableError("away"), True),
        (HostFaultError("gone"), True),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), True),
        (ObjectStoreError("access denied"), False),
        (FileNotFoundError(errno.ENOENT, "no such file"), False),
        (RuntimeError("index out of range in self"), False),
    ],
)
def test_whose_fault_an_error_is(error: Exception, expected: bool) -> None:
    assert is_host_fault(error) is expected
    wrapped = ObjectStoreError("can't write")
    wrapped.__cause__ = error
    assert is_host_fault(wrapped) is expected


def test_reasons_are_one_line() -> None:
    assert reason_of(ObjectStoreError("full\nof things")) == "full"
    assert reason_of(RuntimeError("CUDA error\nline 2")) == "RuntimeError: CUDA error"
    assert reason_of(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_any_reason_can_be_told(engine: Engine) -> None:
    Health(engine, "w1", "cpu").failed("models", "a reason with \0 in it")
    assert [worker.reason for worker in unhealthy_workers(engine)] == ["a reason with ? in it"]
