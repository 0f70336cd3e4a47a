"""What services tell systemd, over its kind of socket."""

import os
import secrets
from pathlib import Path

import pytest

from jobs.monitoring.liveness_and_readiness import Liveness
from jobs.monitoring.systemd_notify import SystemdNotifier
from tests.infra.hosts.notify_socket import NotifySocket


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@nightmill-{secrets.token_hex(8)}"


def notifier(variables: dict[str, str], *, is_supervised: bool = False) -> SystemdNotifier:
    return SystemdNotifier.from_environment(is_supervised=is_supervised, environment=variables)


def test_a_service_is_ready_lives_and_stops(address: str) -> None:
    with NotifySocket(address) as listening:
        variables = listening.variables(watchdog_s=3600) | {"WATCHDOG_PID": str(os.getpid())}
        told, live = notifier(variables), Liveness(limit_s=3600)
        assert variables == {}, "processes that it starts don't speak for it"
        told.look(live, lambda: False)
        assert listening.next() == "WATCHDOG=1"
        told.look(live, lambda: True)
        assert (listening.next(), listening.next()) == ("READY=1", "WATCHDOG=1")
        told.look(live, lambda: True)
        assert listening.next() == "WATCHDOG=1", "and once is enough"
        told.stopping()
        assert listening.next() == "STOPPING=1"


def test_a_main_loop_that_stands_still_is_not_reported_as_alive(address: str) -> None:
    with NotifySocket(address) as listening:
        told, hung = notifier(listening.variables(watchdog_s=3600)), Liveness(limit_s=-1)
        told.look(hung, lambda: True)
        assert listening.next() == "READY=1"
        told.look(hung, lambda: True)
        assert not listening.has_message()
        hung.stop()
        told.look(hung, lambda: True)
        assert listening.next() == "WATCHDOG=1", "a process that stops has systemd's time for it"


def test_it_is_told_in_the_background(address: str) -> None:
    with NotifySocket(address) as listening:
        told = notifier(listening.variables())
        for _ in range(2):
            told.start(Liveness(limit_s=3600), lambda: True)
        assert listening.next() == "READY=1"
        assert not listening.has_message()


def test_who_is_not_asked_says_nothing(address: str) -> None:
    with NotifySocket(address) as listening:
        supervised = notifier(listening.variables(watchdog_s=3600), is_supervised=True)
        nobodys = notifier({})
        for told in (supervised, nobodys):
            told.look(Liveness(limit_s=3600), lambda: True)
            told.stopping()
        anothers = notifier(listening.variables(watchdog_s=3600) | {"WATCHDOG_PID": "1"})
        anothers.look(Liveness(limit_s=3600), lambda: False)
        assert not listening.has_message()


def test_a_socket_that_is_gone_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}).stopping()
    assert "can't tell systemd STOPPING=1" in caplog.text
