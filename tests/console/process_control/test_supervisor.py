"""Processes that die again and again are started again, ever more slowly."""

import time
from pathlib import Path

import pytest

from console.process_control import supervisor
from console.process_control.supervisor import Child, group
from jobs.errors import ServiceError, UsageError
from jobs.logs import log_files
from jobs.monitoring.listen_address import ListenAddress
from jobs.settings import Settings
from tests.chaos.stub import stubbed
from tests.scraping import free_address


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until it is set."""
    now = [1000.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    return now


def child(folder: Path, source: str) -> Child:
    """A child whose role is a module of that source."""
    (folder / "doomed.py").write_text(source)
    return Child("doomed", folder / "doomed.log", {"PYTHONPATH": str(folder)})


def await_end(doomed: Child) -> None:
    assert doomed.process is not None
    doomed.process.wait(150)


def starts(folder: Path) -> int:
    return (folder / "doomed.log").read_text().count("started")


def test_pauses_grow_to_a_minute_and_never_end(
    tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    doomed = child(tmp_path, "print('started', flush=True); raise SystemExit(1)")
    doomed.start()
    pauses = []
    for _ in range(9):
        await_end(doomed)
        doomed.keep_alive()
        assert doomed.due is not None
        pauses.append(doomed.due - clock[0])
        clock[0] = doomed.due
        doomed.keep_alive()
    await_end(doomed)
    assert "ends again and again" in (doomed.trouble or "")
    clock[0] += supervisor.SETTLED_S
    assert doomed.trouble is None
    assert pauses == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert starts(tmp_path) == 10
    assert "it is started anew in 60 s" in capsys.readouterr().err


def test_its_log_stays_small_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MAX_BYTES", 10_000)
    talker = child(
        tmp_path, "import time\nfor n in range(600): print(n, 90 * 'x', flush=True); time.sleep(0.002)"
    )
    talker.start()
    assert talker.process is not None
    while talker.process.poll() is None:
        talker.keep_alive()
        time.sleep(0.02)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("doomed.log*")}
    assert sizes.keys() == {"doomed.log", "doomed.log.1"}
    assert max(sizes.values()) < 20_000
    assert talker.log.read_bytes().splitlines()[-1].startswith(b"599 ")


def test_it_is_not_started_before_its_time(tmp_path: Path, clock: list[float]) -> None:
    doomed = child(tmp_path, "print('started', flush=True); raise SystemExit(1)")
    doomed.start()
    doomed.pause_s = 8
    for _ in range(3):
        await_end(doomed)
        doomed.keep_alive()
        clock[0] += 1
    assert starts(tmp_path) == 1


def test_who_lived_long_is_started_at_once(tmp_path: Path, clock: list[float]) -> None:
    doomed = child(tmp_path, "raise SystemExit(1)")
    doomed.start()
    doomed.pause_s = 60
    await_end(doomed)
    clock[0] += supervisor.SETTLED_S
    doomed.keep_alive()
    assert doomed.due == clock[0]


def test_wrong_settings_never_heal(tmp_path: Path) -> None:
    doomed = child(tmp_path, "raise SystemExit(2)")
    doomed.start()
    await_end(doomed)
    with pytest.raises(ServiceError, match="the doomed process can't start"):
        doomed.keep_alive()


def test_each_process_serves_its_metrics_at_a_port_of_its_own(settings: Settings) -> None:
    address = free_address()
    given = settings.model_copy(update={"metrics_address": address, "device": "cpu"})
    with stubbed(settings.data_dir), group(given, 1) as members:
        assert [child.environment["NIGHTMILL_METRICS_ADDRESS"] for child in members.children] == [
            address,
            str(ListenAddress.parse(address).moved(1)),
        ]
    last = settings.model_copy(update={"metrics_address": "127.0.0.1:65535"})
    with pytest.raises(UsageError, match="no port left for process 2"), group(last, 1):
        pass
