"""How batches stand, what a person may do to them, and that the counts are the truth at any moment."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.batches.dead_letters import failures
from jobs.errors import LeaseLostError, UsageError
from jobs.job_dataclasses import Job
from jobs.queue import transitions
from jobs.states import RETRYABLE, BatchState, ErrorKind
from tests.factories import (
    change,
    counted_jobs,
    expire,
    failure,
    held,
    image,
    lane_differences,
    lanes_of,
    look,
    make_batch,
    make_lane,
    states,
    take,
)


def state_of(engine: Engine, name: str) -> BatchState:
    return actions.status(engine, name).state


def test_the_state_of_a_batch_from_first_to_last(engine: Engine) -> None:
    batch = make_batch(engine, 2, name="foxes")
    (lane,) = lanes_of(engine, batch)
    assert state_of(engine, "foxes") == BatchState.QUEUED
    jobs = take(engine, lane)
    assert state_of(engine, "foxes") == BatchState.RUNNING
    actions.pause(engine, batch.id)
    assert state_of(engine, "foxes") == BatchState.PAUSED
    actions.resume(engine, batch.id)
    assert state_of(engine, "foxes") == BatchState.RUNNING
    transitions.complete(engine, [image(jobs[0])])
    actions.cancel(engine, batch.id)
    assert state_of(engine, "foxes") == BatchState.CANCELLED
    actions.retry(engine, batch.id)
    assert state_of(engine, "foxes") == BatchState.QUEUED
    transitions.complete(engine, [image(job) for job in take(engine, lane)])
    assert state_of(engine, "foxes") == BatchState.DONE


def test_a_pause_keeps_its_first_time(engine: Engine) -> None:
    batch = make_batch(engine, 1)
    actions.pause(engine, batch.id)
    first = look(engine, "SELECT paused_at FROM batches")
    actions.pause(engine, batch.id)
    assert look(engine, "SELECT paused_at FROM batches") == first


def test_a_status_has_counts_rate_and_rest(engine: Engine) -> None:
    batch = make_batch(engine, 6, name="foxes", max_attempts=1)
    (lane,) = lanes_of(engine, batch)
    done, failed, blocked, _ = take(engine, lane, 4)
    transitions.complete(engine, [image(done)])
    transitions.fail(engine, [failure(failed)], delay_s=1)
    transitions.block(engine, [failure(blocked, ErrorKind.SAFETY)])
    status = actions.status(engine, "foxes")
    counts = {"queued": 2, "running": 1, "done": 1, "failed": 1, "blocked": 1, "cancelled": 0, "retracted": 0}
    assert status.counts == counts
    assert status.remaining == 3
    assert status.images_per_s > 0
    assert status.eta_s == pytest.approx(3 / status.images_per_s)
    report = status.report()
    assert {"batch", "name", "state", "counts", "rejected", "images_per_s", "eta_s"} <= set(report)
    assert (report["batch"], report["name"], report["rows"]) == (batch.id, "foxes", 6)


def test_columns_of_a_batch_are_fields_of_its_status_by_their_names(engine: Engine) -> None:
    made = make_batch(engine, 1)
    status = actions.status(engine, made.name)
    (row,) = look(engine, "SELECT * FROM batches WHERE id = :id", id=made.id)
    shared = [field for field in status._fields if field in row and field not in ("policy", "folder")]
    assert len(shared) == 25
    assert {field: getattr(status, field) for field in shared} == {field: row[field] for field in shared}


def test_nothing_moves_means_no_eta_and_nothing_left_means_none_to_wait(engine: Engine) -> None:
    batch = make_batch(engine, 1, name="foxes")
    assert actions.status(engine, "foxes").eta_s is None
    actions.cancel(engine, batch.id)
    assert actions.status(engine, "foxes").eta_s == 0


def test_the_rate_forgets_what_is_long_past(engine: Engine) -> None:
    transitions.complete(engine, [image(job) for job in take(engine, make_lane(engine, 2, name="foxes"))])
    change(engine, "UPDATE images SET created_at = now() - interval '2 minutes'")
    assert actions.status(engine, "foxes").images_per_s == 0


def test_batches_are_found_by_name_and_by_id(engine: Engine) -> None:
    first = make_batch(engine, 1, name="foxes")
    second = make_batch(engine, 1)
    assert actions.status(engine, "foxes").id == first.id
    for id in (first.id, second.id):
        assert actions.status(engine, str(id)).id == id
    assert [status.id for status in actions.statuses(engine)] == [first.id, second.id]
    for unknown in ("0", "01", "9" * 30, "\u0661"):
        with pytest.raises(UsageError, match="no batch"):
            actions.status(engine, unknown)


def test_a_number_that_is_also_an_older_versions_name_is_refused(engine: Engine) -> None:
    """Which of the two is meant, nobody knows, and the next command may delete it."""
    first, second = make_batch(engine, 1, name="foxes"), make_batch(engine, 1)
    change(engine, "UPDATE batches SET name = :name WHERE id = :id", name=str(first.id), id=second.id)
    with pytest.raises(UsageError, match=f"say {second.id} or foxes"):
        actions.status(engine, str(first.id))
    assert actions.status(engine, str(second.id)).id == second.id
    assert actions.status(engine, "foxes").id == first.id


def test_an_unknown_batch_is_answered_with_a_near_one(engine: Engine) -> None:
    with pytest.raises(UsageError, match="no batch 'foxes': `nightmill status` lists"):
        actions.status(engine, "foxes")
    make_batch(engine, 1, name="foxes")
    with pytest.raises(UsageError, match="no batch 'foxs': did you mean 'foxes'"):
        actions.status(engine, "foxs")


def test_cancelling_an_ended_batch_leaves_no_mark(engine: Engine) -> None:
    batch = make_batch(engine, 1)
    transitions.complete(
        engine, [image(job) for lane in lanes_of(engine, batch) for job in take(engine, lane)]
    )
    assert actions.cancel(engine, batch.id) == 0
    assert look(engine, "SELECT cancelled_at FROM batches") == [{"cancelled_at": None}]
    actions.pause(engine, batch.id)


def test_cancelling_one_batch_leaves_the_others(engine: Engine) -> None:
    sizes = [{"prompt": "a", "width": width} for width in (64, 72, 80)]
    gone, kept = make_batch(engine, sizes), make_batch(engine, sizes)
    assert actions.cancel(engine, gone.id) == 3
    assert (states(engine, gone.id), states(engine, kept.id)) == ({"cancelled": 3}, {"queued": 3})
    assert actions.retry(engine, kept.id) == 0
    assert actions.status(engine, gone.name).state == BatchState.CANCELLED


def test_failures_are_told_with_their_reason(engine: Engine) -> None:
    batch = make_batch(engine, [{"prompt": "x" * 900, "id": "r1"}, {"prompt": "b"}], max_attempts=1)
    failed, blocked = take(engine, lanes_of(engine, batch)[0])
    transitions.fail(engine, [failure(failed, ErrorKind.OBJECT_STORE, "disk full")], delay_s=0)
    transitions.block(engine, [failure(blocked, ErrorKind.SAFETY, "concept 1")])
    told = failures(engine, batch.id)
    assert [(row["state"], row["error_kind"], row["error_text"]) for row in told] == [
        ("failed", "io", "disk full"),
        ("blocked", "safety", "concept 1"),
    ]
    assert (told[0]["row_id"], len(told[0]["prompt"])) == ("r1", 200)
    assert len(failures(engine, batch.id, limit=1)) == 1


def test_folding_keeps_the_sums_and_drops_the_rows(engine: Engine) -> None:
    lane = make_lane(engine, 20)
    for _ in range(10):
        transitions.release(engine, held(*take(engine, lane, 2)))
    transitions.complete(engine, [image(job) for job in take(engine, lane, 5)])
    before = counted_jobs(engine)
    assert actions.fold_job_counts(engine) > 40
    assert counted_jobs(engine) == before == states(engine) == {"queued": 15, "done": 5}
    assert look(engine, "SELECT count(*) AS n FROM job_counts") == [{"n": 2}], (
        "nothing is kept of what is zero"
    )


def random_work(engine: Engine, lane: int, batch: int, number: int) -> None:
    """A few dozen random moves of one worker, of which many lose against the others."""
    chance = random.Random(number)
    jobs: list[Job] = []
    moves: list[Callable[[], object]] = [
        lambda: transitions.complete(engine, [image(job) for job in jobs]),
        lambda: transitions.fail(engine, [failure(job) for job in jobs], delay_s=0),
        lambda: transitions.block(engine, [failure(job, ErrorKind.SAFETY) for job in jobs]),
        lambda: transitions.release(engine, held(*jobs)),
        lambda: (expire(engine, *jobs), transitions.rescue(engine)),
        lambda: transitions.retry(engine, batch, RETRYABLE, None, limit=20),
        lambda: transitions.cancel(engine, lane, limit=5),
    ]
    seen: list[Job] = []
    for _ in range(40):
        seen += take(engine, lane, chance.randint(1, 6), f"w{number}")
        jobs[:] = chance.sample(seen, min(len(seen), 4))
        with suppress(LeaseLostError):
            chance.choice(moves)()


def test_the_counts_are_true_while_all_work_at_once(engine: Engine) -> None:
    batch = make_batch(engine, 200, max_attempts=3)
    (lane,) = lanes_of(engine, batch)
    over = threading.Event()
    wrong: list[object] = []

    def fold() -> None:
        while not over.is_set():
            actions.fold_job_counts(engine, limit=30)

    def watch() -> None:
        while not over.is_set():
            wrong.extend(lane_differences(engine))
            wrong.extend(
                look(engine, "SELECT 1 AS n FROM batches WHERE (SELECT sum(delta) FROM job_counts) <> 200")
            )

    with ThreadPoolExecutor(7) as threads:
        beside = [threads.submit(task) for task in (fold, fold, watch)]
        workers = [threads.submit(random_work, engine, lane, batch.id, number) for number in range(4)]
        wait(workers)
        over.set()
        for task in workers + beside:
            task.result()
    assert wrong == []
    assert lane_differences(engine) == []
    (row,) = look(
        engine, "SELECT (SELECT count(*) FROM jobs WHERE state = 'done') AS done, count(*) AS n FROM images"
    )
    assert row["done"] == row["n"] > 0
