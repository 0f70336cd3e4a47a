"""Safety policies that are applied while the batch or its jobs are changed by others, and calls that were cut off."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.batches import actions
from jobs.batches.move_images_to_another_output import delete_moved, move
from jobs.db.engine import transact
from jobs.errors import LeaseLostError
from jobs.images.insert_and_public_columns import worker_columns
from jobs.job_dataclasses import Failure
from jobs.monitoring import metrics
from jobs.outputs.ownership import claim
from jobs.policy.change_policy import change_policy
from jobs.policy.stored_policy import safety_of
from jobs.queue import transitions
from jobs.safety_reevaluation import apply_safety_policy as judging
from jobs.safety_reevaluation import move_quarantined_files as quarantine
from jobs.safety_reevaluation.apply_safety_policy import SafetyPolicy
from jobs.states import ErrorKind, SafetyAction, SafetyStrength
from jobs.storage.open import S3Options, open_store
from tests.factories import change, image, lane_differences, look, states, take
from tests.worker.contexts import attempts_of, files_in, images_of, jobs_of, only_lane, render, submit
from tests.worker.test_judge import ALL, FOX, NOTHING, judged, work_off
from tests.worker.test_quarantine import FLAGGED, files, in_quarantine, store_of
from worker.item import PipelineItem
from worker.lanes.worker_context import WorkerContext
from worker.stages.safety_checks.prompt_filter import PromptFilter
from worker.stages.safety_checks.safety import Safety


def meanwhile(patch: pytest.MonkeyPatch, name: str, others: Any) -> None:
    """Let `others` happen once, when the judge is about to call its method `name` for a page."""
    act = getattr(judging._PolicyChange, name)

    def later(*arguments: Any) -> None:
        patch.undo()
        others()
        act(*arguments)

    patch.setattr(judging._PolicyChange, name, later)


def retried(context: WorkerContext, batch: Any, seed: int) -> None:
    """Render the blocked job again, from another seed."""
    transitions.retry(context.engine, batch.id, ["blocked"], "safety", same_seed=True)
    change(context.engine, "UPDATE jobs SET seed = :seed WHERE batch_id = :batch", seed=seed, batch=batch.id)
    work_off(context, batch)


@pytest.mark.parametrize("safety", [SafetyAction.QUARANTINE, SafetyAction.BLOCK])
def test_a_job_that_was_retried_meanwhile_is_not_freed_for_its_image_of_before(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safety: SafetyAction
) -> None:
    rows = [FLAGGED | {"seed": seed} for seed in range(6)]
    images = images_of(context.engine, render(context, tmp_path, rows, safety="flag", reuse=False))
    scores = sorted((max(row["safety_scores"]["concepts"]), int(row["seed"])) for row in images)
    (lowest, freed), (highest, flagged) = scores[0], scores[-1]
    assert lowest < highest
    batch = render(context, tmp_path, [FLAGGED | {"seed": freed}], safety=safety)
    meanwhile(monkeypatch, "_free", lambda: retried(context, batch, flagged))
    done = judged(context, batch, f"all={-lowest:.3f}")
    assert (done.restored, done.queued, done.is_overtaken) == (0, 0, False)
    assert images_of(context.engine, batch) == []
    assert [job["state"] for job in jobs_of(context.engine, batch)] == ["blocked"]


@pytest.mark.parametrize(
    ("thresholds", "part", "states_after"),
    [
        (NOTHING, "_free", {"blocked": 1, "done": 1}),
        (ALL, "_quarantine", {"blocked": 1, "done": 1}),
    ],
)
def test_a_batch_that_is_moved_meanwhile_loses_no_image(
    context: WorkerContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    thresholds: str,
    part: str,
    states_after: dict[str, int],
) -> None:
    engine, store = context.engine, store_of(context)
    batch = render(context, tmp_path, [FLAGGED, FOX], safety="quarantine")
    there = files(context)
    elsewhere = tmp_path / "elsewhere"
    target = open_store(str(elsewhere), S3Options())
    claim(engine, target, batch.id, batch.name)
    status = actions.status(engine, str(batch.id))
    meanwhile(monkeypatch, part, lambda: move(engine, status, store, target, str(elsewhere)))
    done = judged(context, batch, thresholds)
    assert (done.is_overtaken, done.blocked, done.restored, done.queued) == (True, 0, 0, 0)
    assert states(engine) == states_after
    assert files(context) == there, "nothing was copied where the batch isn't any more"
    delete_moved(engine, status, store)
    assert files_in(elsewhere) == there
    assert [row["key"] in there for row in images_of(engine, batch)] == [True]


def test_a_judge_that_is_overtaken_copies_nothing_more(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = context.engine
    rows = [FLAGGED | {"seed": seed} for seed in range(6)]
    batch = render(context, tmp_path, rows, safety="quarantine", reuse=False)
    restore = quarantine.restore_images

    def overtaken(*arguments: Any) -> Any:
        found = restore(*arguments)
        later = SafetyPolicy(SafetyAction.QUARANTINE, SafetyStrength.STRONG)
        held_back.append(lambda: transact(engine, lambda c: change_policy(c, batch.id, later.keys())))
        return found

    held_back: list[Any] = []
    delete = quarantine.delete_files_of_jobs

    def between_portions(*arguments: Any, **options: Any) -> int:
        while held_back:
            held_back.pop()()
        return delete(*arguments, **options)

    monkeypatch.setattr(quarantine, "restore_images", overtaken)
    monkeypatch.setattr(quarantine, "delete_files_of_jobs", between_portions)
    monkeypatch.setattr(quarantine, "PORTION", 2)
    done = judged(context, batch, NOTHING)
    assert done.is_overtaken
    assert states(engine) == {"done": 2, "blocked": 4}
    assert len([name for name in files(context) if "/images/" in name]) == 2
    assert len(in_quarantine(context)) == 4


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_a_call_that_was_cut_off_before_it_took_claims_is_finished_by_repeating_it(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_attempts: int
) -> None:
    engine = context.engine
    batch = submit(context.settings, engine, tmp_path, [FOX] * 2, max_attempts=max_attempts)
    take(engine, only_lane(engine, batch))

    def killed(*_: object) -> int:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(judging, "release_claims", killed)
        with pytest.raises(RuntimeError):
            judged(context, batch, NOTHING)
    assert states(engine) == {"running": 2}
    assert judged(context, batch, NOTHING).released == 2
    assert states(engine) == {"queued": 2}
    assert {job["attempt"] for job in jobs_of(engine, batch)} == {0}
    take(engine, only_lane(engine, batch))
    assert judged(context, batch, NOTHING).released == 0, "they are rendered under the policy"
    assert lane_differences(engine) == []


def test_what_an_earlier_policy_blocks_is_refused(context: WorkerContext, tmp_path: Path) -> None:
    engine, batch = context.engine, submit(context.settings, context.engine, tmp_path, [FOX] * 2)
    lane = transitions.open_lane(engine, only_lane(engine, batch))
    assert lane is not None
    first, _ = take(engine, lane.id)
    transact(engine, lambda c: change_policy(c, batch.id, {"safety_strength": "lenient"}))
    found = Failure(first.id, first.lease, ErrorKind.SAFETY, "safety checker: concept 0 at +0.005")
    with pytest.raises(LeaseLostError, match="their batch got another safety policy"):
        transitions.block(engine, [found], safety=safety_of(lane.policy))
    with pytest.raises(LeaseLostError):
        transitions.complete(engine, [image(first)], safety=safety_of(lane.policy))
    assert states(engine) == {"running": 2}


@pytest.mark.parametrize("prompt", ["a red fox", "a naked man"])
def test_workers_give_back_what_was_judged_by_an_earlier_policy_without_charging_it(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    """The policy changes and nobody takes the claims, as after a call that was cut off."""
    engine = context.engine
    rows = [FOX | {"prompt": prompt, "seed": seed} for seed in range(3)]
    batch = submit(context.settings, engine, tmp_path, rows, max_attempts=1)
    run = PromptFilter.run

    def changed_meanwhile(self: PromptFilter, items: list[PipelineItem]) -> list[PipelineItem]:
        patch.undo()
        transact(engine, lambda c: change_policy(c, batch.id, {"safety_strength": "strong"}))
        return run(self, items)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptFilter, "run", changed_meanwhile)
        work_off(context, batch)
    assert look(engine, "SELECT id FROM jobs WHERE state = 'running'") == []
    work_off(context, batch)
    ended = "done" if prompt == "a red fox" else "blocked"
    assert states(engine) == {ended: 3}
    assert {attempt["outcome"] for attempt in attempts_of(engine, batch)} <= {ended}
    assert {job["attempt"] for job in jobs_of(engine, batch)} == {1}
    assert {row["versions"].get("safety_strength") for row in images_of(engine, batch)} <= {"strong"}
    assert lane_differences(engine) == []


def test_all_leases_that_are_lost_between_judging_and_storing_are_counted(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of images of one device batch, some are put into quarantine and some are stored; neither is recorded."""
    rows = [FLAGGED | {"seed": seed} for seed in range(6)]
    images = images_of(context.engine, render(context, tmp_path, rows, safety="flag", reuse=False))
    scores = sorted(max(row["safety_scores"]["concepts"]) for row in images)
    lost, block = list[float](), transitions.block

    def steal(engine: Any, *arguments: Any, **options: Any) -> None:
        change(engine, "UPDATE jobs SET lease = gen_random_uuid() WHERE state = 'running'")
        block(engine, *arguments, **options)

    monkeypatch.setattr("worker.lanes.delivery.transitions.block", steal)
    monkeypatch.setattr(metrics.LEASES_LOST, "add", lost.append)
    thresholds = f"all={-scores[2]:.3f}"
    batch = render(context, tmp_path, rows, safety="quarantine", safety_thresholds=thresholds, reuse=False)
    running = [job for job in jobs_of(context.engine, batch) if job["state"] == "running"]
    assert len(running) > 1
    assert sum(lost) == len(running)


def test_what_judge_puts_into_quarantine_has_the_columns_of_a_worker(
    context: WorkerContext, tmp_path: Path
) -> None:
    batch = render(context, tmp_path, [FOX], safety="quarantine")
    judged(context, batch, ALL)
    (found,) = look(context.engine, "SELECT image FROM quarantined_images")
    assert found["image"].keys() <= set(worker_columns())
    assert {"key", "sha256", "format", "safety_scores"} <= found["image"].keys()


def test_an_image_that_only_the_earlier_policy_blocks_is_judged_again(
    context: WorkerContext, tmp_path: Path
) -> None:
    engine = context.engine
    batch = submit(context.settings, engine, tmp_path, [FLAGGED], max_attempts=1)
    run = Safety.run

    def changed_meanwhile(self: Safety, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        patch.undo()
        found = run(self, items)
        assert all(item.end for item in found)
        transact(engine, lambda c: change_policy(c, batch.id, {"safety_thresholds": NOTHING}))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Safety, "run", changed_meanwhile)
        work_off(context, batch)
    work_off(context, batch)
    assert states(engine) == {"done": 1}
    (row,) = images_of(engine, batch)
    assert (row["safety_verdict"], row["versions"]["safety_thresholds"]) == ("safe", NOTHING)
