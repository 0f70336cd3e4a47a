"""A key of the batch policy is added in one place: everything else follows from the one field."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.job_dataclasses import LaneId
from jobs.queue import transitions
from tests.chaos.stub import stubbed
from tests.command_line import Nightmill
from tests.end_to_end.processes import foxes, manifest
from tests.factories import look
from tests.paths import ROOT
from tests.source_overlay import overlay

BEFORE = '    model_config = ConfigDict(frozen=True, extra="forbid")\n'
FIELD = """
    grain: Annotated[int, PolicyKey(is_recorded=True)] = Field(default=0, ge=0, le=9, description="of the film")
"""

POLICIES = "SELECT policy - 'batch_seed' AS policy FROM batches ORDER BY id"


@pytest.fixture
def patched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Processes that are started import a nightmill that has one field more; workers draw without torch."""
    folder = overlay(tmp_path / "patched", "jobs/policy/batch_policy.py", BEFORE, BEFORE + FIELD)
    with stubbed(tmp_path):
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT / "tests" / "stubbed"), str(folder))))
        yield folder


def test_a_new_key_is_set_stored_rendered_and_told(
    patched: Path, nightmill: Nightmill, engine: Engine, tmp_path: Path
) -> None:
    path = manifest(tmp_path, foxes(2))
    wrong = nightmill("run", path, "--set", "grain=10")
    assert (wrong.code, "--set grain=10: Input should be less than or equal to 9" in wrong.err) == (2, True)
    ran = nightmill("run", path, "--set", "grain=3", "--set", "watermark=off", "--json")
    assert ran.code == 0, ran.err
    assert look(engine, POLICIES) == [{"policy": {"grain": 3, "watermark": "off"}}]
    assert [row["versions"]["grain"] for row in look(engine, "SELECT versions FROM images")] == ["3", "3"]
    policy = nightmill("status", "foxes", "--json").json["policy"]
    assert (policy["grain"], policy["watermark"], policy["safety"]) == (3, "off", "block")
    refused = nightmill("change", "foxes", "--set", "grain=4")
    assert (refused.code, "--set grain: only priority, window" in refused.err) == (2, True)
    code = "from tests.configuration_page import page; print(page())"
    printed = subprocess.run(
        [sys.executable, "-P", "-c", code], env=os.environ, capture_output=True, text=True, check=True
    )
    assert "| `grain` | `0` | of the film | yes |  | yes |" in printed.stdout
    lane = transitions.open_lane(engine, LaneId(1))
    assert lane is not None
    assert lane.unknown_keys == ("grain",), "a version without the key sees that it lacks something"


def test_batches_of_before_stay_the_same(
    nightmill: Nightmill, engine: Engine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = manifest(tmp_path, foxes(2))
    first = nightmill("submit", path, "--name", "a", "--json").json["batch"]
    request.getfixturevalue("patched")
    assert nightmill("submit", path, "--name", "a", "--json").json["batch"] == first
    assert nightmill("submit", path, "--name", "a", "--set", "grain=0", "--json").json["batch"] == first
    assert nightmill("submit", path, "--name", "b", "--set", "grain=1", "--json").json["batch"] != first
    assert look(engine, POLICIES) == [
        {"policy": {}},
        {"policy": {"grain": 1}},
    ]
