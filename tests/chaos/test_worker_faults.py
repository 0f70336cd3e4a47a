"""Faults by script in the child that renders: the right action for each, and none takes other jobs with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.settings import Settings
from scheduler.ingest.ingest import Ingested
from tests.chaos.invariant import check
from tests.chaos.mill import mill, settle
from tests.chaos.scale import scaled
from tests.end_to_end.processes import foxes, until
from tests.worker.contexts import attempts_of, jobs_of, submit

HANG_S = 1

GENTLE = {
    "fault:oom:once": ("done", 1, []),
    "fault:narrow": ("done", 1, []),
    "fault:oom": ("failed", 3, ["oom"] * 3),
    "fault:nan:once": ("done", 2, ["nan"]),
    "fault:nan": ("failed", 2, ["nan"] * 2),
    "fault:black:once": ("done", 2, ["black"]),
    "fault:black": ("failed", 2, ["black"] * 2),
    # A device batch that raises is tried again in halves at once: what fails once in company is no fault of a job.
    "fault:exception:once": ("done", 1, []),
    "fault:exception": ("failed", 3, ["exception"] * 3),
    "fault:sys-exit": ("failed", 3, ["exception"] * 3),
}
POISON = "fault:segfault"
ROUGH = ("fault:exit:once", "fault:stall:once", POISON, "fault:hang:once", "fault:segfault:once")
ROUGH_ATTEMPTS = 4

pytestmark = pytest.mark.timeout(scaled(300, 600))


@pytest.fixture
def patient(settings: Settings) -> Settings:
    """Two device batches in a claim; nothing is taken for hung or dead that is only slow."""
    return settings.model_copy(update={"batch_size": 4, "claim": 8, "lease_s": 30, "retry_delay_s": 0})


@pytest.fixture
def quick(patient: Settings) -> Settings:
    """Little patience, and crashed jobs by themselves from their second attempt on."""
    return patient.model_copy(update={"lease_s": 2, "stall_timeout_s": HANG_S, "shutdown_grace_s": 1})


def rows(*prompts: str) -> list[dict[str, Any]]:
    """Eight foxes, by which the lane is no longer new to its worker, then jobs with these prompts."""
    return foxes(8) + [
        {"prompt": f"number {number} {prompt}", "steps": 2} for number, prompt in enumerate(prompts)
    ]


def fates(engine: Engine, batch: Ingested) -> Mapping[str, tuple[str, int, list[str]]]:
    """State, attempt and the errors of all attempts of each job that has a fault, by the fault."""
    history = attempts_of(engine, batch)
    return {
        job["prompt"].split()[-1]: (
            job["state"],
            job["attempt"],
            [row["error_kind"] for row in history if row["job_id"] == job["id"]],
        )
        for job in jobs_of(engine, batch)
        if "fault:" in job["prompt"]
    }


def check_histories(engine: Engine, batch: Ingested) -> None:
    """Every attempt that gave no image is remembered, numbered from 1, with its worker and its beginning."""
    history = attempts_of(engine, batch)
    for job in jobs_of(engine, batch):
        own = [row for row in history if row["job_id"] == job["id"]]
        assert [row["attempt"] for row in own] == list(range(1, job["attempt"] + (job["state"] == "failed")))
        assert all(row["worker"] and row["started_at"] for row in own)


def test_faults_that_leave_the_child_alive(patient: Settings, engine: Engine, tmp_path: Path) -> None:
    batch = submit(patient, engine, tmp_path, rows(*GENTLE), max_attempts="3")
    with mill(patient, tmp_path / "mill", workers=1) as running:
        assert settle(engine, quiet_s=20), running.log()[-3000:]
        assert running.renders()
    assert fates(engine, batch) == GENTLE
    check(engine, batch.name)
    check_histories(engine, batch)


def test_faults_that_end_or_hang_the_child(quick: Settings, engine: Engine, tmp_path: Path) -> None:
    batch = submit(quick, engine, tmp_path, rows(*ROUGH, *["a mate"] * 3), max_attempts=str(ROUGH_ATTEMPTS))
    with mill(quick, tmp_path / "mill") as running:
        assert settle(engine, quiet_s=40), running.log()[-3000:]
        assert running.log().count("made no step for") >= 2
    found = fates(engine, batch)
    assert found.pop(POISON) == ("failed", ROUGH_ATTEMPTS, ["crash"] * ROUGH_ATTEMPTS)
    assert {state for state, _, _ in found.values()} == {"done"}
    assert all("crash" in errors for _, _, errors in found.values())
    assert check(engine, batch.name).states == {"done": batch.jobs - 1, "failed": 1}
    check_histories(engine, batch)


def test_without_small_company_a_poison_job_takes_its_mates_with_it(
    quick: Settings, engine: Engine, tmp_path: Path
) -> None:
    batch = submit(quick, engine, tmp_path, rows("fault:segfault", *["a mate"] * 3), max_attempts="2")
    with mill(quick, tmp_path / "mill", workers=1, twin="no-small-company") as running:
        assert settle(engine, quiet_s=40), running.log()[-3000:]
    assert check(engine, batch.name).states["failed"] >= 4


def test_without_a_watchdog_a_hung_child_keeps_its_jobs(
    quick: Settings, engine: Engine, tmp_path: Path
) -> None:
    batch = submit(quick, engine, tmp_path, rows("fault:stall:once"))
    with mill(quick, tmp_path / "mill", workers=1, twin="no-watchdog") as running:
        until(lambda: list((tmp_path / "mill").glob("had-*")))
        assert not settle(engine, quiet_s=5 * HANG_S)
        with pytest.raises(AssertionError, match="is running"):
            check(engine, batch.name)
        for child in running.children():
            child.kill()
