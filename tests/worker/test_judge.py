"""Safety policies that change: what workers render and judge afterwards, also in the middle of a lane session."""

from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import text

from jobs.batches import actions
from jobs.errors import LeaseLostError
from jobs.outputs.ownership import claim
from jobs.policy.stored_policy import safety_of
from jobs.queue import transitions
from jobs.safety_reevaluation.apply_safety_policy import Applied, SafetyPolicy, apply, judge, safety_policy
from jobs.states import SafetyAction, SafetyStrength
from jobs.storage.open import S3Options, open_store
from scheduler.ingest.ingest import Ingested
from tests.factories import image, lane_differences, lanes_of, states, take, wait_for_lock
from tests.worker.contexts import attempts_of, files_in, images_of, jobs_of, only_lane, render, submit
from worker.item import PipelineItem
from worker.lanes.lane_session import work
from worker.lanes.worker_context import WorkerContext
from worker.stages.safety_checks.safety import Safety
from worker.stages.safety_checks.safety_of_upscaled import SafetyOfUpscaled

FOX = {"prompt": "a red fox", "steps": 2, "seed": 7}
ALL, NOTHING = "all=2", "all=-2"


def judged(context: WorkerContext, batch: Ingested, thresholds: str | None, **policy: Any) -> Applied:
    """Apply a policy as the command does."""
    status = actions.status(context.engine, str(batch.id))
    store = open_store(context.settings.output, S3Options())
    claim(context.engine, store, batch.id, status.folder)
    before = safety_policy(context.engine, status)
    action, checkers = policy.get("action", before.action), policy.get("checkers", before.checkers)
    strength = policy.get("strength", SafetyStrength.STANDARD)
    after = SafetyPolicy(action, strength, thresholds, checkers)
    return apply(context.engine, store, status, judge(context.engine, batch.id, before, after))


def work_off(context: WorkerContext, batch: Ingested) -> None:
    while sum(work(context, lane) for lane in lanes_of(context.engine, batch)):
        pass


def test_a_strength_at_submit_decides_and_is_recorded(context: WorkerContext, tmp_path: Path) -> None:
    (image_row,) = images_of(context.engine, render(context, tmp_path, [FOX]))
    highest = max(image_row["safety_scores"]["concepts"])
    batch = render(context, tmp_path, [FOX], safety_thresholds=f"all={0.001 - highest:.3f}")
    (job,) = jobs_of(context.engine, batch)
    assert (job["state"], job["error_text"][:24]) == ("blocked", "safety checker: concept ")
    assert " at +0.001" in job["error_text"]
    kept = render(context, tmp_path, [FOX], safety="flag", safety_strength="strong", safety_thresholds=ALL)
    (flagged,) = images_of(context.engine, kept)
    assert (flagged["safety_verdict"], flagged["versions"]["safety_strength"]) == ("flagged", "strong")
    assert flagged["versions"]["safety_thresholds"] == "all=2"
    assert flagged["safety_scores"] == image_row["safety_scores"], "stored as the checker computes them"
    assert "safety_strength" not in image_row["versions"]


def test_what_a_policy_frees_is_rendered_again_and_not_blocked_again(
    context: WorkerContext, tmp_path: Path
) -> None:
    batch = render(context, tmp_path, [FOX | {"model": "flagged"}, FOX | {"prompt": "a naked man"}])
    assert states(context.engine) == {"blocked": 2}
    assert judged(context, batch, NOTHING).queued == 1
    work_off(context, batch)
    (freed,) = images_of(context.engine, batch)
    assert (freed["seed"], freed["safety_verdict"]) == (7, "safe")
    assert freed["versions"]["safety_thresholds"] == "all=-2"
    assert max(freed["safety_scores"]["concepts"]) > 0
    assert states(context.engine) == {"done": 1, "blocked": 1}, "a prompt has no scores"


def test_a_batch_is_the_same_after_a_policy_and_back(context: WorkerContext, tmp_path: Path) -> None:
    batch = render(context, tmp_path, [FOX, FOX | {"seed": 8}])
    before = [(row["seed"], row["sha256"], row["key"]) for row in images_of(context.engine, batch)]
    blocked = judged(context, batch, ALL)
    assert (blocked.blocked, blocked.deleted_files) == (2, 2)
    assert (images_of(context.engine, batch), files_in(Path(context.settings.output))) == ([], [])
    assert judged(context, batch, None).queued == 2
    work_off(context, batch)
    assert [(row["seed"], row["sha256"], row["key"]) for row in images_of(context.engine, batch)] == before
    assert files_in(Path(context.settings.output)) == [key for _, _, key in before]
    assert lane_differences(context.engine) == []


def test_a_policy_that_changes_while_images_are_judged_holds_for_all(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [FOX | {"seed": seed} for seed in range(24)]
    batch = submit(context.settings, context.engine, tmp_path, rows)
    run, done = Safety.run, list[Applied]()

    def judged_meanwhile(self: Safety, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        found = run(self, items)
        if not done and images_of(context.engine, batch):
            done.append(judged(context, batch, ALL))
        return found

    monkeypatch.setattr(Safety, "run", judged_meanwhile)
    work_off(context, batch)
    assert len(done) == 1
    assert done[0].released > 0
    assert states(context.engine) == {"blocked": 24}
    assert images_of(context.engine, batch) == []
    assert {job["error_text"][:23] for job in jobs_of(context.engine, batch)} == {"safety checker: concept"}
    assert {attempt["outcome"] for attempt in attempts_of(context.engine, batch)} == {"blocked"}
    assert lane_differences(context.engine) == []


@pytest.mark.parametrize("safety", ["quarantine", "block"])
def test_scores_of_two_checks_are_judged_as_the_worker_judged_them(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safety: str
) -> None:
    """The first check adds 0.01 for special care, the second doesn't."""
    checks = {Safety: scores(-0.05, care=0.005), SafetyOfUpscaled: scores(0.025, care=-0.03)}
    for check, found in checks.items():
        monkeypatch.setattr(check, "_scores", lambda _, items, found=found: [found for _ in items])
    batch = render(context, tmp_path, [FOX | {"upscale": 4}], safety=safety, safety_strength="lenient")
    (job,) = jobs_of(context.engine, batch)
    assert (job["state"], job["error_text"]) == ("blocked", "safety checker: concept 0 at +0.005")
    same = judged(context, batch, None, strength=SafetyStrength.LENIENT)
    assert (same.blocked, same.restored, same.queued) == (0, 0, 0)


def scores(concept: float, care: float) -> dict[str, tuple[float, ...]]:
    return {"concepts": (concept, *[-0.2] * 16), "special_care": (care, -0.2, -0.2)}


def test_images_judged_by_another_policy_are_not_stored(context: WorkerContext, tmp_path: Path) -> None:
    engine, batch = context.engine, submit(context.settings, context.engine, tmp_path, [FOX] * 2)
    lane = transitions.open_lane(engine, only_lane(engine, batch))
    assert lane is not None
    old = safety_of(lane.policy)
    first, second = take(engine, lane.id)
    transitions.complete(engine, [image(first)], safety=old)
    with engine.begin() as connection:
        connection.execute(text("SELECT id FROM batches FOR UPDATE"))
        outcomes: list[object] = []
        late = Thread(target=lambda: outcomes.append(completed(context, second, old)))
        late.start()
        wait_for_lock(engine)
        connection.execute(text("""UPDATE batches SET policy = policy || '{"safety_strength": "strong"}'"""))
    late.join()
    assert outcomes == [[second.id]], "it has waited for the policy, and looked at it again"
    assert len(images_of(engine, batch)) == 1
    assert transitions.release(engine, [(second.id, second.lease)]) == {second.id}
    assert transitions.claim(engine, lane.id, limit=1, worker="w", lease_s=60, safety=old) == []
    new = transitions.open_lane(engine, lane.id)
    assert new is not None
    (job,) = transitions.claim(engine, lane.id, limit=1, worker="w", lease_s=60, safety=safety_of(new.policy))
    transitions.complete(engine, [image(job)], safety=safety_of(new.policy))


def completed(context: WorkerContext, job: Any, safety: str) -> list[int]:
    """Complete a job; returns the jobs that were lost."""
    try:
        transitions.complete(context.engine, [image(job)], safety=safety)
    except LeaseLostError as error:
        return list(error.lost)
    return []


def test_flagged_batches_are_judged_as_if_they_were_to_be_blocked(
    context: WorkerContext, tmp_path: Path
) -> None:
    batch = render(context, tmp_path, [FOX | {"model": "flagged"}, FOX], safety="flag")
    assert judged(context, batch, None, action=SafetyAction.BLOCK).blocked == 1
    assert states(context.engine) == {"blocked": 1, "done": 1}
