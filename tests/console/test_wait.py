"""`nightmill wait` and `status --watch`: they end when nothing goes on by itself, and say why."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Timer

import pytest
from sqlalchemy import Engine

from jobs.batches import actions
from jobs.batches.record_batch_end_events import record_batch_events
from jobs.job_dataclasses import Failure, Job
from jobs.queue import transitions
from jobs.queue.worker_health_reports import report_health
from jobs.settings import Settings
from jobs.states import ErrorKind
from scheduler.ingest.ingest import Ingested
from tests.console.conftest import Typed
from tests.factories import change, image, lanes_of, make_batch, take


def claimed(engine: Engine, batch: Ingested) -> list[Job]:
    return [job for lane in lanes_of(engine, batch) for job in take(engine, lane)]


def end(engine: Engine, batch: Ingested, failed: int = 0, blocked: int = 0) -> None:
    jobs = claimed(engine, batch)
    for fault in jobs[:failed]:
        transitions.fail(engine, [Failure(fault.id, fault.lease, ErrorKind.BAD_INPUT, "x")], delay_s=0)
    for job in jobs[failed : failed + blocked]:
        transitions.block(engine, [Failure(job.id, job.lease, ErrorKind.SAFETY, "x")])
    transitions.complete(engine, [image(job) for job in jobs[failed + blocked :]])
    record_batch_events(engine)


def test_the_exit_code_says_how_a_batch_ended(typed: Typed, engine: Engine) -> None:
    done, failed, late, paused = (
        make_batch(engine, 4, name=name) for name in ("done", "failed", "late", "paused")
    )
    end(engine, done, blocked=1)
    end(engine, failed, failed=1)
    end(engine, late)
    change(engine, "UPDATE batches SET deadline = ended_at - interval '90 s' WHERE name = 'late'")
    actions.pause(engine, paused.id)
    short = make_batch(engine, 1, name="short")
    change(engine, """UPDATE batches SET policy = policy || '{"target": 9}' WHERE name = 'short'""")
    end(engine, short)
    assert typed("wait", "done").code == 0
    assert typed("wait", "done", "--max-blocked", "0.2").code == 1
    assert (typed("wait", "failed").code, typed("wait", "failed", "--max-failed", "25%").code) == (1, 0)
    assert typed("wait", "late", "done").code == 4
    assert typed("wait", "late", "short").code == 3
    assert typed("wait", "short", "late", "paused").code == 5
    ended = typed("wait", "failed", "late", "paused", "--json")
    assert ended.code == 1
    assert [(one["name"], one["outcome"], one["why"]) for one in ended.json] == [
        ("failed", "failed", "1 of 4 jobs failed"),
        ("late", "late", "1m30s late"),
        ("paused", "paused", "paused"),
    ]


def test_it_waits_until_the_last_one_has_ended(typed: Typed, engine: Engine) -> None:
    first, last = (make_batch(engine, 1, name=name) for name in ("first", "last"))
    end(engine, first)
    timer = Timer(0.5, end, (engine, last))
    timer.start()
    done = typed("wait", "first", "last")
    timer.join()
    assert (done.code, done.out) == (0, "first\tdone\nlast\tdone\n")


def test_a_cancelled_batch_is_none_that_is_done(typed: Typed, engine: Engine) -> None:
    batch = make_batch(engine, 2, name="foxes")
    actions.cancel(engine, batch.id)
    done = typed("wait", "foxes")
    assert (done.code, done.out) == (1, "foxes\tfailed\tcancelled: 2 jobs\n")


def test_a_batch_of_which_every_row_was_rejected_has_failed(typed: Typed, engine: Engine) -> None:
    make_batch(engine, [{"prompt": ""}] * 2, name="empty")
    record_batch_events(engine)
    done = typed("wait", "empty")
    assert (done.code, done.out) == (1, "empty\tfailed\tall of 2 rows rejected\n")


def test_a_wait_that_takes_too_long_ends_with_124(typed: Typed, engine: Engine) -> None:
    make_batch(engine, 2, name="foxes", deadline=datetime.now(UTC) - timedelta(hours=1))
    done = typed("wait", "foxes", "--timeout", "0.1s")
    assert (done.code, done.out) == (124, "foxes\ttimeout\t2 jobs not finished\n")


@pytest.mark.parametrize("given", ["-1", "101%", "x", "nan"])
def test_a_share_that_is_none_is_refused(typed: Typed, given: str) -> None:
    done = typed("wait", "foxes", f"--max-failed={given}")
    assert (done.code, "a share of the jobs, as in 0.02 or 2%" in done.err) == (2, True)


def test_an_unknown_batch_is_wrong_use(typed: Typed) -> None:
    assert typed("wait", "foxes").code == 2


@pytest.mark.parametrize(
    ("is_there", "reason"), [(False, "there is no worker"), (True, "no disk")], ids=["no worker", "unhealthy"]
)
def test_a_watch_ends_when_no_worker_can_go_on(
    settings: Settings, engine: Engine, tmp_path: Path, is_there: bool, reason: str
) -> None:
    make_batch(engine, 2, name="foxes")
    if is_there:
        report_health(engine, "w1", "cpu", "no disk")
    typed = Typed(settings.model_copy(update={"give_up_s": 0.01}), tmp_path)
    done = typed("status", "foxes", "--watch")
    assert done.code == 0
    assert "foxes doesn't go on by itself: for " in done.err
    assert reason in done.err


def test_a_watch_ends_when_the_batch_is_paused(typed: Typed, engine: Engine) -> None:
    batch = make_batch(engine, 2, name="foxes")
    assert typed("pause", "foxes", "--reason", "the cat sleeps").code == 0
    assert "foxes doesn't go on by itself: paused: the cat sleeps" in typed("status", "--watch").err
    assert typed("wait", str(batch.id)).out == "foxes\tpaused\tpaused: the cat sleeps\n"
