"""A safety checker that goes wrong in every way: no image leaves that it hasn't judged, and only its jobs suffer."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.settings import Settings
from scheduler.ingest.ingest import Ingested
from tests.chaos.invariant import check
from tests.chaos.judged_images import check_judged
from tests.chaos.mill import mill, settle
from tests.chaos.scale import scaled
from tests.end_to_end.processes import foxes
from tests.worker.contexts import attempts_of, jobs_of, submit

SEED, SEEDS = 5, scaled(1, 20)
ATTEMPTS, HANG_S = 6, 1
POLICIES = ("block", "blacken", "quarantine")
FAILS = {
    "exception": "exception",
    "oom": "oom",
    "nan": "safety",
    "nan-care": "safety",
    "few": "safety",
    "few-care": "safety",
    "forgotten": "safety",
}
"""The error kind of a job at which the checker fails each time, by how it does."""
MENDED = [f"{kind}:once" for kind in FAILS] + ["narrow", "none"]
CRASHES = ["kill:once", "kill:once", "hang:once"]
UNSAFE_SHARE = 0.4

pytestmark = pytest.mark.timeout(scaled(300, 600))


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Little patience, small claims, and no delay before another attempt."""
    changes = {"batch_size": 4, "claim": 8, "lease_s": 2, "stall_timeout_s": HANG_S, "shutdown_grace_s": 1}
    return settings.model_copy(update=changes | {"retry_delay_s": 0})


def rows(chance: random.Random, *faults: str) -> list[dict[str, Any]]:
    """Eight foxes, then a job for each fault, in any order; of these some are unsafe."""
    prompts = [
        f"number {number} {'unsafe ' * (chance.random() < UNSAFE_SHARE)}fault:check-{fault}"
        for number, fault in enumerate(chance.sample(faults, len(faults)))
    ]
    return foxes(8) + [{"prompt": prompt, "steps": 2} for prompt in prompts]


def batches(
    settings: Settings, engine: Engine, folder: Path, *crashes: str, seed: int = SEED
) -> Iterator[tuple[str, Ingested]]:
    """A batch for each policy with all faults, among which the crashes are dealt out."""
    chance = random.Random(seed)
    dealt = [chance.choice(POLICIES) for _ in crashes]
    for policy in POLICIES:
        own = [crash for crash, where in zip(crashes, dealt, strict=True) if where == policy]
        given = rows(chance, *FAILS, *MENDED, *own)
        yield policy, submit(settings, engine, folder, given, safety=policy, max_attempts=str(ATTEMPTS))


def fault_of(prompt: str) -> str:
    """The fault that a prompt asks of the checker, "none" for one that asks for nothing."""
    return prompt.partition("fault:check-")[2] or "none"


def ends(prompt: str, policy: str) -> tuple[str, list[list[str]]]:
    """The state in which a job ends, and the errors that its attempts may have, without crashes."""
    fault = fault_of(prompt)
    kind, _, once = fault.partition(":")
    if fault == "kill":
        return "failed", [[]]
    if fault in FAILS:
        return "failed", [[FAILS[kind]] * own for own in range(ATTEMPTS + 1)]
    # What fails once in company is tried again in halves at once; by itself it costs the job an attempt.
    errors = [[], [FAILS[kind]]] if once and kind in FAILS else [[]]
    if "unsafe" in prompt and policy != "blacken":
        return "blocked", [[*before, "safety"] for before in errors]
    return "done", errors


def check_fates(engine: Engine, batch: Ingested, policy: str, *, attempts: int = ATTEMPTS) -> None:
    """Each job ended as it must; attempts that its fault doesn't explain were crashes of its worker."""
    history = attempts_of(engine, batch)
    for job in jobs_of(engine, batch):
        found = [attempt["error_kind"] for attempt in history if attempt["job_id"] == job["id"]]
        state, errors = ends(job["prompt"], policy)
        told = f"{job['prompt']!r} is {job['state']} after {found}"
        assert job["state"] == state, told
        assert [kind for kind in found if kind != "crash"] in errors, told
        assert job["attempt"] == len(found) + (state == "done"), told
        assert state != "failed" or job["attempt"] == attempts, told


@pytest.mark.parametrize("seed", range(SEED, SEED + SEEDS))
def test_no_image_leaves_unjudged(quick: Settings, engine: Engine, tmp_path: Path, seed: int) -> None:
    given = dict(batches(quick, engine, tmp_path, *CRASHES, seed=seed))
    with mill(quick, tmp_path / "mill") as running:
        assert settle(engine, quiet_s=20), running.log()[-3000:]
        assert "made no step for" in running.log()
    for policy, batch in given.items():
        check(engine, batch.name)
        check_judged(engine, batch.name, tmp_path / "export" / policy)
        check_fates(engine, batch, policy)


def test_a_stage_that_lets_images_pass_when_the_checker_fails(
    quick: Settings, engine: Engine, tmp_path: Path
) -> None:
    given = dict(batches(quick, engine, tmp_path))
    with mill(quick, tmp_path / "mill", workers=1, twin="unjudged") as running:
        assert settle(engine, quiet_s=20), running.log()[-3000:]
    for policy, batch in given.items():
        check(engine, batch.name)
        with pytest.raises(AssertionError, match="no safety scores"):
            check_judged(engine, batch.name, tmp_path / "export" / policy)


@pytest.fixture
def poisoned(quick: Settings, engine: Engine, tmp_path: Path) -> Ingested:
    """A batch with one job at which the check kills the worker each time, among seven others."""
    given = rows(random.Random(SEED), "kill", *["none"] * 7)
    return submit(quick, engine, tmp_path, given, max_attempts="3", safety="blacken")


def test_a_job_at_which_the_check_kills_the_worker_takes_no_other_with_it(
    quick: Settings, engine: Engine, tmp_path: Path, poisoned: Ingested
) -> None:
    with mill(quick, tmp_path / "mill", workers=1) as running:
        assert settle(engine, quiet_s=20), running.log()[-3000:]
    check(engine, poisoned.name)
    check_judged(engine, poisoned.name, tmp_path / "export")
    check_fates(engine, poisoned, "blacken", attempts=3)


def test_without_the_wait_it_takes_those_with_it_that_are_claimed_meanwhile(
    quick: Settings, engine: Engine, tmp_path: Path, poisoned: Ingested
) -> None:
    with mill(quick, tmp_path / "mill", workers=1, twin="no-wait") as running:
        assert settle(engine, quiet_s=20), running.log()[-3000:]
    assert check(engine, poisoned.name).states["failed"] > 1
