"""Made-up measurements: lanes of a batch, and what workers did in them by quarters of an hour."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Engine

from jobs.forecast.queued_lanes import QueuedLane, queued_lanes
from jobs.job_dataclasses import LaneId
from jobs.queue.worker_registry import WorkerReport, report_worker
from jobs.states import WorkerActivity
from tests.factories import change, lanes_of, make_batch


def measured(
    engine: Engine,
    seconds: Sequence[float],
    device: str = "H200",
    joules: float | None = None,
    images: int = 100,
    **columns: object,
) -> LaneId:
    """A lane of a cancelled batch, whose images took so many seconds in each of the last quarters of an hour."""
    batch = make_batch(engine, [{"prompt": "fox"} | columns])
    (lane,) = lanes_of(engine, batch)
    change(engine, "UPDATE lanes SET chosen_at = now() WHERE id = :lane", lane=lane)
    change(engine, "UPDATE batches SET cancelled_at = now() WHERE id = :id", id=batch.id)
    add_quarters(engine, lane, seconds, device, joules, images)
    return lane


def add_quarters(
    engine: Engine,
    lane: LaneId,
    seconds: Sequence[float],
    device: str = "H200",
    joules: float | None = None,
    images: int = 100,
) -> None:
    """What a worker did in a lane, the newest quarter of an hour first."""
    for place, image_s in enumerate(seconds):
        change(
            engine,
            """INSERT INTO lane_usage (began_at, batch_id, lane_id, tenant, worker, device, worker_s, device_s, joules,
                images)
            SELECT date_bin('15 minutes', now(), 'epoch') - make_interval(mins => 15 * :place), batch_id, id, tenant,
                :worker, :device, :image_s * :images, :image_s * :images, CAST(:joules AS float) * :images, :images
            FROM lanes WHERE id = :lane""",
            place=place,
            lane=lane,
            worker=f"host:{device}",
            device=device,
            image_s=image_s,
            images=images,
            joules=joules,
        )


def start_workers(engine: Engine, number: int, device: str = "H200", pool: str = "default") -> None:
    """Workers that report to be idle."""
    for place in range(number):
        name = f"host-{device}-{pool}:{place}"
        report_worker(engine, WorkerReport(name, device, pool, activity=WorkerActivity.IDLE))


def planned(
    engine: Engine, jobs: int, not_before: datetime | None = None, **options: object
) -> list[QueuedLane]:
    """The lane of a batch that isn't submitted, like that of a batch of the tests' model."""
    columns = {key: value for key, value in options.items() if key in ("tenant", "width", "steps", "model")}
    batch = make_batch(engine, [{"prompt": "fox"} | columns])
    (lane,) = [each for each in queued_lanes(engine) if each.batch == batch.id]
    change(engine, "UPDATE batches SET cancelled_at = now() WHERE id = :id", id=batch.id)
    schedule = {key: value for key, value in options.items() if key in ("priority", "window")}
    return [replace(lane, batch=None, jobs=jobs, not_before=not_before, **schedule)]  # type: ignore[arg-type]
