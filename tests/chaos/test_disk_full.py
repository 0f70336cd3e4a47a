"""The disk of the output runs full (a small tmpfs): no job is failed or charged, and room made mends it."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from jobs.queue.worker_health_reports import unhealthy_workers
from jobs.settings import Settings
from tests.chaos.invariant import check
from tests.chaos.mill import mill, settle
from tests.chaos.scale import scaled
from tests.end_to_end.processes import foxes, until
from tests.factories import look, states
from tests.worker.contexts import submit
from worker.health.lane_backoff import Health
from worker.liveness.progress_heartbeat import FOLDER, Heartbeat

JOBS = scaled(120, 1000)
MIB = scaled(3, 20)
BALLAST = MIB * 700_000

pytestmark = pytest.mark.timeout(scaled(300, 600))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB, most of which is taken by a file `ballast`."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={MIB}m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a tmpfs can't be mounted here: {mounted.stderr.strip()}")
    (folder / "ballast").write_bytes(bytes(BALLAST))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def quick(settings: Settings, small_disk: Path) -> Settings:
    """An output on the small disk."""
    changes = {"batch_size": 4, "claim": 32, "lease_s": 2, "retry_delay_s": 0, "output": str(small_disk)}
    return settings.model_copy(update=changes)


def test_no_job_is_failed_for_it(quick: Settings, engine: Engine, small_disk: Path, tmp_path: Path) -> None:
    batch = submit(quick, engine, tmp_path, foxes(JOBS), max_attempts="1")
    with mill(quick, tmp_path / "mill", workers=1, step_s=0.005) as running:
        (worker,) = until(lambda: unhealthy_workers(engine))
        assert "No space left on device" in worker.reason
        assert not worker.reason.endswith("(None)")
        assert states(engine)["done"] > 0
        (small_disk / "ballast").unlink()
        assert settle(engine, quiet_s=30), running.log()[-3000:]
    assert check(engine, batch.name).states == {"done": JOBS}
    assert look(engine, "SELECT count(*) AS n FROM attempts") == [{"n": 0}]


def test_a_worker_that_does_not_wait_fails_its_jobs(quick: Settings, engine: Engine, tmp_path: Path) -> None:
    batch = submit(quick, engine, tmp_path, foxes(JOBS), max_attempts="1")
    with mill(quick, tmp_path / "mill", workers=1, step_s=0.005, twin="no-waiting") as running:
        assert settle(engine, quiet_s=30), running.log()[-3000:]
    assert check(engine, batch.name).states["failed"] > 0


def test_a_full_temporary_folder_ends_no_worker(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with suppress(OSError), (small_disk / "more").open("wb", buffering=0) as more:
        while more.write(bytes(4096)):
            pass
    monkeypatch.setenv(FOLDER, str(small_disk))
    heartbeat = Heartbeat.of_child(5)
    with heartbeat.at_work():
        heartbeat.beat()
    note = small_disk / "rest-0"
    Health(create_engine("postgresql+psycopg://nobody@localhost:1/x"), "w1", "cpu", note)._hand_over(
        {"rests": 1}
    )
    assert not note.exists() or not note.read_text()
