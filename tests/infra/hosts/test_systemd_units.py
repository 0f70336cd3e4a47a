"""The units of systemd: well-formed, closed to what they don't need, and in agreement with the worker."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from jobs.settings import Settings
from tests.infra.hosts.systemd_units import PROGRAM, UNITS, one, options, services
from worker.liveness.end_conditions import SPARE_S, STOP_S

MOST_EXPOSED = 2.0
"""Of 10, by the rating of `systemd-analyze security`; a service without any protection is above 9."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units as installed, with a program that is there."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze, of Debian's package systemd")
    folder = tmp_path_factory.mktemp("units")
    shutil.copytree(UNITS, folder, dirs_exist_ok=True)
    for path in folder.glob("*.service"):
        path.write_text(path.read_text(encoding="utf-8").replace(PROGRAM, "/bin/true"), encoding="utf-8")
    return folder


def analyze(units: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        env={"SYSTEMD_UNIT_PATH": f"{units}:", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


def test_systemd_understands_every_unit(installed: Path) -> None:
    timers = [path.name for path in installed.glob("*.timer")]
    names = [*services(), *timers, "nightmill.target"]
    found = analyze(installed, "verify", *(installed / name for name in names))
    about_ours = [line for line in (found.stdout + found.stderr).splitlines() if "nightmill" in line]
    assert (found.returncode, about_ours) == (0, [])


def test_a_misspelt_option_would_be_found(installed: Path, tmp_path: Path) -> None:
    shutil.copytree(installed, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "nightmill-scheduler.service"
    path.write_text(path.read_text(encoding="utf-8").replace("PrivateDevices", "PrivateDevice"))
    assert "'PrivateDevice'" in analyze(tmp_path, "verify", path).stderr


def test_services_are_closed_to_what_they_don_t_need(installed: Path) -> None:
    limit = f"--threshold={MOST_EXPOSED * 10:.0f}"
    paths = [installed / name for name in services()]
    found = analyze(installed, "security", "--offline=true", "--no-pager", limit, *paths)
    levels = re.findall(r"exposure level for (\S+): ([\d.]+)", found.stdout)
    assert found.returncode == 0, levels
    assert {name for name, _ in levels} == set(services())


def test_timers_have_services(installed: Path) -> None:
    timers = {path.stem for path in installed.glob("*.timer")}
    assert timers == {"nightmill-sweep", "nightmill-archive"}
    for name in timers:
        assert one(f"{name}.service", "Type") == "oneshot"
        (calendar,) = re.findall(
            r"OnCalendar=(.*)", (installed / f"{name}.timer").read_text(encoding="utf-8")
        )
        assert analyze(installed, "calendar", calendar).returncode == 0


def test_a_worker_has_ten_seconds_more_than_its_grace() -> None:
    """It is the unit that says the grace, so that both are changed in one place."""
    worker = "nightmill-worker@0.service"
    (given,) = re.findall(r"NIGHTMILL_SHUTDOWN_GRACE_S=(\d+)", " ".join(options(worker)["Environment"]))
    assert int(given) == Settings.model_fields["shutdown_grace_s"].default
    assert int(one(worker, "TimeoutStopSec")) == int(given) + STOP_S + SPARE_S


def test_a_start_may_wait_for_the_database() -> None:
    """Else a database that is away for minutes would have the services killed, over and over."""
    for unit in ("nightmill-scheduler.service", "nightmill-worker@0.service"):
        assert (one(unit, "Type"), one(unit, "NotifyAccess")) == ("notify", "main")
        (minutes,) = re.findall(r"(\d+)min", one(unit, "TimeoutStartSec"))
        assert int(minutes) * 60 > Settings.model_fields["database_wait_s"].default


def test_only_the_worker_sees_devices_and_writes_code() -> None:
    closed = {unit for unit in services() if "PrivateDevices" in options(unit)}
    assert closed == {unit for unit in services() if "MemoryDenyWriteExecute" in options(unit)}
    assert set(services()) - closed == {"nightmill-worker@0.service"}
