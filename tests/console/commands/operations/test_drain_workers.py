"""`workers drain` and `undrain`: what they take, refuse and wait for, and what `workers` and `run` then tell."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine

from console.commands.operations import drain_workers
from jobs.queue.worker_drains import drains
from jobs.queue.worker_registry import WorkerReport, report_worker
from jobs.states import WorkerActivity
from tests.console.conftest import Typed
from tests.factories import change, lanes_of, make_batch, take


@pytest.fixture(autouse=True)
def _workers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two idle workers on `gpu-1`, one on `gpu-2`; and who waits looks often."""
    monkeypatch.setattr(drain_workers, "POLL_S", 0.01)
    for name in ("gpu-1:12", "gpu-1:13", "gpu-2:7"):
        report_worker(engine, WorkerReport(name, "cuda:0", "default", WorkerActivity.IDLE))


def states(typed: Typed) -> dict[str | None, str]:
    return {worker["worker"]: worker["state"] for worker in typed("workers", "--json").json}


def test_hosts_and_workers_are_drained_and_undrained(typed: Typed, engine: Engine) -> None:
    drained = typed("workers", "drain", "gpu-1", "gpu-2:7", "--reason", "new fans")
    assert drained.code == 0, drained.err
    assert "host gpu-1 is drained, with workers that start there" in drained.err
    assert "worker gpu-2:7 is drained, and so is one that takes its place" in drained.err
    assert set(states(typed).values()) == {"drained"}
    shown = typed("workers")
    assert "drained" in shown.out
    assert all(part in shown.err for part in ("host gpu-1 is drained since", "new fans"))
    (kept,) = [worker for worker in typed("workers", "--json").json if worker["worker"] == "gpu-2:7"]
    (drain,) = kept["drains"]
    assert (drain["kind"], drain["target"], drain["reason"]) == ("worker", "gpu-2:7", "new fans")
    assert "@" in drain["by"]
    assert "was drained before, by" in typed("workers", "drain", "gpu-1").err
    undrained = typed("workers", "undrain", "gpu-1", "gpu-2:7")
    assert (undrained.code, "host gpu-1 is drained no more" in undrained.err) == (0, True)
    assert set(states(typed).values()) == {"idle"}
    assert drains(engine) == []


def test_a_host_is_drained_before_it_has_a_worker(typed: Typed) -> None:
    assert typed("workers", "drain", "gpu-9", "--host").code == 0
    (row,) = [worker for worker in typed("workers", "--json").json if worker["host"] == "gpu-9"]
    assert (row["worker"], row["state"]) == (None, "drained")
    assert "gpu-9" in typed("workers").out
    checks = typed("doctor", "--json").json
    assert "none is unhealthy; drained: host gpu-9" in [check["finding"] for check in checks]


def test_a_worker_that_is_drained_by_itself_stays_so(typed: Typed) -> None:
    typed("workers", "drain", "gpu-1", "gpu-1:12")
    assert "worker gpu-1:12 stays drained by itself" in typed("workers", "undrain", "gpu-1").err
    assert states(typed) == {"gpu-1:12": "drained", "gpu-1:13": "idle", "gpu-2:7": "idle"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("drain", "gpu1"), "is called 'gpu1': did you mean 'gpu-1'?"),
        (("drain", "gpu-1:14"), "did you mean 'gpu-1:1"),
        (("drain", "gpu-1", "nowhere"), "`drain --host nowhere` drains a host before it has one"),
        (("undrain", "gpu-2"), "'gpu-2' isn't drained"),
        (("undrain", "gpu-1:12"), "its host is: `nightmill workers undrain gpu-1`"),
        (("drain", "gpu-2", "--timeout", "5s"), "--timeout is for --wait"),
        (("drain", "gpu-2", "--wait", "--timeout", "soon"), "--timeout soon: a length of time"),
        (("drain",), "Missing argument"),
    ],
)
def test_wrong_use_is_told_and_changes_nothing(
    typed: Typed, engine: Engine, arguments: tuple[str, ...], said: str
) -> None:
    if arguments == ("undrain", "gpu-1:12"):
        typed("workers", "drain", "gpu-1")
    before = drains(engine)
    ended = typed("workers", *arguments)
    assert ended.code == 2, ended.err
    assert said in " ".join(ended.err.split())
    assert drains(engine) == before


@contextmanager
def at_work(engine: Engine, worker: str) -> Iterator[threading.Event]:
    """Within the block the worker holds three jobs, until the event is set."""
    (lane,) = lanes_of(engine, make_batch(engine, 3))
    take(engine, lane, 3, worker=worker)
    report_worker(engine, WorkerReport(worker, "cuda:0", "default", WorkerActivity.BUSY, lane))
    finish = threading.Event()

    def work() -> None:
        finish.wait()
        change(engine, "UPDATE jobs SET lease_until = now() - interval '1 s' WHERE state = 'running'")
        report_worker(engine, WorkerReport(worker, "cuda:0", "default", WorkerActivity.IDLE))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield finish
    finally:
        finish.set()
        thread.join()


def test_waiting_ends_when_they_hold_nothing(
    typed: Typed, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at_work(engine, "gpu-1:12") as finish:
        monkeypatch.setattr(drain_workers.time, "sleep", lambda _: finish.set())
        waited = typed("workers", "drain", "gpu-1", "--wait")
    assert waited.code == 0, waited.err
    assert "1 worker still at work: gpu-1:12 3 jobs" in waited.err
    assert "they hold no jobs" in waited.err


def test_waiting_ends_with_124_when_it_takes_too_long(typed: Typed, engine: Engine) -> None:
    with at_work(engine, "gpu-1:12"):
        assert states(typed)["gpu-1:12"] == "busy"
        waited = typed("workers", "drain", "gpu-1", "--wait", "--timeout", "0")
        assert waited.code == 124, waited.err
        assert "not finished in time; they stay drained" in waited.err
        assert states(typed)["gpu-1:12"] == "draining"
        assert typed("workers", "drain", "gpu-2", "--wait", "--timeout", "0").code == 0


def test_old_workers_are_named(typed: Typed, engine: Engine) -> None:
    change(engine, "UPDATE workers SET version = NULL WHERE name = 'gpu-1:12'")
    said = "worker gpu-1:12 is of a version that doesn't look for drains"
    assert said in typed("workers", "drain", "gpu-1").err
    assert said in typed("workers").err
    assert states(typed) == {"gpu-1:12": "idle", "gpu-1:13": "drained", "gpu-2:7": "idle"}


def test_status_says_for_whom_a_batch_waits(typed: Typed, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "foxes.txt").write_text("a fox\n")
    assert typed("submit", "foxes.txt").code == 0
    typed("workers", "drain", "gpu-1", "gpu-2")
    why = "the workers of gpu-1, gpu-2 are drained; `nightmill workers undrain gpu-1 gpu-2`"
    assert typed("status", "foxes", "--json").json["waiting"] == why
    assert why in typed("status").err
