"""A target of distinct images, with real images: twins are told by their hashes, and replaced by other seeds."""

from pathlib import Path

from jobs.batches.accepted_image_quotas import make_up, short
from jobs.batches.evaluate_accept_condition import rejected
from tests.factories import lanes_of
from tests.worker.contexts import images_of, render
from worker.lanes.lane_session import work
from worker.lanes.worker_context import WorkerContext


def test_twins_are_replaced_until_all_are_distinct(context: WorkerContext, tmp_path: Path) -> None:
    twins = [{"prompt": "a red fox", "steps": 2, "seed": 7}] * 3
    batch = render(context, tmp_path, twins, target="3", accept="not duplicate", max_replacement_ratio="3")
    assert len({row["phash"] for row in images_of(context.engine, batch)}) == 1
    assert len(short(context.engine, batch.id)) == 1
    while make_up(context.engine, batch.id):
        for lane in lanes_of(context.engine, batch):
            work(context, lane)
    assert short(context.engine, batch.id) == []
    images = images_of(context.engine, batch)
    twice = rejected(context.engine, batch.id, 100)
    assert len(images) == 3 + len(twice) >= 5
    original = min(image["id"] for image in images)
    assert sum(each["duplicate_of"] == original for each in twice) >= 2
