"""A job state is added in one place: constraints, sets of states, counts and the documentation follow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source_overlay import overlay

BEFORE = '    CANCELLED = "cancelled", '
STATE = '    SKIPPED = "skipped", StateRules(is_retryable=True, has_error=True), "was left out"\n'
PROGRAM = """
import json, sys
from console.terminal.progress import summary
from jobs.batches import actions, drop_jobs_and_delete_batches
from jobs.batches.dead_letters import kinds
from jobs.db.engine import connect
from jobs.db.schema import metadata
from jobs.states import JobState
from tests.factories import change, look, make_batch
from tests.lifecycle_page import table

engine = connect(sys.argv[1])
metadata.create_all(engine)
batch = make_batch(engine, 2, name="foxes")


def skip():
    change(engine, "UPDATE jobs SET state = 'skipped', finished_at = now(), error_kind = 'io'")
    change(engine, "UPDATE job_counts SET state = 'skipped'")


skip()
told = {"skipped": actions.status(engine, "foxes").report(), "line": summary(actions.status(engine, "foxes"))}
told["kinds"] = kinds(engine, batch.id)
told["retried"] = actions.retry(engine, batch.id)
told["counts"] = actions.status(engine, "foxes").counts
change(engine, "UPDATE job_counts SET delta = 0 WHERE state = 'queued'")
skip()
told["archived"] = drop_jobs_and_delete_batches.archive(engine, actions.status(engine, "foxes"))
told["left"] = look(engine, "SELECT state FROM jobs")
told["table"] = [line for line in table().splitlines() if "skipped" in line]
print(json.dumps(told))
"""


@pytest.fixture
def patched(tmp_path: Path) -> Path:
    """A nightmill with one more state of jobs."""
    return overlay(tmp_path / "patched", "jobs/states.py", BEFORE, STATE + BEFORE)


def test_a_new_state_is_allowed_counted_retried_archived_and_told(
    patched: Path, empty_database: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-P", "-c", PROGRAM, empty_database]
    environment = os.environ | {"PYTHONPATH": str(patched)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["skipped"]["state"], told["skipped"]["counts"]["skipped"]) == ("done", 2)
    assert told["line"] == "0 done, 2 skipped"
    assert told["kinds"] == [{"error_kind": "io", "state": "skipped", "jobs": 2}]
    assert (told["retried"], told["counts"]["queued"], told["counts"]["skipped"]) == (2, 2, 0)
    assert (told["archived"], told["left"]) == (2, [])
    assert told["table"] == ["| `skipped` | was left out |  | yes | yes |"]
