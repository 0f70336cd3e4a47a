"""Checkers beside the model's own: image classifiers, whose labels flag images from a score on."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from sqlalchemy import Engine

from jobs.policy.safety_thresholds import SafetyThresholds
from jobs.queue.worker_health_reports import unhealthy_workers
from jobs.states import SafetyAction, SafetyStrength
from models.assess.safety_image_classifier import ImageClassifier
from scheduler.ingest.ingest import Ingested
from tests.factories import look, states
from tests.worker.contexts import files_in, images_of, jobs_of, only_lane, render, submit, worker_context_for
from tests.worker.test_judge import FOX, judged, work_off
from worker.lanes.lane_session import work
from worker.lanes.worker_context import WorkerContext
from worker.stages.safety_checks.safety_check_base_classes import merged

CLASSIFIER = "tiny-random-classifier"
NEVER = f"{CLASSIFIER}:third=2"


def labels_of(context: WorkerContext, folder: Path, **policy: str) -> dict[str, float]:
    """The scores of the fox, which nothing flags."""
    batch = render(context, folder, [FOX], safety_checkers=NEVER, **policy)
    (row,) = images_of(context.engine, batch)
    found: dict[str, float] = row["safety_scores"]["labels"][CLASSIFIER]
    return found


def scores_of_block(context: WorkerContext, batch: Ingested) -> list[dict[str, Any]]:
    statement = "SELECT detail FROM events WHERE batch_id = :id AND kind = 'blocked' ORDER BY id"
    return [event["detail"]["scores"] for event in look(context.engine, statement, id=batch.id)]


def test_each_label_has_a_score_in_the_image_row(context: WorkerContext, tmp_path: Path) -> None:
    batch = render(context, tmp_path, [FOX, FOX | {"seed": 8}], safety_checkers=NEVER)
    for row in images_of(context.engine, batch):
        scores = row["safety_scores"]
        assert list(scores["labels"]) == [CLASSIFIER]
        assert set(scores["labels"][CLASSIFIER]) == {"first", "second", "third"}
        assert sum(scores["labels"][CLASSIFIER].values()) == pytest.approx(1, abs=0.002)
        assert len(scores["concepts"]) == 17
        assert row["versions"]["safety_checkers"] == NEVER
        assert len(row["versions"][f"classifier_digest:{CLASSIFIER}"]) == 64
    plain = images_of(context.engine, render(context, tmp_path, [FOX]))[0]
    assert set(plain["safety_scores"]) == {"concepts", "special_care"}
    assert not any("classifier" in name for name in plain["versions"])


def test_a_label_flags_from_its_threshold_on(context: WorkerContext, tmp_path: Path) -> None:
    labels = labels_of(context, tmp_path)
    name, score = max(labels.items(), key=lambda label: label[1])
    above = render(context, tmp_path, [FOX], safety_checkers=f"{CLASSIFIER}:{name}={score + 0.001:.3f}")
    assert images_of(context.engine, above)[0]["safety_verdict"] == "safe"
    blocked = render(context, tmp_path, [FOX], safety_checkers=f"{CLASSIFIER}:{name}={score:.3f}")
    (job,) = jobs_of(context.engine, blocked)
    assert (job["state"], job["attempt"]) == ("blocked", 1)
    assert job["error_text"] == f"safety checker: {CLASSIFIER}:{name} at {score:g}"
    (scores,) = scores_of_block(context, blocked)
    assert (scores["labels"][CLASSIFIER], len(scores["concepts"])) == (labels, 17)
    flagged = render(
        context, tmp_path, [FOX], safety="flag", safety_checkers=f"{CLASSIFIER}:{name}={score:.3f}"
    )
    assert images_of(context.engine, flagged)[0]["safety_verdict"] == "flagged"


def test_another_threshold_frees_and_blocks_by_the_stored_scores(
    context: WorkerContext, tmp_path: Path
) -> None:
    name, score = max(labels_of(context, tmp_path).items(), key=lambda label: label[1])
    strict, lenient = f"{CLASSIFIER}:{name}={score:.3f}", f"{CLASSIFIER}:{name}={score + 0.001:.3f}"
    batch = render(context, tmp_path, [FOX], safety="quarantine", safety_checkers=strict)
    assert states(context.engine)["blocked"] == 1
    assert [name for name in files_in(Path(context.settings.output)) if "/quarantine/" in name]
    assert judged(context, batch, None, checkers=lenient).restored == 1
    (row,) = images_of(context.engine, batch)
    assert (row["safety_verdict"], row["versions"]["safety_checkers"]) == ("safe", lenient)
    again = judged(context, batch, None, checkers=strict, action=SafetyAction.BLOCK)
    assert (again.blocked, again.deleted_files) == (1, 1)
    (job,) = jobs_of(context.engine, batch)
    assert job["error_text"] == f"safety checker: {CLASSIFIER}:{name} at {score:g}"
    assert judged(context, batch, None, checkers=lenient).queued == 1
    work_off(context, batch)
    assert images_of(context.engine, batch)[0]["sha256"] == row["sha256"]


def test_images_of_another_threshold_are_not_copied(
    context: WorkerContext, engine: Engine, tmp_path: Path
) -> None:
    own = context.settings.model_copy(update={"reuse": True})
    with worker_context_for(own, engine, context.model_cache) as copying:
        _copies_of_same_thresholds(copying, tmp_path)


def _copies_of_same_thresholds(context: WorkerContext, tmp_path: Path) -> None:
    labels_of(context, tmp_path)
    batch = render(context, tmp_path, [FOX], safety_checkers=f"{CLASSIFIER}:first=2")
    assert images_of(context.engine, batch)[0]["reused_from"] is None
    same = render(context, tmp_path, [FOX | {"meta": {"n": 2}}], safety_checkers=NEVER)
    (copied,) = images_of(context.engine, same)
    assert copied["reused_from"] is not None
    assert CLASSIFIER in copied["safety_scores"]["labels"]


def test_what_is_upscaled_is_checked_again_and_the_higher_scores_are_kept(
    context: WorkerContext, tmp_path: Path
) -> None:
    batch = render(context, tmp_path, [FOX | {"upscale": 4}], safety_checkers=NEVER)
    once = render(context, tmp_path, [FOX | {"upscale": 4}], safety_checkers=NEVER, check_upscaled="false")
    twice_labels, once_labels = (
        images_of(context.engine, each)[0]["safety_scores"]["labels"][CLASSIFIER] for each in (batch, once)
    )
    assert all(twice_labels[name] >= once_labels[name] for name in once_labels)
    assert sum(twice_labels.values()) > 1, "the highest of two images"


def test_a_classifier_that_computes_nothing_lets_no_image_leave(
    context: WorkerContext, tmp_path: Path, models_folder: Path
) -> None:
    _classifier(models_folder, "overflows", 3e38)
    batch = render(
        context, tmp_path, [FOX], safety="flag", safety_checkers="overflows:third=2", max_attempts="1"
    )
    (job,) = jobs_of(context.engine, batch)
    assert (job["state"], job["error_kind"]) == ("failed", "safety")
    assert "overflows computed nothing usable" in job["error_text"]
    assert not files_in(Path(context.settings.output))


@pytest.mark.parametrize(
    ("checkers", "reason"),
    [
        ("not-there:nsfw=0.5", "no model is called 'not-there'"),
        (f"{CLASSIFIER}:nsfw=0.5", "has the labels first, second, third, but"),
        (CLASSIFIER, "but the batch's `safety_checkers` names none"),
        ("damaged:third=0.5", "its classifier.weight holds values that are not finite"),
        (
            "other-labels:a=0.5",
            "has the labels first, second, third, but its card, 'other-labels', says a, b, c",
        ),
    ],
)
def test_a_checker_that_cant_be_used_charges_no_job(
    context: WorkerContext, tmp_path: Path, models_folder: Path, checkers: str, reason: str
) -> None:
    if checkers.startswith("damaged"):
        _classifier(models_folder, "damaged", float("nan"))
    if checkers.startswith("other"):
        _classifier(models_folder, "other-labels", 1.0, labels=("a", "b", "c"))
    batch = render(context, tmp_path, [FOX], safety_checkers=checkers)
    (job,) = jobs_of(context.engine, batch)
    assert (job["state"], job["attempt"]) == ("queued", 0)
    (worker,) = unhealthy_workers(context.engine)
    assert reason in str(worker)


def test_a_checkpoint_that_was_exchanged_is_loaded_for_a_batch_that_names_its_labels(
    context: WorkerContext, tmp_path: Path, models_folder: Path
) -> None:
    _classifier(models_folder, "exchanged", 1.0)
    assert images_of(context.engine, render(context, tmp_path, [FOX], safety_checkers="exchanged:first=2"))
    shutil.rmtree(models_folder / "exchanged")
    _classifier(models_folder, "exchanged", 2.0, labels=("a", "b", "c"))
    config = models_folder / "exchanged" / "config.json"
    config.write_text(config.read_text().replace("first", "a").replace("second", "b").replace("third", "c"))
    batch = render(
        context, tmp_path, [FOX], safety_checkers="exchanged:a=0.001,exchanged:b=0.001,exchanged:c=0.001"
    )
    (job,) = jobs_of(context.engine, batch)
    assert job["state"] == "blocked"


def test_without_a_score_of_each_label_no_image_leaves_and_no_job_is_charged(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageClassifier, "score", lambda _, images: [{"first": 0.1} for _ in images])
    batch = submit(context.settings, context.engine, tmp_path, [FOX], safety_checkers=NEVER)
    work(context, only_lane(context.engine, batch))
    (job,) = jobs_of(context.engine, batch)
    assert (job["state"], job["attempt"]) == ("queued", 0)
    assert f"{CLASSIFIER} gives no score for third" in unhealthy_workers(context.engine)[0].reason


def test_of_scores_that_both_have_the_higher_ones_are_kept() -> None:
    care = {"special_care": (-0.1, -0.1, -0.1)}
    before = care | {"concepts": (0.1, -0.2), "labels": {"a": {"x": 0.5, "y": 0.2}}}
    now = care | {"concepts": (0.0, -0.1), "labels": {"a": {"x": 0.4, "y": 0.3}, "b": {"z": 2.0}}}
    assert merged(before, now) == care | {
        "concepts": (0.1, -0.1),
        "labels": {"a": {"x": 0.5, "y": 0.3}, "b": {"z": 2.0}},
    }
    assert merged(None, now) == now
    assert merged({"labels": {"p": {"Hate": 2.0}}}, {"concepts": (0.1,)}) == {
        "labels": {"p": {"Hate": 2.0}},
        "concepts": (0.1,),
    }


def test_strength_and_labels_flag_independently() -> None:
    scores = {
        "concepts": [-0.01] + [-0.5] * 16,
        "special_care": [-0.5] * 3,
        "labels": {"a": {"x": 0.5}, "content-safety": {"Hate": 2}},
    }
    strong = SafetyThresholds.of(SafetyStrength.STRONG, None, "a:x=0.6")
    assert strong.above(scores) == {0: 0.01}
    both = SafetyThresholds.of(SafetyStrength.STRONG, None, "a:x=0.5,content-safety:Hate=2,gone:y=0.1")
    assert both.above(scores) == {0: 0.01, "a:x": 0.5, "content-safety:Hate": 2}
    assert both.above({"labels": {"a": {"x": 0.7}}}) == {"a:x": 0.7}


def _classifier(
    models_folder: Path, id: str, largest: float, labels: tuple[str, ...] = ("first", "second", "third")
) -> None:
    """The tiny classifier; the largest weight of its head has this size."""
    if (models_folder / id).exists():
        return
    shutil.copytree(models_folder / CLASSIFIER, models_folder / id)
    weights = load_file(models_folder / id / "model.safetensors")
    head = weights["classifier.weight"]
    weights["classifier.weight"] = head / head.abs().max() * largest
    save_file(weights, models_folder / id / "model.safetensors", metadata={"format": "pt"})
    (models_folder / "cards" / f"{id}.toml").write_text(
        f'id = "{id}"\ntitle = "A test"\nfamily = "classifier"\nsummary = "A test."\nlicense = "CC0"\n'
        f'limits = "All."\nsource = "{id}"\nlabels = {list(labels)}\nthresholds = ["{labels[0]}=0.5"]\n'
    )
