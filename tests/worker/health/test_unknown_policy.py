"""A worker leaves batches alone whose policy has a key that only a later version knows."""

from pathlib import Path

from jobs.queue.worker_health_reports import unhealthy_workers
from tests.factories import change
from tests.worker.contexts import images_of, jobs_of, submit
from worker.lanes.lane_session import WorkerContext
from worker.lanes.worker_loop import follow

FOX = {"prompt": "a red fox", "steps": 2, "seed": 7}


def test_a_batch_of_a_later_version_waits_for_its_workers_and_others_go_on(
    context: WorkerContext, tmp_path: Path
) -> None:
    later = submit(context.settings, context.engine, tmp_path, [FOX])
    change(context.engine, """UPDATE batches SET policy = '{"grain": 3}'""")
    known = submit(context.settings, context.engine, tmp_path, [FOX])
    for lane in (1, 2, 1):
        follow(context, lane)
    assert [(job["state"], job["attempt"]) for job in jobs_of(context.engine, later)] == [("queued", 0)]
    assert len(images_of(context.engine, known)) == 1
    (worker,) = unhealthy_workers(context.engine)
    assert (
        worker.reason
        == f"can't follow the policy of {later.name}: only a later version of nightmill knows grain"
    )


def test_a_worker_that_was_updated_goes_on(context: WorkerContext, tmp_path: Path) -> None:
    """The key has gone, which is the same to a worker as a version that knows it."""
    later = submit(context.settings, context.engine, tmp_path, [FOX])
    change(context.engine, """UPDATE batches SET policy = '{"grain": 3}'""")
    follow(context, 1)
    change(context.engine, "UPDATE batches SET policy = '{}'")
    while not images_of(context.engine, later):
        follow(context, 1)
    assert unhealthy_workers(context.engine) == []
