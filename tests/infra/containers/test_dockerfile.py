"""The Dockerfile: clean by hadolint, and it copies what the package is made of and nothing else."""

import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.paths import ROOT

DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"
IGNORED = (
    ".git",
    ".nightmill",
    ".venv",
    "build",
    "constraints.txt",
    "docs",
    "examples",
    "infra",
    "output",
    "tests",
)


def packages() -> set[str]:
    """The top-level packages of the wheel."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    return {pattern.removesuffix("*") for pattern in setuptools["packages"]["find"]["include"]}


def test_hadolint_finds_nothing() -> None:
    program = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run(
        [program, "--failure-threshold", "style", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


def test_every_package_is_copied() -> None:
    copied = set(re.findall(r"^COPY (\w+) /source/\w+$", DOCKERFILE.read_text(), re.MULTILINE))
    assert copied == packages()


def test_the_context_is_what_the_build_reads() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    taken = {pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")}
    assert taken == packages() | {"LICENSE", "README.md", "pyproject.toml", "infra/docker"}
    assert not taken & set(IGNORED)
    hidden = [pattern for pattern in patterns[1:] if not pattern.startswith("!")]
    for path in ("jobs/__pycache__", "models/shapes/__pycache__", "console/.nightmill"):
        assert any(fnmatch.fnmatch(path, pattern) for pattern in hidden), path


def test_both_images_run_as_nobody_special_and_say_what_they_are() -> None:
    server, worker = DOCKERFILE.read_text().split("FROM base AS server")[1].split("FROM base AS worker")
    for name, target in {"server": server, "worker": worker}.items():
        for line in (
            "USER 10001:10001",
            'VOLUME ["/data", "/models", "/output"]',
            'ENTRYPOINT ["nightmill"]',
        ):
            assert f"\n{line}\n" in target, name
        assert f'org.opencontainers.image.title="nightmill {name}"' in target
        assert "HEALTHCHECK" in target
    assert os.access(ROOT / "infra" / "docker" / "build_image.py", os.R_OK)
