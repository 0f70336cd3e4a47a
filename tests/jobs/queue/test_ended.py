"""Batches and lanes that have ended: nobody looks at them, and whoever queues jobs there again is seen, or refused."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, text

from jobs.batches import accepted_image_quotas, actions, drop_jobs_and_delete_batches
from jobs.errors import UsageError
from jobs.job_dataclasses import Job
from jobs.queue import canary_rollout, fair_share, transitions
from jobs.queue import lane_counts_and_low_watermarks as lane_counts
from jobs.states import RETRYABLE, ErrorKind
from scheduler.ingest.ingest import Ingested
from tests.factories import (
    change,
    expire,
    failure,
    image,
    lanes_of,
    look,
    make_batch,
    make_lane,
    states,
    take,
    wait_for_lock,
)
from tests.jobs.queue.test_query_plans import CLAIM, TIME_SLICE, is_scan_of, looked_at, plan_of


def take_all(engine: Engine, batch: Ingested) -> list[Job]:
    return [job for lane in lanes_of(engine, batch) for job in take(engine, lane)]


def ended_badly(engine: Engine, jobs: int = 3) -> Ingested:
    """A batch whose jobs have all failed for good."""
    batch = make_batch(engine, jobs)
    transitions.fail(
        engine, [failure(job, ErrorKind.BAD_INPUT) for job in take_all(engine, batch)], delay_s=0
    )
    return batch


def test_what_was_queued_again_since_somebody_looked_is_not_dropped(engine: Engine, tmp_path: Any) -> None:
    batch = ended_badly(engine)
    seen = actions.status(engine, batch.name)
    assert actions.retry(engine, batch.id) == 3
    for remove in (drop_jobs_and_delete_batches.archive, drop_jobs_and_delete_batches.delete):
        with pytest.raises(UsageError, match="has 3 jobs that haven't ended"):
            remove(engine, seen)
    assert (states(engine), actions.status(engine, batch.name).archived_at) == ({"queued": 3}, None)
    assert len(take_all(engine, batch)) == 3


def test_a_batch_that_is_being_archived_takes_nothing_back(engine: Engine) -> None:
    """The mark is there, the jobs are not gone yet: nobody queues them again, nobody claims."""
    batch = ended_badly(engine)
    change(engine, "UPDATE batches SET archived_at = now()")
    assert transitions.retry(engine, batch.id, RETRYABLE, None) == 0
    change(engine, "UPDATE jobs SET state = 'queued', finished_at = NULL, not_before = NULL")
    assert take_all(engine, batch) == []
    assert fair_share.pick_lane(engine, slice_s=60) is None


@pytest.mark.parametrize("first", ["retry", "archive"])
def test_archive_and_retry_wait_for_one_another(engine: Engine, first: str) -> None:
    batch = ended_badly(engine)
    seen = actions.status(engine, batch.name)
    with ThreadPoolExecutor(1) as thread, engine.connect() as connection:
        if first == "retry":
            values = {"batch": batch.id, "states": ["failed"], "kind": None, "same_seed": False, "limit": 10}
            connection.execute(transitions._RETRY, values)
            second = thread.submit(drop_jobs_and_delete_batches.archive, engine, seen)
        else:
            connection.execute(drop_jobs_and_delete_batches._LOCK, {"batch": batch.id})
            mark = {"batch": batch.id, "ended_before_s": None}
            connection.execute(drop_jobs_and_delete_batches._MARK, mark)
            second = thread.submit(actions.retry, engine, batch.id)
        wait_for_lock(engine)
        connection.commit()
        with pytest.raises(UsageError, match="has 3 jobs that" if first == "retry" else "is archived"):
            second.result()
    assert states(engine) == ({"queued": 3} if first == "retry" else {"failed": 3})


def test_replacements_that_come_too_late_for_a_cancelled_batch_are_not_queued(engine: Engine) -> None:
    batch = make_batch(engine, 2, target=2)
    transitions.fail(engine, [failure(job) for job in take_all(engine, batch)], delay_s=0)
    change(engine, "UPDATE jobs SET state = 'failed', finished_at = now()")
    with ThreadPoolExecutor(1) as thread, engine.begin() as connection:
        connection.execute(text("UPDATE batches SET cancelled_at = now()"))
        late = thread.submit(accepted_image_quotas.make_up, engine)
        wait_for_lock(engine)
        connection.commit()
        assert late.result() == 0
    assert states(engine) == {"failed": 2}


def test_only_the_canary_goes_ahead_after_a_cancel_and_a_retry(engine: Engine) -> None:
    batch = make_batch(engine, 10, canary=2)
    actions.cancel(engine, batch.id)
    assert actions.retry(engine, batch.id) == 10
    assert fair_share.pick_lane(engine, slice_s=60) is not None
    first, second = take_all(engine, batch)
    assert [first.ordinal, second.ordinal] == [0, 1]
    assert take_all(engine, batch) == []
    assert fair_share.pick_lane(engine, slice_s=60) is None
    expire(engine, first)
    transitions.rescue(engine)
    (again,) = take_all(engine, batch)
    assert again.ordinal == 0, "a canary whose worker died comes back, too"
    transitions.complete(engine, [image(again), image(second)])
    assert canary_rollout.judge(engine) == 1
    assert len(take_all(engine, batch)) == 8


def test_a_claim_ahead_of_a_canary_reads_only_its_rows(engine: Engine) -> None:
    """However many jobs were queued again behind it."""
    batch = make_batch(engine, 3_000, canary=1)
    actions.cancel(engine, batch.id)
    actions.retry(engine, batch.id)
    change(engine, "ANALYZE")
    assert len(take_all(engine, batch)) == 1
    (lane,) = lanes_of(engine, batch)
    for statement, values in (
        (transitions._CLAIM, CLAIM | {"lane": lane}),
        (fair_share._WAITING, {"limit": 3, "pool": "default"}),
    ):
        scans = [node for node in plan_of(engine, statement.text, values) if is_scan_of("jobs", node)]
        assert sum(map(looked_at, scans)) <= 3


def ended(engine: Engine) -> list[bool]:
    """Which lanes have ended, in the order of their ids."""
    return [
        row["ended"] for row in look(engine, "SELECT ended_at IS NOT NULL AS ended FROM lanes ORDER BY id")
    ]


def test_a_lane_ends_with_its_last_job_and_no_sooner(engine: Engine) -> None:
    lane = make_lane(engine, 2)
    assert lane_counts.end_lanes(engine) == 0, "jobs are queued"
    first, second = take(engine, lane)
    transitions.complete(engine, [image(first)])
    assert lane_counts.end_lanes(engine) == 0, "a job runs"
    transitions.fail(engine, [failure(second)], delay_s=3600)
    lane_counts.raise_low_watermarks(engine)
    assert lane_counts.end_lanes(engine) == 0, "a job waits for its next attempt"
    change(engine, "UPDATE jobs SET not_before = now() WHERE state = 'queued'")
    transitions.complete(engine, [image(*take(engine, lane))])
    assert (
        lane_counts.end_lanes(engine),
        lane_counts.end_lanes(engine),
    ) == (1, 0)


def lose(engine: Engine, batch: Ingested) -> None:
    transitions.block(engine, [failure(job, ErrorKind.SAFETY) for job in take_all(engine, batch)])


QUEUES_AGAIN: dict[str, Callable[[Engine, Ingested], int]] = {
    "retry": lambda engine, batch: actions.retry(engine, batch.id),
    "replacement": lambda engine, _: accepted_image_quotas.make_up(engine),
}
QUEUEING = {
    "retry": (
        transitions._RETRY,
        {"batch": 1, "states": ["blocked"], "kind": None, "same_seed": False, "limit": 10},
    ),
    "replacement": (accepted_image_quotas._REPLACE, {"batch": None, "limit": 10}),
}


@pytest.mark.parametrize("how", QUEUES_AGAIN)
def test_a_lane_begins_again_with_what_is_queued_there(engine: Engine, how: str) -> None:
    batch = make_batch(engine, 3, target=3)
    lose(engine, batch)
    assert lane_counts.end_lanes(engine) == 1
    assert fair_share.pick_lane(engine, slice_s=60) is None
    assert QUEUES_AGAIN[how](engine, batch) == 3
    assert fair_share.pick_lane(engine, slice_s=60) is not None
    assert len(take_all(engine, batch)) == 3


@pytest.mark.parametrize("how", QUEUES_AGAIN)
def test_a_lane_that_is_being_ended_begins_again(engine: Engine, how: str) -> None:
    """Jobs are queued between the look at a lane and the note that it has ended: whoever comes second waits."""
    batch = make_batch(engine, 3, target=3)
    lose(engine, batch)
    with ThreadPoolExecutor(1) as thread, engine.begin() as connection:
        ids = connection.execute(lane_counts._SEEMINGLY_ENDED, {"after": 0, "limit": 10}).scalars().all()
        queued = thread.submit(QUEUES_AGAIN[how], engine, batch)
        wait_for_lock(engine)
        assert connection.execute(lane_counts._END, {"ids": list(ids)}).all()
        connection.commit()
        assert queued.result() == 3
    assert ended(engine) == [False]
    assert fair_share.pick_lane(engine, slice_s=60) is not None


@pytest.mark.parametrize("how", QUEUEING)
def test_a_lane_with_jobs_on_their_way_back_is_not_ended(engine: Engine, how: str) -> None:
    """Queued by a transaction that hasn't committed when the lane is looked at."""
    lose(engine, make_batch(engine, 3, target=3))
    with engine.begin() as connection:
        connection.execute(*QUEUEING[how])
        assert lane_counts.end_lanes(engine) == 0
    assert lane_counts.end_lanes(engine) == 0
    assert fair_share.pick_lane(engine, slice_s=60) is not None


def test_lanes_that_have_ended_are_not_looked_at(engine: Engine) -> None:
    make_batch(engine, 1)
    change(
        engine,
        """INSERT INTO lanes (batch_id, model, width, height, upscale, ended_at)
        SELECT 1, 'old-' || n, 64, 64, 0, now() - interval '2 days' FROM generate_series(1, 3000) AS n""",
    )
    change(engine, "ANALYZE")
    for statement, values in (
        (fair_share._PICK, TIME_SLICE),
        (fair_share._WAITING, {"limit": 3, "pool": "default"}),
        (
            lane_counts._RAISE_LOW_WATERMARKS,
            {"top": lane_counts.ABOVE_ALL},
        ),
        (lane_counts._SEEMINGLY_ENDED, {"after": 0, "limit": 100}),
    ):
        scans = [node for node in plan_of(engine, statement.text, values) if is_scan_of("lanes", node)]
        assert sum(map(looked_at, scans)) <= 10, statement.text


def test_many_lanes_are_ended_a_portion_at_a_time(engine: Engine) -> None:
    batch = make_batch(engine, [{"prompt": "a", "width": 64 + 8 * (i % 7)} for i in range(7)])
    lose(engine, batch)
    make_lane(engine, 1)
    assert lane_counts.end_lanes(engine, limit=2) == 7
    assert ended(engine) == [True] * 7 + [False]
