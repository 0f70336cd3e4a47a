"""What `make` does first on a new machine: it says what carries the wake-ups, and brings CUDA only if it is to."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A clone in which nothing is installed."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "jobs" / "services").mkdir(parents=True)
    for name in ("__init__.py", "services/__init__.py", "services/broker_program.py"):
        shutil.copy(ROOT / "jobs" / name, tmp_path / "jobs" / name)
    return tmp_path


def test_the_broker_is_told_before_anything_is_installed(fresh: Path) -> None:
    steps = make(fresh, "-n", "demo").stdout.splitlines()
    told, installed = (
        next(n for n, step in enumerate(steps) if words in step)
        for words in ("jobs.services.broker_program", "pip install")
    )
    assert told < installed


@pytest.mark.parametrize("index", ["", "https://mirror.example/cpu"])
def test_pytorch_without_cuda_is_a_choice(fresh: Path, index: str) -> None:
    given = [f"TORCH_INDEX={index}"] if index else []
    installs = [
        step for step in make(fresh, "-n", "TORCH=cpu", *given, "demo").stdout.splitlines() if "pip" in step
    ]
    assert (index or "https://download.pytorch.org/whl/cpu") in installs[0]
    assert installs[0].endswith("torch")
    assert installs[1].endswith("-e '.[worker,plots]'")
    plain = make(fresh, "-n", "demo").stdout
    assert "pytorch.org" not in plain


@pytest.mark.parametrize("body", ["exit 1", "mkdir -p .venv/bin; touch .venv/bin/python; exit 1"])
def test_half_an_environment_is_not_left(fresh: Path, body: str) -> None:
    """As Debian's python3 without python3-venv makes it: it has a Python and no pip."""
    python = fresh / "python"
    python.write_text(f'#!/bin/sh\ncase "$1" in -c) exit 0;; esac\n{body}\n')
    python.chmod(0o755)
    assert make(fresh, f"PYTHON={python}", "install").returncode == 2
    assert not (fresh / ".venv").exists()


def test_another_python_is_refused_with_what_to_do(fresh: Path) -> None:
    python = fresh / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    ended = make(fresh, f"PYTHON={python}", "demo")
    assert ended.returncode == 2
    assert "nightmill needs Python 3.11 to 3.14; say which: make PYTHON=python3.12 demo" in ended.stdout


def test_ci_begins_with_lint_and_test() -> None:
    steps = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]
    assert steps == [
        "make lint",
        "make test",
        "make test-end-to-end",
        "make test-faults",
        "make test-portable",
    ]
