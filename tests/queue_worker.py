"""`python -m tests.queue_worker DATABASE JOBS`: a worker that renders nothing, but uses each of a worker's statements.

It makes the tables and a batch, takes jobs of it, prints its revision and waits for a line; then it ends some jobs in
each way, gives back others, takes more, prints `idle` and waits for another line. Tests of an upgrade run it from the
source of the version before.
"""

import sys

from sqlalchemy import Engine

import migrations
from jobs.db.engine import connect
from jobs.job_dataclasses import LaneId
from jobs.queue import fair_share, transitions
from jobs.queue.fair_share import TimeSlice
from jobs.queue.worker_health_reports import note_stored, report_health
from jobs.queue.worker_registry import WorkerReport, forget_worker, report_worker
from jobs.states import ErrorKind, WorkerActivity
from tests.factories import failure, held, image, make_batch, take

NAME = "old:1"
BATCH = "foxes"
TAKEN = 8
HELD = 1
"""How many of the jobs that it has taken it leaves in its hands."""


def main() -> None:
    """Work on the database of the first argument, with a batch of as many jobs as the second says."""
    engine = connect(sys.argv[1])
    migrations.upgrade(engine)
    make_batch(engine, int(sys.argv[2]), name=BATCH)
    work(engine)
    forget_worker(engine, NAME)


def work(engine: Engine) -> None:
    """Take jobs, wait, end them in each way, take more, wait."""
    _report(engine, WorkerActivity.STARTING)
    time_slice = _pick(engine)
    lane = transitions.open_lane(engine, time_slice.lane)
    _report(engine, WorkerActivity.BUSY, time_slice.lane)
    jobs = take(engine, time_slice.lane, TAKEN, worker=NAME)
    _await_next(migrations.head())
    assert transitions.extend(engine, held(*jobs), 60) == {job.id for job in jobs}
    assert transitions.open_lane(engine, time_slice.lane) == lane
    transitions.complete(engine, [image(job) for job in jobs[:3]])
    note_stored(engine, NAME)
    transitions.fail(engine, [failure(jobs[3])], delay_s=0)
    transitions.block(engine, [failure(jobs[4], ErrorKind.SAFETY)])
    transitions.give_back(engine, [failure(jobs[5])])
    transitions.release(engine, held(jobs[6]))
    for reason in ("no disk", None):
        faults = {time_slice.lane: reason} if reason else None
        report_health(engine, NAME, "cpu", reason, lane_faults=faults)
    _end(engine, time_slice, 3)
    time_slice = _pick(engine)
    more = take(engine, time_slice.lane, TAKEN, worker=NAME)
    assert len(more) == TAKEN
    transitions.complete(engine, [image(job) for job in more])
    _end(engine, time_slice, len(more))
    _report(engine, WorkerActivity.IDLE)
    _await_next("idle")


def _pick(engine: Engine) -> TimeSlice:
    time_slice = fair_share.pick_lane(engine, slice_s=60)
    assert time_slice is not None
    return time_slice


def _end(engine: Engine, time_slice: TimeSlice, images: int) -> None:
    used: dict[str, float] = {"used_s": 1.0, "images": images, "batch_s": 1.0}
    if not hasattr(fair_share, "SliceUse"):  # before revision 0029
        fair_share.end_time_slice(engine, time_slice, **used)  # type: ignore[unreachable, call-arg]
        return
    use = fair_share.SliceUse(used_s=1.0, images=images, batch_s=1.0)
    fair_share.end_time_slice(engine, time_slice, NAME, "cpu", use)


def _report(engine: Engine, activity: WorkerActivity, lane: LaneId | None = None) -> None:
    report_worker(engine, WorkerReport(NAME, "cpu", "default", activity, lane, frozenset({"sketcher"})))


def _await_next(said: str) -> None:
    print(said, flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
