"""A child that hangs is killed by its parent, whether or not the hung call holds the interpreter; no other is."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.job_dataclasses import LaneId
from worker.liveness.progress_heartbeat import FOLDER, Beat, Heartbeat, Record
from worker.liveness.watchdog import Watchdog

HANG_S = 10

CHILD = """
import ctypes, sys, threading, time
from worker.liveness.progress_heartbeat import Heartbeat
heartbeat = Heartbeat.of_child(10)
with heartbeat.at_work():
    with heartbeat.device_batch("models", 1):
        heartbeat.beat()
    heartbeat.note_warm(1)
    with heartbeat.device_batch("models", 1):
        print("hanging", flush=True)
        {how}
"""
HOLDING = "ctypes.PyDLL(None).sleep(60)"
LETTING_GO = "time.sleep(60)"


@contextmanager
def child(folder: Path, how: str) -> Iterator[subprocess.Popen[str]]:
    """A process that hangs in its second device batch."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(how=how)],
        env=os.environ | {FOLDER: str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "hanging\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("how", [HOLDING, LETTING_GO])
def test_a_hung_child_is_killed(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    with child(tmp_path, how) as process:
        watchdog = Watchdog(tmp_path, lambda: [process.pid])
        assert [watchdog.look(1) for _ in range(HANG_S)] == [[]] * HANG_S
        assert watchdog.look(1) == [process.pid]
        assert process.wait(150) == -signal.SIGKILL
    assert f"process {process.pid} made no step for 11 s: killed" in caplog.text


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """The sign that a process shows which may be killed."""
    return Record(tmp_path / str(bystander_pid()), new=True)


def bystander_pid() -> int:
    """A process id that nobody has, so that a kill by mistake hits nobody."""
    return 2**22 + 1


def looks(folder: Path, elapsed_s: float, count: int) -> list[int]:
    watchdog = Watchdog(folder, lambda: [bystander_pid()])
    return [pid for _ in range(count) for pid in watchdog.look(elapsed_s)]


def test_one_that_makes_steps_is_left_alone(tmp_path: Path, record: Record) -> None:
    watchdog = Watchdog(tmp_path, lambda: [bystander_pid()])
    record.beat(HANG_S)
    for _ in range(20):
        assert watchdog.look(HANG_S - 1) == []
        record.beat()
    assert [watchdog.look(HANG_S - 1) for _ in range(3)] == [[], [], [bystander_pid()]]


def test_one_that_is_idle_is_left_alone(tmp_path: Path, record: Record) -> None:
    with Heartbeat(HANG_S, record).at_work():
        assert looks(tmp_path, HANG_S, 5) == []
        assert looks(tmp_path, HANG_S, 20)
    assert looks(tmp_path, 1e6, 5) == []


def test_one_that_has_not_begun_or_has_ended_is_left_alone(tmp_path: Path) -> None:
    assert looks(tmp_path, 1e6, 3) == []
    (tmp_path / str(bystander_pid())).touch()
    assert looks(tmp_path, 1e6, 3) == []


def test_a_new_child_with_an_old_number_is_not_judged_by_the_old_ones_silence(tmp_path: Path) -> None:
    path = tmp_path / str(bystander_pid())
    Record(path, new=True).beat(HANG_S)
    children = [bystander_pid()]
    watchdog = Watchdog(tmp_path, lambda: children)
    watchdog.look(HANG_S)
    children.clear()
    watchdog.look(1)
    Record(path, new=True).beat(HANG_S)
    children.append(bystander_pid())
    assert watchdog.look(HANG_S) == []


def seen(heartbeat: Heartbeat, record: Record, lane_models: object, lane: int) -> Beat:
    """What a child shows while it is in a device batch."""
    with heartbeat.at_work():
        with heartbeat.device_batch(lane_models, LaneId(lane)):
            heartbeat.beat()
            beat = record.read()
        assert record.read().patience_s == 6 * HANG_S, "deliveries may be waited for"
        heartbeat.note_warm(LaneId(lane))
    return beat


def test_a_lanes_first_device_batch_is_given_more_time(record: Record) -> None:
    heartbeat = Heartbeat(HANG_S, record)
    assert seen(heartbeat, record, "models", 1).patience_s == 6 * HANG_S
    assert seen(heartbeat, record, "models", 1).patience_s == HANG_S
    assert seen(heartbeat, record, "models", 2).patience_s == 6 * HANG_S
    assert seen(heartbeat, record, "models", 1).patience_s == HANG_S
    assert seen(heartbeat, record, "other models", 1).patience_s == 6 * HANG_S
    assert record.read().patience_s == 0
