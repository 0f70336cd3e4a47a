"""Programs that check deployment files: on PATH, or fetched into build/tools."""

import functools
import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.paths import ROOT


@functools.cache
def program(name: str) -> Path:
    """The path of `helm`, `prometheus` or `promtool`. Where it can't be had the test is skipped, but never in CI."""
    fetch = _fetch_module()
    try:
        return Path(fetch.find(name))
    except fetch.UnavailableError as error:
        reason = f"{name} can't be had: {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def run(name: str, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with its output."""
    return subprocess.run(
        [program(name), *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )


@functools.cache
def _fetch_module() -> ModuleType:
    """The script is no part of a package: it is loaded from where it lies."""
    spec = importlib.util.spec_from_file_location(
        "fetch_tools", ROOT / "infra" / "tools" / "fetch_programs.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
