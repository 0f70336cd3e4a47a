"""The trained safety checker through the whole pipeline: verdicts of stored pictures, held against geometry."""

from pathlib import Path

import numpy as np

from models.shapes import quality
from models.shapes.reading import read
from models.shapes.training.networks.safety_checker import forbidden_in
from tests.worker.contexts import images_of, jobs_of, render
from worker.imaging.encode import decode
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
    assert [job["state"] for job in jobs_of(context.engine, batch)] == ["blocked"] * 4
    assert images_of(context.engine, batch) == []
