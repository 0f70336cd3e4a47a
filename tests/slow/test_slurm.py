"""The scripts of `infra/slurm` on a real SLURM of one node, with workers whose models draw nothing.

Needs apt-get, which fetches SLURM, and no GPU: `--gres=none` takes the place of the script's own option.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobs.settings import Settings
from tests.chaos.stub import FOLDER, STEP_S, stubbed
from tests.command_line import Nightmill
from tests.end_to_end.processes import foxes, manifest, running, truth, until
from tests.paths import ROOT
from tests.slow.slurm_cluster import Cluster, slurm

SCRIPTS = ROOT / "infra" / "slurm"
WORKER, SCALE = SCRIPTS / "worker.sbatch", SCRIPTS / "scale.sh"
LONG = 2000

pytestmark = [pytest.mark.slow_tier, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for all tests of this file."""
    with slurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def cluster(started: Cluster, settings: Settings, tmp_path: Path) -> Iterator[Cluster]:
    """A person with a folder and a file of settings, by which workers draw with stubs; a scheduler runs elsewhere."""
    with stubbed(tmp_path, step_s=0.5):
        stubs = {name: os.environ[name] for name in os.environ if name in ("PYTHONPATH", FOLDER, STEP_S)}
        values = settings.environment() | {"NIGHTMILL_UNTIL_IDLE_S": "4", "NIGHTMILL_BATCH_SIZE": "1"}
        values = {name: value for name, value in values.items() if name.startswith("NIGHTMILL_")} | stubs
    values["LD_LIBRARY_PATH"] = started.environment["LD_LIBRARY_PATH"]  # of SLURM's own commands
    file = tmp_path / "settings.env"
    file.write_text(
        "".join(f"{name}='{value}'\n" for name, value in values.items() if name != "NIGHTMILL_DATA_DIR")
    )
    file.chmod(0o600)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    person = {"NIGHTMILL_SETTINGS": str(file), "HOME": str(tmp_path), "TMPDIR": str(scratch), "USER": "root"}
    with running(settings, "scheduler"):
        yield Cluster(tmp_path, started.environment | person)
        started.cancel_all()


@pytest.fixture
def nightmill(settings: Settings, tmp_path: Path) -> Nightmill:
    """The command line of that person."""
    return Nightmill(settings, tmp_path)


def submit(cluster: Cluster, *options: str) -> str:
    """Submit the worker's script without a GPU; the id of the job."""
    return cluster.run("sbatch", "--parsable", "--gres=none", *options, WORKER)


def ended(cluster: Cluster, job: str, seconds: float = 45) -> tuple[str, str]:
    """Wait for a job's end; its state and exit code."""
    until(lambda: cluster.fields(job)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"), seconds)
    return cluster.fields(job)["JobState"], cluster.fields(job)["ExitCode"]


def log_of(cluster: Cluster, job: str) -> str:
    return Path(cluster.fields(job)["StdOut"]).read_text()


def check_nothing_is_charged(engine: Engine) -> None:
    jobs = truth(engine, "long").jobs
    assert {job["state"] for job in jobs} == {"done", "queued"}
    assert {job["attempt"] for job in jobs if job["state"] == "queued"} == {0}


def begin_long_batch(cluster: Cluster, nightmill: Nightmill, engine: Engine, *options: str) -> str:
    """A batch that takes all night, and a task that is at work on it; the id of the job."""
    assert nightmill("submit", manifest(cluster.folder, foxes(LONG), "long.jsonl")).code == 0
    job = submit(cluster, *options)
    until(lambda: "done" in truth(engine, "long").states())
    return job


def test_as_many_tasks_as_workers_are_needed(cluster: Cluster, nightmill: Nightmill, engine: Engine) -> None:
    """Two for a batch of 40 at ten seconds an image and 200 seconds for all; none without work."""
    assert nightmill("pools", "set", "default", "--target", "200s", "--idle", "1s").code == 0
    assert cluster.run(SCALE, "default", "--gres=none") == "", "no work"
    assert nightmill("submit", manifest(cluster.folder, foxes(40))).code == 0
    job = cluster.run(SCALE, "default", "--gres=none")
    assert cluster.run(SCALE, "default", "--gres=none") == "", "they are there, or on their way"
    tasks = cluster.run("squeue", "--noheader", "--array", "--format=%i").split()
    assert sorted(tasks) == [f"{job}_1", f"{job}_2"]
    assert [ended(cluster, task, 120) for task in tasks] == [("COMPLETED", "0:0")] * 2
    found = truth(engine, "foxes")
    assert found.states() == {"done"}
    assert len({row["worker"] for row in found.jobs}) == 2, "both have worked"
    assert list((cluster.folder / "scratch").iterdir()) == []


def test_tasks_that_wait_are_cancelled_when_they_aren_t_needed(
    cluster: Cluster, nightmill: Nightmill, engine: Engine
) -> None:
    job = begin_long_batch(cluster, nightmill, engine, "--job-name=nightmill-default")
    assert nightmill("pools", "set", "default", "--max-workers", "1").code == 0
    submit(cluster, "--job-name=nightmill-default", "--begin=now+1hour", "--array=1-3")
    assert cluster.run(SCALE, "default", "--gres=none") == ""
    tasks = cluster.run("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
    assert tasks == [f"{job} RUNNING"], "one is needed, and one is there"
    assert nightmill("pools", "set", "default", "--max-workers", "3").code == 0
    later = submit(cluster, "--job-name=nightmill-default", "--begin=now+1hour", "--array=1-3")
    assert cluster.run(SCALE, "default", "--gres=none") == ""
    tasks = cluster.run("squeue", "--noheader", "--array", "--format=%F %T").splitlines()
    assert sorted(tasks) == sorted([f"{job} RUNNING", f"{later} PENDING", f"{later} PENDING"])
    cluster.run("scancel", job)
    assert ended(cluster, job)[0] == "CANCELLED"
    check_nothing_is_charged(engine)


def test_a_worker_ends_before_its_time_is_over(
    cluster: Cluster, nightmill: Nightmill, engine: Engine
) -> None:
    """By itself: SLURM's signal would come a second before."""
    job = begin_long_batch(cluster, nightmill, engine, "--time=2", "--signal=B:TERM@1")
    assert ended(cluster, job, 110) == ("COMPLETED", "0:0")
    assert "the worker ends: its time is over" in log_of(cluster, job)
    check_nothing_is_charged(engine)


def test_slurm_s_signal_stops_a_worker(cluster: Cluster, nightmill: Nightmill, engine: Engine) -> None:
    """It comes before the worker's own time is over, and up to a minute too early."""
    job = begin_long_batch(cluster, nightmill, engine, "--time=3", "--signal=B:TERM@110")
    assert ended(cluster, job, 110) == ("COMPLETED", "0:0")
    assert "its time is over" not in log_of(cluster, job)
    check_nothing_is_charged(engine)


def test_a_requeued_task_costs_nothing_and_starts_again(
    cluster: Cluster, nightmill: Nightmill, engine: Engine
) -> None:
    job = begin_long_batch(cluster, nightmill, engine)
    before = {row["worker"] for row in truth(engine, "long").jobs if row["worker"]}
    cluster.run("scontrol", "requeue", job)
    until(lambda: cluster.fields(job)["JobState"] == "PENDING", 60)
    until(lambda: "running" not in truth(engine, "long").states())
    check_nothing_is_charged(engine)
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    until(lambda: {row["worker"] for row in truth(engine, "long").jobs if row["worker"]} - before, 90)
    assert cluster.fields(job)["Restarts"] == "1"


def test_a_file_of_settings_that_others_can_read_is_refused(cluster: Cluster) -> None:
    Path(cluster.environment["NIGHTMILL_SETTINGS"]).chmod(0o640)
    job = submit(cluster)
    assert ended(cluster, job) == ("FAILED", "2:0")
    assert "must be readable by its owner alone" in log_of(cluster, job)
