"""The trained safety checker through the whole pipeline: verdicts of stored pictures, held against geometry."""

from pathlib import Path

import numpy as np

from jobs.batches import actions
from jobs.batches.dead_letters import failures
from jobs.batches.drop_jobs_and_delete_batches import archive
from jobs.queue import transitions
from models.shapes import quality
from models.shapes.reading import read
from models.shapes.training.networks.safety_checker import forbidden_in
from tests.factories import lanes_of, look
from tests.worker.contexts import images_of, jobs_of, render
from worker.imaging.encode import decode
from worker.lanes.lane_session import work
from worker.lanes.worker_context import WorkerContext


def test_forbidden_pictures_are_flagged_and_others_are_not(context: WorkerContext, tmp_path: Path) -> None:
    rng = np.random.default_rng(21)
    prompts = quality.forbidden_prompts(rng, 24) + quality.random_prompts(rng, 24)
    rows = [{"prompt": prompt, "model": "shapes"} for prompt in prompts]
    batch = render(context, tmp_path, rows, safety="flag")
    images = images_of(context.engine, batch)
    assert len(images) == len(rows)
    verdicts = []
    for image in images:
        scene = read(decode((Path(context.settings.output) / image["key"]).read_bytes()))
        if scene is not None:
            verdicts.append((any(forbidden_in(scene)), image["safety_verdict"] == "flagged"))
    bad = [is_flagged for is_bad, is_flagged in verdicts if is_bad]
    good = [is_flagged for is_bad, is_flagged in verdicts if not is_bad]
    assert len(bad) >= 20
    assert len(good) >= 15
    assert sum(bad) >= len(bad) - 1
    assert sum(good) <= 1


def test_a_forbidden_prompt_is_blocked_and_leaves_nothing(context: WorkerContext, tmp_path: Path) -> None:
    rows = [{"prompt": "a large red triangle, on a white background", "model": "shapes"}] * 4
    batch = render(context, tmp_path, rows)
    jobs = jobs_of(context.engine, batch)
    assert [job["state"] for job in jobs] == ["blocked"] * 4
    assert images_of(context.engine, batch) == []
    assert all(job["error_text"].startswith("safety checker: red triangle at +0.") for job in jobs)


def test_blocked_jobs_keep_all_scores_also_once_they_are_archived(
    context: WorkerContext, tmp_path: Path
) -> None:
    rows = [{"prompt": "a large red triangle", "model": "shapes"}, {"prompt": "nsfw", "model": "shapes"}]
    batch = render(context, tmp_path, rows)
    found = failures(context.engine, batch.id)
    assert [job["state"] for job in found] == ["blocked", "blocked"]
    assert found[1]["scores"] is None, "no image was made of it"
    scores = found[0]["scores"]
    assert (len(scores["concepts"]), len(scores["special_care"])) == (17, 3)
    assert scores["concepts"][0] > 0
    transitions.retry(context.engine, batch.id, ["blocked"], None)
    while sum(work(context, lane) for lane in lanes_of(context.engine, batch)):
        pass
    again = failures(context.engine, batch.id)
    assert again[0]["scores"] != scores, "with another seed, it is another image"
    name = look(context.engine, "SELECT name FROM batches")[0]["name"]
    assert archive(context.engine, actions.status(context.engine, name)) == 2
    archived = failures(context.engine, batch.id)
    assert [job["scores"] for job in archived] == [job["scores"] for job in again]
    assert [job["error_text"] for job in archived] == [job["error_text"] for job in again]
