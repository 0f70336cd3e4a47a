"""The YAML of `infra/skypilot`: read by SkyPilot itself, and its commands run here as its machines would.

Needs a package index: SkyPilot is installed into build/tools, in an environment of its own.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock
from sqlalchemy import Engine

from jobs.settings import Settings
from tests.chaos.stub import stubbed
from tests.command_line import Nightmill
from tests.end_to_end.processes import foxes, manifest, running, truth
from tests.paths import ROOT

FILE = ROOT / "infra" / "skypilot" / "worker.yaml"
SKYPILOT = "skypilot==0.14.1"
READ = """
import sys, yaml, sky
given = [(name, "redis://secret") for name in sys.argv[2:]]
task = sky.Task.from_yaml_config(yaml.safe_load(open(sys.argv[1])), secrets_overrides=given)
print(*(f"{r.use_spot} {r.accelerators} {r.job_recovery}" for r in task.resources), sep="\\n")
"""

pytestmark = [pytest.mark.slow_tier, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def skypilot() -> Path:
    """A Python that has SkyPilot."""
    folder = ROOT / "build" / "tools" / "skypilot"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / ".skypilot.lock"):
        if not (folder / "bin" / "sky").exists():
            venv.create(folder, with_pip=True, clear=True)
            command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", SKYPILOT]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
            if done.returncode:
                pytest.skip(f"SkyPilot can't be had: {done.stderr[-500:]}")
    return folder / "bin" / "python"


def read(skypilot: Path, file: Path, home: Path, *secrets: str) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    command = [skypilot, "-c", READ, file, *secrets]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=100)


def task() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text(encoding="utf-8")))


def test_skypilot_understands_it(skypilot: Path, tmp_path: Path) -> None:
    done = read(skypilot, FILE, tmp_path, *task()["secrets"])
    assert done.returncode == 0, done.stderr[-2000:]
    found = done.stdout.strip().splitlines()
    assert len(found) == len(task()["resources"]["accelerators"])
    assert all(line.startswith("True {") and "EAGER_NEXT_REGION" in line for line in found), found


def test_a_misspelt_field_would_be_found(skypilot: Path, tmp_path: Path) -> None:
    (tmp_path / "misspelt.yaml").write_text(FILE.read_text().replace("use_spot", "use_spots"))
    assert "use_spots" in read(skypilot, tmp_path / "misspelt.yaml", tmp_path, *task()["secrets"]).stderr


def test_its_commands_install_and_render(
    settings: Settings, engine: Engine, nightmill: Nightmill, tmp_path: Path
) -> None:
    """Set up in a copy of the sources, without the dependencies, which the environment of the tests has."""
    workdir, home = tmp_path / "sky_workdir", tmp_path / "home"
    home.mkdir()
    subprocess.run(["git", "clone", "--quiet", ROOT, workdir], check=True)
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    base = {"HOME": str(home), "PATH": f"{python.parent}:{os.environ['PATH']}"}
    index = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP"))}
    run_shell(task()["setup"], workdir, base | index | {"PIP_NO_DEPS": "1"})

    assert nightmill("submit", manifest(tmp_path, foxes(6))).code == 0
    given = {name: value for name, value in settings.environment().items() if name.startswith("NIGHTMILL_")}
    with stubbed(tmp_path), running(settings, "scheduler"):
        stubs = {name: os.environ[name] for name in ("CHAOS_FOLDER", "CHAOS_STEP_S")}
        path = os.pathsep.join((os.environ["PYTHONPATH"], sysconfig.get_path("purelib")))
        variables = task()["envs"] | given | {"WORKER_UNTIL_IDLE": "3s", "PYTHONPATH": path}
        said = run_shell(task()["run"], workdir, base | variables | stubs)
    assert "the worker ends: there was no work for 3 s" in said
    assert truth(engine, "foxes").states() == {"done"}


def test_without_secrets_no_worker_starts(tmp_path: Path) -> None:
    """It would start a private PostgreSQL."""
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], **task()["envs"]}
    done = subprocess.run(["bash", "-c", task()["run"]], env=environment, capture_output=True, check=False)
    assert (done.returncode, b"NIGHTMILL_DATABASE_URL: is not set" in done.stderr) == (1, True)


def run_shell(script: str, folder: Path, environment: dict[str, str]) -> str:
    """Run commands as SkyPilot does, by bash in the work folder; returns what they printed."""
    bash = shutil.which("bash") or "bash"
    done = subprocess.run(
        [bash, "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout
