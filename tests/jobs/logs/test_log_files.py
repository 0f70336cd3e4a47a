"""Logs of running processes stay small, and belong to their owner alone."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs.logs import log_files
from jobs.logs.log_files import older, open_log, rotate_in_place

WRITER = """
import sys, time
for number in range(400):
    print(f"line {number} " + 90 * "x", flush=True)
    time.sleep(0.002)
"""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MAX_BYTES", 10_000)


def test_a_running_process_goes_on_in_the_emptied_file(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "worker-1.log"
    with open_log(path) as stream:
        writer = subprocess.Popen([sys.executable, "-c", WRITER], stdout=stream)
    rotations = 0
    while writer.poll() is None:
        rotations += rotate_in_place(path)
        time.sleep(0.01)
    assert rotations >= 3
    assert path.stat().st_size < 15_000, "no hole of zeros is left before what is written next"
    assert older(path).stat().st_size < 15_000
    kept = [int(line.split()[1]) for line in (older(path).read_text() + path.read_text()).splitlines()]
    assert kept == sorted(kept)
    assert kept[-1] == 399
    assert sorted(file.name for file in path.parent.iterdir()) == ["worker-1.log", "worker-1.log.1"]
    assert all(file.stat().st_mode & 0o077 == 0 for file in (path, older(path), path.parent))


def test_nothing_is_lost_while_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "up.log"
    path.write_bytes(b"x" * 9_999)
    assert not rotate_in_place(path)
    path.write_bytes(b"y" * 10_000)
    assert rotate_in_place(path)
    assert (path.read_bytes(), older(path).read_bytes()) == (b"", b"y" * 10_000)


def test_links_are_not_followed(tmp_path: Path) -> None:
    path, foreign = tmp_path / "up.log", tmp_path / "foreign"
    foreign.write_bytes(b"z" * 20_000)
    path.symlink_to(foreign)
    assert not rotate_in_place(path)
    path.unlink()
    path.write_bytes(b"y" * 10_000)
    older(path).symlink_to(foreign)
    assert not rotate_in_place(path)
    assert (foreign.stat().st_size, path.stat().st_size) == (20_000, 10_000)
    assert not rotate_in_place(tmp_path / "none.log")
