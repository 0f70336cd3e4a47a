"""A worker of the version before the newest migration finishes its jobs beside the migrated tables, and new workers.

Its statements are the real ones: its process imports the source of the last commit before that migration. It renders
nothing; `tests/chaos/test_rolling_upgrade.py` has whole workers of an older version.
"""

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
from sqlalchemy import Engine

import migrations
from jobs.batches import actions
from jobs.db.engine import connect
from jobs.feed.feed import read
from jobs.queue import transitions
from jobs.queue.worker_registry import workers
from scheduler.loop import rescue_all
from scheduler.monitoring.queue_figures import queue_figures
from tests.factories import await_feed, image, lane_differences, look, states, take
from tests.paths import ROOT
from tests.queue_worker import BATCH, HELD, NAME, TAKEN

JOBS = 24
QUEUE_WORKER = Path("tests", "queue_worker.py")


@dataclass(frozen=True)
class OldWorker:
    """The process, which waits for a line after each step, and the revision whose tables it made."""

    process: "subprocess.Popen[str]"
    revision: str

    def go_on(self) -> str:
        """Let it do its next step; returns what it then says."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


def git(*arguments: str) -> bytes:
    ended = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if ended.returncode:
        pytest.skip("this checkout has no history")
    return ended.stdout


@pytest.fixture
def old_tree(tmp_path: Path) -> Path:
    """The source before the newest migration came: of the last commit, if that isn't committed yet."""
    (newest,) = (ROOT / "migrations" / "versions").glob(f"{migrations.head()}_*.py")
    added = git("log", "--follow", "--diff-filter=A", "--format=%H", "--", str(newest)).decode().split()[-1:]
    archive = git(
        "archive", f"{added[0]}^" if added else "HEAD", "jobs", "migrations", "models", "scheduler", "tests"
    )
    with tarfile.open(fileobj=BytesIO(archive)) as tree:
        tree.extractall(tmp_path / "old", filter="data")
    if not (tmp_path / "old" / QUEUE_WORKER).exists():
        shutil.copy(ROOT / QUEUE_WORKER, tmp_path / "old" / QUEUE_WORKER)
    return tmp_path / "old"


@pytest.fixture
def old_worker(old_tree: Path, empty_database: str) -> Iterator[OldWorker]:
    """A worker in the middle of its work, on tables of its version."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.queue_worker", empty_database, str(JOBS)],
        cwd=old_tree,
        env={"PYTHONPATH": str(old_tree)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield OldWorker(process, process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def old_engine(empty_database: str) -> Iterator[Engine]:
    engine = connect(empty_database)
    yield engine
    engine.dispose()


def test_it_finishes_beside_the_migrated_tables(old_worker: OldWorker, old_engine: Engine) -> None:
    engine = old_engine
    if old_worker.revision < migrations.OLDEST_USABLE:
        pytest.skip("the newest migration says that the version before doesn't work with it")
    assert migrations.upgrade(engine) == (old_worker.revision, migrations.head())
    assert actions.status(engine, BATCH).counts["running"] == TAKEN
    (lane,) = look(engine, "SELECT id FROM lanes")
    jobs = take(engine, lane["id"], 4, worker="new:1")
    assert old_worker.go_on() == "idle", "its statements work with the new tables"
    transitions.complete(engine, [image(job) for job in jobs])
    assert [worker.shown_state for worker in workers(engine) if worker.name == NAME] == ["idle"]
    assert queue_figures(engine)

    assert old_worker.go_on() == ""
    assert old_worker.process.wait() == 0
    assert workers(engine) == []
    done = 3 + len(jobs) + TAKEN
    left = {"done": done, "blocked": 1, "running": HELD}
    assert states(engine) == left | {"queued": JOBS - sum(left.values())}
    assert rescue_all(engine) == 0
    assert lane_differences(engine) == []
    await_feed(engine)
    assert len(list(read(engine))) == done
    rest = take(engine, lane["id"], worker="new:1")
    assert len(rest) == JOBS - sum(left.values()), "what it gave back, and what nobody had taken"
