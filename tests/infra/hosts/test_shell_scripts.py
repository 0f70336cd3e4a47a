"""Shell scripts of `infra/`, and those in other files there, have none of the faults that shellcheck finds."""

import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

from tests.paths import ROOT

SHELLCHECK = Path(sysconfig.get_path("scripts")) / "shellcheck"
SCRIPTS = sorted(
    path for path in (ROOT / "infra").rglob("*") if path.is_file() and path.read_bytes().startswith(b"#!")
)
SKYPILOT = ROOT / "infra" / "skypilot" / "worker.yaml"


def shellcheck(script: str) -> str:
    command = [SHELLCHECK, "--enable=quote-safe-variables,check-set-e-suppressed", "-"]
    return subprocess.run(command, input=script, capture_output=True, text=True, check=False).stdout


def test_all_scripts_are_found() -> None:
    assert {path.name for path in SCRIPTS} >= {"worker.sbatch", "scale.sh"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_without_fault(path: Path) -> None:
    assert shellcheck(path.read_text(encoding="utf-8")) == ""


@pytest.mark.parametrize("part", ["setup", "run"])
def test_commands_of_skypilot_are_without_fault(part: str) -> None:
    assert shellcheck("#!/bin/bash\n" + yaml.safe_load(SKYPILOT.read_text(encoding="utf-8"))[part]) == ""


def test_a_fault_would_be_found() -> None:
    assert "SC2086" in shellcheck("#!/bin/bash\nrm $1\n")
