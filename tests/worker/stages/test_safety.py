"""What happens to prompts and pictures that the checks find: nothing leaves unless the batch's policy lets it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from jobs.queue.worker_health_reports import unhealthy_workers
from jobs.settings import Settings
from jobs.states import WatermarkMethod
from models.assess.safety_checker import SafetyChecker, SafetyScores
from models.errors import SafetyUnknownError
from tests.factories import states
from tests.worker.contexts import (
    attempts_of,
    files_in,
    images_of,
    jobs_of,
    render,
    stage_context,
    worker_context_for,
)
from tests.worker.test_bisect import items
from worker.imaging.encode import Pixels, decode
from worker.item import PipelineItem
from worker.lanes.worker_context import WorkerContext
from worker.stages.safety_checks.safety import Safety

FOX = {"prompt": "a red fox", "steps": 2, "seed": 7}
ACTIONS = ("flag", "blacken", "blur")


def output(context: WorkerContext) -> Path:
    return Path(context.settings.output)


def pictures(context: WorkerContext, folder: Path, rows: list[dict[str, Any]], **policy: str) -> list[Pixels]:
    """The pixels of a batch, without the mark, which would hide what is the same."""
    batch = render(context, folder, rows, watermark="off", **policy)
    return [decode((output(context) / row["key"]).read_bytes()) for row in images_of(context.engine, batch)]


def test_block_lets_no_flagged_picture_leave(context: WorkerContext, tmp_path: Path) -> None:
    batch = render(context, tmp_path, [FOX | {"model": "flagged"}] * 2)
    assert states(context.engine) == {"blocked": 2}
    assert images_of(context.engine, batch) == []
    assert images_of(context.engine, batch) == []
    assert not list(output(context).rglob("*.png"))
    for job in jobs_of(context.engine, batch):
        assert job["error_kind"] == "safety"
        assert job["error_text"].startswith("safety checker: concept 0 at +")
        assert job["attempt"] == 1
    assert [attempt["outcome"] for attempt in attempts_of(context.engine, batch)] == ["blocked"] * 2


@pytest.mark.parametrize("action", ACTIONS)
def test_other_actions_store_the_picture_with_its_verdict(
    context: WorkerContext, tmp_path: Path, action: str
) -> None:
    batch = render(context, tmp_path, [FOX | {"model": "flagged"}, FOX], safety=action)
    found, safe = images_of(context.engine, batch)
    assert found["safety_verdict"] == {"flag": "flagged", "blacken": "blackened", "blur": "blurred"}[action]
    assert found["safety_reason"].startswith("safety checker: concept 0 at +")
    assert len(found["safety_scores"]["concepts"]) == 17
    assert max(found["safety_scores"]["concepts"]) > 0
    assert len(found["safety_scores"]["special_care"]) == 3
    assert found["watermark_bit_accuracy"] == (None if action == "blacken" else 1)
    assert (safe["safety_verdict"], safe["safety_reason"]) == ("safe", None)
    assert max(safe["safety_scores"]["concepts"]) <= 0


def test_a_batch_has_a_mark_of_its_own(context: WorkerContext, tmp_path: Path) -> None:
    (own,) = images_of(context.engine, render(context, tmp_path, [FOX], watermark_text="ACME-7"))
    (other,) = images_of(context.engine, render(context, tmp_path, [FOX]))
    assert (own["watermark"], own["watermark_bit_accuracy"]) == ("ACME-7", 1)
    assert other["watermark"] == context.settings.watermark == "NMIL"
    assert own["sha256"] != other["sha256"]


def test_flagged_pictures_are_shown_blackened_or_blurred(context: WorkerContext, tmp_path: Path) -> None:
    (plain,) = pictures(context, tmp_path, [FOX])
    rows = [FOX | {"model": "flagged"}]
    (flagged,), (black,), (blurred,) = (
        pictures(context, tmp_path, rows, safety=action) for action in ACTIONS
    )
    assert np.array_equal(flagged, plain)
    assert not black.any()
    assert blurred.std() < plain.std() / 2
    assert not np.array_equal(blurred, plain)


def test_what_was_withheld_is_not_drawn_again_by_the_upscaler(context: WorkerContext, tmp_path: Path) -> None:
    rows = [FOX | {"model": "flagged", "upscale": 4}]
    (black,) = pictures(context, tmp_path, rows, safety="blacken")
    assert black.shape == (256, 256, 3)
    assert not black.any()
    (blurred,) = pictures(context, tmp_path, rows, safety="blur")
    assert np.array_equal(blurred, blurred[::4, ::4].repeat(4, axis=0).repeat(4, axis=1))
    (drawn,) = pictures(context, tmp_path, rows, safety="flag")
    assert drawn.shape == (256, 256, 3)
    assert drawn.std() > 0


@pytest.fixture
def flags_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker takes offence at whatever is wider than 64 pixels."""
    score = SafetyChecker.score

    def scored(checker: SafetyChecker, images: Sequence[Pixels]) -> list[SafetyScores]:
        return [
            replace(each, concepts=(1.5, *each.concepts[1:])) if image.shape[1] > 64 else each
            for each, image in zip(score(checker, images), images, strict=True)
        ]

    monkeypatch.setattr(SafetyChecker, "score", scored)


@pytest.mark.usefixtures("flags_large")
def test_what_the_upscaler_has_made_is_checked_before_it_leaves(
    context: WorkerContext, tmp_path: Path
) -> None:
    rows = [FOX | {"upscale": 4}, FOX]
    batch = render(context, tmp_path, rows)
    upscaled, plain = jobs_of(context.engine, batch)
    assert (upscaled["state"], upscaled["error_text"]) == ("blocked", "safety checker: concept 0 at +1.500")
    assert plain["state"] == "done"
    for action, verdict in (("flag", "flagged"), ("blacken", "blackened"), ("quarantine", None)):
        images = images_of(context.engine, render(context, tmp_path, rows, safety=action))
        assert [image["safety_verdict"] for image in images] == [verdict, "safe"][verdict is None :]
        if verdict:
            assert images[0]["safety_scores"]["concepts"][0] == 1.5
            assert images[0]["safety_scores"]["concepts"][1] < 0
            assert images[0]["timings"].keys() >= {"safety", "safety_of_upscaled"}


@pytest.mark.usefixtures("flags_large")
def test_upscaled_images_are_checked_once_if_the_batch_says_so(
    context: WorkerContext, tmp_path: Path
) -> None:
    (image,) = images_of(
        context.engine, render(context, tmp_path, [FOX | {"upscale": 4}], check_upscaled="false")
    )
    assert (image["safety_verdict"], "safety_of_upscaled" in image["timings"]) == ("safe", False)


@pytest.mark.parametrize("method", ["dwtDctSvd", "dwtDct", "tiled"])
@pytest.mark.parametrize("watermark", ["require", "best-effort", "off"])
def test_every_pixel_of_a_blackened_file_is_black_and_its_row_says_that_it_has_no_mark(
    context: WorkerContext, tmp_path: Path, method: str, watermark: str
) -> None:
    settings = context.settings.model_copy(update={"watermark_method": WatermarkMethod(method)})
    flagged = FOX | {"model": "flagged"}
    with worker_context_for(settings, context.engine, context.model_cache) as marking:
        for kind, quality in (("png", "95"), ("webp", "100"), ("webp", "80"), ("jpeg", "95"), ("jpeg", "30")):
            given = {"safety": "blacken", "format": kind, "quality": quality, "watermark": watermark}
            rows = [flagged, flagged | {"upscale": 4}]
            for image in images_of(context.engine, render(marking, tmp_path, rows, **given)):
                assert not decode((output(context) / image["key"]).read_bytes()).any(), given
                assert (image["safety_verdict"], image["watermark"]) == ("blackened", None)
                assert (image["watermark_method"], image["watermark_bit_accuracy"]) == (None, None)
    assert set(states(context.engine)) == {"done"}


def test_safe_images_of_a_batch_that_blackens_are_marked(context: WorkerContext, tmp_path: Path) -> None:
    rows = [FOX | {"model": "flagged"}, FOX]
    black, safe = images_of(context.engine, render(context, tmp_path, rows, safety="blacken"))
    assert (black["watermark"], safe["watermark"]) == (None, "NMIL")


def test_a_copy_of_a_blackened_picture_is_black_and_unmarked_too(
    context: WorkerContext, tmp_path: Path
) -> None:
    rows = [FOX | {"model": "flagged"}]
    settings = context.settings.model_copy(update={"reuse": True})
    with worker_context_for(settings, context.engine, context.model_cache) as reusing:
        first, again = (
            images_of(context.engine, render(reusing, tmp_path, rows, safety="blacken"))[0] for _ in range(2)
        )
    assert (again["reused_from"], again["safety_verdict"]) == (first["id"], "blackened")
    assert again["watermark"] is None
    assert not decode((output(context) / again["key"]).read_bytes()).any()


def test_a_prompt_with_a_forbidden_term_is_never_drawn(context: WorkerContext, tmp_path: Path) -> None:
    batch = render(context, tmp_path, [FOX, FOX | {"prompt": "a naked man, oil on canvas"}, FOX])
    assert [job["state"] for job in jobs_of(context.engine, batch)] == ["done", "blocked", "done"]
    blocked = jobs_of(context.engine, batch)[1]
    assert (blocked["error_kind"], blocked["error_text"]) == ("safety", "prompt holds 'naked man'")
    assert [row["ordinal"] for row in images_of(context.engine, batch)] == [0, 2]
    assert len(files_in(output(context))) == 2


@pytest.mark.parametrize("action", ACTIONS)
def test_a_forbidden_prompt_under_other_actions(context: WorkerContext, tmp_path: Path, action: str) -> None:
    batch = render(context, tmp_path, [FOX | {"prompt": "a naked man"}], safety=action)
    (image,) = images_of(context.engine, batch)
    assert image["safety_verdict"] == {"flag": "flagged", "blacken": "blackened", "blur": "blurred"}[action]
    assert image["safety_reason"] == "prompt holds 'naked man'"
    assert len(image["safety_scores"]["concepts"]) == 17


@pytest.mark.parametrize("action", ["block", "flag"])
def test_a_checker_that_computes_nothing_lets_nothing_leave(
    context: WorkerContext, tmp_path: Path, action: str
) -> None:
    batch = render(context, tmp_path, [FOX | {"model": "unjudged"}] * 2, safety=action, max_attempts="2")
    assert states(context.engine) == {"failed": 2}
    assert images_of(context.engine, batch) == []
    assert not list(output(context).rglob("*.png"))
    assert images_of(context.engine, batch) == []
    attempts = attempts_of(context.engine, batch)
    assert sorted(row["outcome"] for row in attempts) == ["failed", "failed", "retried", "retried"]
    assert {row["error_kind"] for row in attempts} == {"safety"}
    assert "must not leave" in attempts[0]["error_text"]


@pytest.mark.parametrize(
    ("concepts", "special_care", "told"),
    [
        ([-0.1] * 16, [-0.1] * 3, "16 concepts and 3 of special care"),
        ([-0.1] * 17, [0.1], "17 concepts and 1 of special care"),
        ([-0.1] * 17, [0.1, -0.1, -0.1, -0.1], "17 concepts and 4 of special care"),
        ([-0.1] * 16 + [float("nan")], [-0.1] * 3, "not finite"),
        ([-0.1] * 17, [0.1, float("inf"), -0.1], "not finite"),
    ],
)
def test_scores_that_are_not_one_of_each_concept_let_no_image_pass(
    settings: Settings, concepts: list[float], special_care: list[float], told: str
) -> None:
    found = SimpleNamespace(concepts=tuple(concepts), special_care=tuple(special_care))
    with pytest.raises(SafetyUnknownError, match=told):
        judging(settings, [found]).run(drawn(1))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_results_than_images_lets_none_pass(settings: Settings, count: int) -> None:
    found = SimpleNamespace(concepts=(-0.1,) * 17, special_care=(-0.1,) * 3)
    with pytest.raises(SafetyUnknownError, match=f"{count} results for 2 images"):
        judging(settings, [found] * count).run(drawn(2))


def judging(settings: Settings, found: list[Any]) -> Safety:
    """The stage with a checker that returns this, whatever it is given."""
    checker = SimpleNamespace(score=lambda _: found, concept_names=())
    context = replace(stage_context(settings), lane_models=cast("Any", SimpleNamespace(safety=checker)))
    return Safety(context)


def drawn(count: int) -> list[PipelineItem]:
    return [replace(item, pixels=np.zeros((8, 8, 3), np.uint8)) for item in items(count)]


def test_a_model_without_a_checker_draws_nothing(context: WorkerContext, tmp_path: Path) -> None:
    batch = render(context, tmp_path, [FOX | {"model": "no-checker"}], safety="flag", max_attempts="1")
    (job,) = jobs_of(context.engine, batch)
    assert (job["state"], job["attempt"]) == ("queued", 0)
    (worker,) = unhealthy_workers(context.engine)
    assert "model 'no-checker' has no safety checker: name one in its card" in worker.reason
    assert images_of(context.engine, batch) == []
    assert not list(output(context).rglob("*.png"))
