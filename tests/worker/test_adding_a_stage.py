"""A stage of the pipeline is one file and one line: it runs, and its findings are stored, exported and told."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.chaos.stub import stubbed
from tests.command_line import Nightmill
from tests.end_to_end.processes import foxes, manifest
from tests.factories import look
from tests.paths import ROOT

STAGE = '''
"""Sharpness: measure how much neighbouring pixels differ."""

from worker.stage import Place, Stage


class Sharpness(Stage):
    """Measures the mean difference of neighbouring pixels."""

    name = "sharpness"
    place = Place.BACKGROUND
    switched_on_by = "`sharpness`"

    @classmethod
    def is_on(cls, context):
        return context.lane.policy.sharpness

    def run(self, items):
        return [item.annotated(self.name, {"mean": _sharpness(item.image)}) for item in items]


def _sharpness(pixels):
    return round(float(abs(pixels[:, 1:].astype(int) - pixels[:, :-1]).mean()), 3)
'''
FIELD = '    sharpness: Annotated[bool, PolicyKey()] = Field(default=False, description="measure the sharpness")\n'


@pytest.fixture
def patched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes that are started import a nightmill with one stage, its line in the list and its policy key."""
    folder = tmp_path / "patched"
    folder.mkdir()
    for package in ("console", "migrations", "models", "scheduler", "tests"):
        (folder / package).symlink_to(ROOT / package)
    for package in ("jobs", "worker"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "worker" / "stages" / "sharpness.py").write_text(STAGE)
    pipeline, before = folder / "worker" / "pipeline.py", "    Watermark,\n"
    _insert(pipeline, before, "    Sharpness,\n")
    _insert(pipeline, "from worker.stages.upload", "from worker.stages.sharpness import Sharpness\n")
    policy = folder / "jobs" / "policy" / "batch_policy.py"
    _insert(policy, "    priority: Annotated[int, SCHEDULE]", FIELD)
    with stubbed(tmp_path):
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT / "tests" / "stubbed"), str(folder))))
        yield


def _insert(file: Path, before: str, text: str) -> None:
    source = file.read_text(encoding="utf-8")
    assert source.count(before) == 1
    file.write_text(source.replace(before, text + before), encoding="utf-8")


@pytest.mark.usefixtures("patched")
def test_a_stage_in_one_file_runs_and_its_findings_are_told(
    nightmill: Nightmill, engine: Engine, tmp_path: Path
) -> None:
    ran = nightmill("run", manifest(tmp_path, foxes(2)), "--set", "sharpness=true", "--json")
    assert ran.code == 0, ran.err
    rows = look(engine, "SELECT annotations, timings FROM images ORDER BY id")
    assert [row["annotations"]["sharpness"]["mean"] > 0 for row in rows] == [True, True]
    assert all("sharpness" in row["timings"] for row in rows)
    fed = [json.loads(line) for line in nightmill("feed").out.splitlines()]
    assert [row["annotations"] for row in fed] == [row["annotations"] for row in rows]
    command = [sys.executable, "-P", "-m", "worker.pipeline"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    told = "Measures the mean difference of neighbouring pixels."
    assert f"| `sharpness` | background | `sharpness` | {told} |" in printed


@pytest.mark.usefixtures("patched")
def test_it_is_off_where_its_policy_is(nightmill: Nightmill, engine: Engine, tmp_path: Path) -> None:
    assert nightmill("run", manifest(tmp_path, foxes(1))).code == 0
    assert look(engine, "SELECT annotations, timings ? 'sharpness' AS timed FROM images") == [
        {"annotations": None, "timed": False}
    ]
