"""Other distributions may have packages called `jobs` or `worker`: who stands in whose place is said."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from console.shadowed_packages import clashes
from tests.command_line import Nightmill
from tests.paths import ROOT

# An editable install finds `jobs.errors` in spite of another `jobs`; an ordinary one, on the path, does not.
START = f"""
import sys
sys.meta_path = [finder for finder in sys.meta_path if "Editable" not in str(finder)]
sys.path.append({str(ROOT)!r})
from console.entry_point import main
main()
"""


@pytest.fixture
def installed(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder of packages in which the distribution `crew` 1.2 is installed, with a package of this name."""
    site = tmp_path / "site"
    about = site / "crew-1.2.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: crew\nVersion: 1.2\n")
    (about / "top_level.txt").write_text(f"{request.param}\n")
    (site / request.param).mkdir()
    (site / request.param / "__init__.py").touch()
    return site


def test_nothing_clashes_here() -> None:
    assert clashes() == []


@pytest.mark.parametrize("installed", ["jobs"], indirect=True)
def test_a_package_that_nightmill_hides(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(installed)])
    hidden = f"`jobs` is also a package of crew 1.2 ({installed / 'jobs'}), which nightmill's hides"
    assert clashes() == [hidden]


@pytest.mark.parametrize("installed", ["worker"], indirect=True)
def test_the_doctor_names_a_package_in_the_place_of_nightmills(
    installed: Path, nightmill: Nightmill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(installed))
    ended = nightmill("doctor", "--json")
    (found,) = (check for check in ended.json if check["check"] == "packages")
    assert (ended.code, found["ok"]) == (1, False)
    place = installed / "worker"
    assert (
        f"`worker` is imported from {place}, of crew 1.2 ({place}), and not from {ROOT}" in found["finding"]
    )


@pytest.mark.parametrize("installed", ["jobs"], indirect=True)
def test_where_the_command_line_cannot_be_imported_it_says_why(installed: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-P", "-c", START, "status"],
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 2
    assert line.startswith(f"error: `jobs` is imported from {installed / 'jobs'}, of crew 1.2")
    assert "an environment of its own" in line
