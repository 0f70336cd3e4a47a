"""An upgrade beside running workers: those of the version before go on with the new tables, beside new ones."""

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

import migrations
from jobs.db.engine import connect
from jobs.queue.worker_registry import workers
from jobs.settings import Settings
from tests.chaos.invariant import check
from tests.chaos.mill import SCHEDULER, WORKER, mill
from tests.chaos.stub import FOLDER, STEP_S
from tests.end_to_end.processes import end, foxes, until
from tests.factories import look
from tests.paths import ROOT
from tests.worker.contexts import submit

BEFORE = "05a4494c960bf1a5b3285ed7982acfd127dfc4fd"
"""The last commit before migration 0016."""
OLD = "0015"
JOBS, NEW_JOBS = 120, 8
UNFINISHED = "SELECT FROM jobs WHERE finished_at IS NULL"

SUBMIT = """
import sys
from pathlib import Path
from jobs.db.engine import connect
from jobs.settings import load_settings
from tests.end_to_end.processes import foxes
from tests.worker.contexts import submit

settings = load_settings()
submit(settings, connect(settings.database), Path(sys.argv[1]), foxes(int(sys.argv[2])))
"""


@pytest.fixture
def old_tree(tmp_path: Path) -> Path:
    """The source of the version before, tests included."""
    archive = subprocess.run(["git", "archive", BEFORE], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip("this checkout has no history")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tree:
        tree.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


@pytest.fixture
def old_engine(empty_database: str) -> Iterator[Engine]:
    """A database with the tables of the version before."""
    engine = connect(empty_database, pool_size=10)
    migrations.upgrade(engine, OLD)
    yield engine
    engine.dispose()


@contextmanager
def old_processes(settings: Settings, tree: Path, folder: Path, *roles: str) -> Iterator[list[psutil.Popen]]:
    """Workers and schedulers of the version before, with stub models; asked to stop at the end."""
    folder.mkdir()
    environment = settings.environment() | {"PYTHONPATH": str(tree), FOLDER: str(folder), STEP_S: "0.15"}
    with (folder / "mill.log").open("ab") as log:
        started = [
            psutil.Popen(
                [sys.executable, "-m", role],
                cwd=tree,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            for role in roles
        ]
    try:
        yield started
    finally:
        for process in started:
            end(process)


def submit_by_old(settings: Settings, tree: Path, folder: Path) -> None:
    """Submit a batch as the version before does."""
    environment = settings.environment() | {"PYTHONPATH": str(tree)}
    command = [sys.executable, "-P", "-c", SUBMIT, str(folder), str(JOBS)]
    subprocess.run(command, cwd=tree, env=environment, check=True)


def rendered_by(engine: Engine) -> set[str]:
    """The workers that have stored an image."""
    return {row["worker"] for row in look(engine, "SELECT DISTINCT worker FROM images")}


def test_old_workers_go_on_beside_new_ones(
    old_tree: Path, old_engine: Engine, empty_database: str, settings: Settings, tmp_path: Path
) -> None:
    engine, own = (
        old_engine,
        settings.model_copy(
            update={"database_url": type(settings.database_url)(empty_database), "batch_size": 4, "claim": 8}
        ),
    )
    submit_by_old(own, old_tree, tmp_path)
    with old_processes(own, old_tree, tmp_path / "before", SCHEDULER, WORKER) as (_, worker):
        until(lambda: rendered_by(engine))
        migrations.upgrade(engine)
        migrated_at = len(look(engine, "SELECT FROM images"))
        until(lambda: len(look(engine, "SELECT FROM images")) > migrated_at + 8)
        end(worker)  # its machine restarts: it is of the old version still
        with (
            old_processes(own, old_tree, tmp_path / "restarted", WORKER),
            mill(own, tmp_path / "mill", workers=1, step_s=0.15),
        ):
            until(lambda: len(rendered_by(engine)) == 3)
            assert {one.activity for one in workers(engine)} >= {None, "busy"}, "one of each version"
            until(lambda: look(engine, UNFINISHED) == [])
        with old_processes(own, old_tree, tmp_path / "last", WORKER):
            named = [fox | {"id": f"fox-{number}"} for number, fox in enumerate(foxes(NEW_JOBS))]
            later = submit(own, engine, tmp_path, named)
            assert later.seed_from == "id"
            until(lambda: look(engine, UNFINISHED) == [])
    for name, jobs in (("batch-0", JOBS), (later.name, NEW_JOBS)):
        facts = check(engine, name, places=[(row, 0) for row in range(jobs)])
        assert (facts.states, facts.attempts) == ({"done": jobs}, jobs)
    for log in ("before", "restarted", "mill", "last"):
        assert "Traceback" not in (tmp_path / log / "mill.log").read_text()
