"""What `up` does at requests: its workers become more or fewer, and are restarted one after the other."""

import json
import time
from collections.abc import Callable, Iterator

import pytest

from console.process_control import supervisor, up_requests
from console.process_control.resize_and_restart_up import RollingRestart, UpControl
from console.process_control.supervisor import Child, ProcessGroup
from jobs.settings import Settings

SLEEPER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("started", flush=True)
time.sleep(600)
"""
STUBBORN = SLEEPER.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")


class SleepingGroup(ProcessGroup):
    """A group whose processes do nothing."""

    def _child(self, number: int) -> Child:
        child = super()._child(number)
        child.role, child.environment = "sleeper", {"PYTHONPATH": str(self.settings.data_dir)}
        return child


@pytest.fixture
def members(settings: Settings) -> Iterator[ProcessGroup]:
    """A scheduler and two workers."""
    settings.data_dir.mkdir()
    (settings.data_dir / "sleeper.py").write_text(SLEEPER)
    group = SleepingGroup(settings, 2)
    try:
        group.start()
        until(group, lambda: all(starts(child) for child in group.children))
        yield group
    finally:
        group.stop()


def starts(child: Child) -> int:
    return child.log.read_text().count("started")


def until(group: ProcessGroup, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited for what never came"
        group.keep_alive()
        time.sleep(0.01)


def numbers(group: ProcessGroup) -> list[int]:
    return [child.number for child in group.children]


def test_workers_become_fewer_and_more(members: ProcessGroup, settings: Settings) -> None:
    control = UpControl(settings, members, lambda _: True)
    leaving = members.children[2].process
    fewer = up_requests.ask(settings, workers=0, restart=False)
    control.look()
    assert (members.is_changing(), control.report().answered) == (True, None)
    until(members, lambda: not members.is_changing())
    control.look()
    assert (control.report().answered, control.report().workers, numbers(members)) == (fewer.id, 0, [0])
    assert leaving is not None
    assert leaving.returncode == 0, "it ended by itself"
    up_requests.ask(settings, workers=3, restart=False)
    control.look()
    assert numbers(members) == [0, 1, 2, 3]
    assert [child.environment for child in members.children[1:]] == [members.children[1].environment] * 3


def test_a_worker_that_is_wanted_again_takes_the_number_of_one_that_leaves(members: ProcessGroup) -> None:
    members.resize(1)
    members.resize(2)
    until(members, lambda: not members.is_changing())
    assert numbers(members) == [0, 1, 2]
    assert all(child.process and child.process.poll() is None for child in members.children)


def test_a_port_that_is_lacking_is_a_refusal(members: ProcessGroup, settings: Settings) -> None:
    members.settings = settings.model_copy(update={"metrics_address": "127.0.0.1:65533"})
    control = UpControl(settings, members, lambda _: True)
    asked = up_requests.ask(settings, workers=4, restart=False)
    control.look()
    report = control.report()
    assert (report.answered, report.workers, numbers(members)) == (asked.id, 2, [0, 1, 2])
    assert "no port left for process 4" in (report.refusal or "")
    up_requests.ask(settings, workers=1, restart=False)
    control.look()
    assert control.report().refusal is None


def test_one_after_the_other_is_restarted_when_the_one_before_is_ready(members: ProcessGroup) -> None:
    ready: list[Child] = []
    restart = RollingRestart(members.children, lambda child: child in ready)
    for number, child in enumerate(members.children):
        assert not restart.is_done()
        until(members, lambda child=child: not child.is_stopping and starts(child) == 2)  # type: ignore[misc]
        assert not restart.is_done()
        assert [starts(one) for one in members.children] == [2] * (number + 1) + [1] * (2 - number)
        ready.append(child)
    assert restart.is_done()
    assert restart.failure is None


def test_a_process_that_can_t_start_anew_ends_the_restart(members: ProcessGroup, settings: Settings) -> None:
    """Also with the exit code of wrong settings: the others go on with those that they have."""
    control = UpControl(settings, members, lambda _: False)
    up_requests.ask(settings, workers=None, restart=True)
    (settings.data_dir / "sleeper.py").write_text("raise SystemExit(2)")
    until(members, lambda: control.look() or control.report().refusal is not None)
    assert "the other processes were not restarted" in (control.report().refusal or "")
    assert [starts(child) for child in members.children] == [1, 1, 1]
    assert all(child.process and child.process.poll() is None for child in members.children[1:])


def test_one_that_doesn_t_stop_is_killed_and_started_anew(members: ProcessGroup, settings: Settings) -> None:
    (settings.data_dir / "sleeper.py").write_text(STUBBORN)
    child = members.children[1]
    child.grace_s = 0.0
    for number in (2, 3):
        child.restart()
        until(members, lambda number=number: starts(child) == number)  # type: ignore[misc]
    assert (child.is_stopping, child.trouble) == (False, None)
    assert child.process is not None
    child.process.kill()


def test_files_that_are_no_requests_are_taken_away(settings: Settings) -> None:
    settings.data_dir.mkdir()
    for number, content in enumerate(("", "[]", json.dumps({"id": "x"}))):
        (settings.data_dir / f"up-request-{number}.json").write_text(content)
    first = up_requests.ask(settings, workers=1, restart=False)
    second = up_requests.ask(settings, workers=2, restart=True)
    assert [up_requests.take(settings) for _ in range(3)] == [first, second, None]
    up_requests.ask(settings, workers=1, restart=False)
    up_requests.forget(settings)
    assert list(settings.data_dir.iterdir()) == []


def test_the_memory_of_workers_is_measured(members: ProcessGroup) -> None:
    members.keep_alive()
    memory = members.memory.report()
    assert memory["parent"] > 1_000_000
    assert memory["child"] == 0, "they have none"
    assert supervisor.PeakMemory().report() == {"parent": 0, "child": 0}
