"""`nightmill` with no settings at all, in an empty folder: services of its own, which end with it.

What is drawn is no part of it; real models are in the `run` of the README.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import migrations
from jobs.db.engine import connect
from jobs.services.embedded import services
from jobs.settings import load_settings
from tests.chaos.stub import stubbed
from tests.command_line import Ended
from tests.console.conftest import write_lines
from tests.factories import change

PROGRAM = Path(sys.executable).parent / "nightmill"

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with stubbed(tmp_path_factory.mktemp("renders"), step_s=0.02):
        yield


def nightmill(folder: Path, *arguments: str) -> Ended:
    ended = subprocess.run(
        [PROGRAM, *arguments],
        cwd=folder,
        env=dict(os.environ) | {"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def killed_run(folder: Path) -> None:
    """Begin a run and kill it, the command alone, once its batch is there."""
    with (folder / "killed.log").open("wb") as log:
        process = psutil.Popen([PROGRAM, "run", "m.jsonl"], cwd=folder, stdin=subprocess.DEVNULL, stderr=log)
    deadline = time.monotonic() + 100
    while b" gave " not in (folder / "killed.log").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    process.kill()
    process.wait()
    (folder / "killed.log").unlink()


def belongs_to(process: psutil.Process, folder: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.cwd().startswith(str(folder)) or any(str(folder) in word for word in process.cmdline())
    except psutil.Error:
        return False


def processes_of(folder: Path) -> list[psutil.Process]:
    """The processes that run in the folder or name it."""
    return [process for process in psutil.process_iter() if belongs_to(process, folder)]


def none_left(folder: Path) -> bool:
    deadline = time.monotonic() + 100
    while processes_of(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_a_run_in_an_empty_folder(tmp_path: Path, stubs: None) -> None:
    looked = nightmill(tmp_path, "doctor")
    assert looked.code == 0, looked.out
    assert "tables made or brought up to date by the next command" in looked.out
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox", "steps": 2}])
    ended = nightmill(tmp_path, "run", "m.jsonl")
    assert ended.code == 0, ended.err
    assert "Warning" not in ended.err
    assert "1 done" in ended.out
    assert {path.name for path in tmp_path.iterdir()} == {"m.jsonl", ".nightmill", "output"}
    assert len(list(tmp_path.glob("output/m/images/*/*.png"))) == 1
    assert none_left(tmp_path)
    again = nightmill(tmp_path, "run", "m.jsonl")
    assert again.code == 0
    assert "nothing to render" in again.err
    assert none_left(tmp_path)


def test_a_run_after_one_that_was_killed(tmp_path: Path, stubs: None) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": f"fox {number}", "steps": 30} for number in range(8)])
    killed_run(tmp_path)
    assert processes_of(tmp_path), "the private services should have outlived the command"
    ended = nightmill(tmp_path, "run", "m.jsonl", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["counts"]["done"] == 8
    assert len(list(tmp_path.glob("output/m/images/*/*.png"))) == 8
    assert none_left(tmp_path)


def test_up_and_down(tmp_path: Path, stubs: None) -> None:
    write_lines(tmp_path / "m.jsonl", [{"prompt": "fox", "steps": 2}])
    assert "nothing was up" in nightmill(tmp_path, "down").err
    up = nightmill(tmp_path, "up")
    try:
        assert up.code == 0, up.err
        assert "up: a scheduler and 1 worker;" in up.err
        assert "already up" in nightmill(tmp_path, "up").err
        assert nightmill(tmp_path, "submit", "m.jsonl").code == 0
        watched = nightmill(tmp_path, "status", "m", "--watch")
        assert "1 done" in watched.out
    finally:
        down = nightmill(tmp_path, "down")
    assert (down.code, down.err.strip()) == (0, "stopped")
    assert none_left(tmp_path)


def test_a_private_database_of_another_version(tmp_path: Path) -> None:
    with services(load_settings(data_dir=tmp_path / ".nightmill")) as configured:
        engine = connect(configured.database)
        migrations.upgrade(engine)
        change(engine, "UPDATE alembic_version SET version_num = '9999'")
        change(engine, "COMMENT ON TABLE alembic_version IS NULL")
        engine.dispose()
    ended = nightmill(tmp_path, "status")
    assert ended.code == 1
    assert "error: the private database was made by another version of nightmill" in ended.err
    assert "Traceback" not in ended.err
    assert none_left(tmp_path)
