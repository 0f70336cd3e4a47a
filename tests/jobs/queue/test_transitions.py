"""Each statement of the queue: what it changes, and what it leaves."""

from typing import Any

import pytest
from sqlalchemy import Engine, TextClause
from sqlalchemy.exc import OperationalError

from jobs.batches import actions
from jobs.db import engine as database
from jobs.queue import transitions
from jobs.queue.tenants import set_tenant
from jobs.states import ErrorKind, JobState
from tests.factories import (
    change,
    counted_jobs,
    expire,
    failure,
    held,
    image,
    job_row,
    lane_differences,
    lanes_of,
    look,
    make_batch,
    make_lane,
    states,
    take,
    take_one,
)

NOT_RETRIED = (ErrorKind.WATERMARK, ErrorKind.BAD_INPUT)


def ready(engine: Engine) -> None:
    """Let all retry delays pass."""
    change(engine, "UPDATE jobs SET not_before = now() - interval '1 second' WHERE not_before IS NOT NULL")


@pytest.fixture(autouse=True)
def _job_counts_are_the_truth(engine: Engine):
    yield
    assert lane_differences(engine) == []


def test_a_claim_gives_all_that_a_worker_needs(engine: Engine) -> None:
    row = {"prompt": "a fox", "negative_prompt": "fog", "steps": 7, "guidance_scale": 2.5, "seed": 2**64 - 1}
    batch = make_batch(engine, [row | {"num_images": 2}])
    (lane,) = lanes_of(engine, batch)
    first, second = take(engine, lane)
    assert (first.prompt, first.negative_prompt, first.steps) == ("a fox", "fog", 7)
    assert (first.guidance_scale, first.sampler, first.noise_level) == (2.5, "euler", None)
    assert (first.batch_id, first.lane_id, first.ordinal, first.attempt) == (batch.id, lane, 0, 1)
    assert (first.index, second.index) == (0, 1)
    assert (first.seed, second.seed) == (2**64 - 1, 0)
    assert type(first.seed) is int
    stored = job_row(engine, first)
    assert (stored["state"], stored["worker"], stored["lease"]) == ("running", "w1", first.lease)
    assert stored["lease_until"] > stored["started_at"]


def test_claims_come_in_the_order_of_the_manifest_and_end(engine: Engine) -> None:
    lane = make_lane(engine, 5)
    first, rest = take(engine, lane, 2), take(engine, lane, 10)
    assert [job.ordinal for job in first + rest] == [0, 1, 2, 3, 4]
    assert len({job.lease for job in first}) == 1
    assert first[0].lease != rest[0].lease
    assert take(engine, lane) == []


@pytest.mark.parametrize("mark", ["paused_at", "cancelled_at"])
def test_a_closed_batch_gives_nothing(engine: Engine, mark: str) -> None:
    lane = make_lane(engine, 2)
    change(engine, f"UPDATE batches SET {mark} = now()")  # noqa: S608
    assert transitions.open_lane(engine, lane) is None
    assert take(engine, lane) == []
    assert states(engine) == {"queued": 2}
    change(engine, f"UPDATE batches SET {mark} = NULL")  # noqa: S608
    assert transitions.open_lane(engine, lane) is not None
    assert len(take(engine, lane)) == 2


def test_an_open_lane_brings_its_batchs_policy(engine: Engine) -> None:
    options = {"safety": "blur", "watermark": "off", "format": "webp", "quality": 80, "parameters": False}
    lane = transitions.open_lane(engine, make_lane(engine, 1, name="blurred", output="s3://b/p", **options))
    assert lane is not None
    assert {name: getattr(lane.policy, name) for name in options} == options
    assert (lane.batch, lane.output, lane.model) == ("blurred", "s3://b/p", "sketcher")
    assert (lane.width, lane.height, lane.upscale) == (64, 64, 0)


def test_a_lane_that_is_not_there_gives_nothing(engine: Engine) -> None:
    assert transitions.open_lane(engine, 4711) is None
    assert take(engine, 4711) == []


def test_jobs_wait_for_their_not_before(engine: Engine) -> None:
    lane = make_lane(engine, 3)
    change(engine, "UPDATE jobs SET not_before = now() + interval '1 hour' WHERE ordinal = 0")
    change(engine, "UPDATE jobs SET not_before = now() - interval '1 second' WHERE ordinal = 1")
    assert [job.ordinal for job in take(engine, lane)] == [1, 2]


def test_a_done_job_has_an_image_row_with_all_of_both(engine: Engine) -> None:
    row = {"prompt": "ä 🦊", "id": "r-1", "seed": 2**64 - 1, "tenant": "t", "label": {"class": [1, "x"]}}
    (lane,) = lanes_of(engine, make_batch(engine, [row]))
    job = take_one(engine, lane, "w-7")
    transitions.complete(
        engine, [image(job, safety_scores=None, watermark=None, watermark_bit_accuracy=None)]
    )
    stored = job_row(engine, job)
    assert (stored["state"], stored["lease"], stored["lease_until"]) == ("done", None, None)
    assert stored["finished_at"] is not None
    (made,) = look(engine, "SELECT *, safety_scores IS NULL AS is_unscored FROM images")
    assert (made["job_id"], made["row_id"], made["prompt"]) == (job.id, "r-1", "ä 🦊")
    assert (made["seed"], made["tenant"], made["meta"]) == (2**64 - 1, "t", {"label": {"class": [1, "x"]}})
    assert (made["worker"], made["attempt"], made["model"]) == ("w-7", 1, "sketcher")
    assert (made["is_unscored"], made["watermark"]) == (True, None)


def test_a_release_charges_nothing(engine: Engine) -> None:
    lane = make_lane(engine, 1, max_attempts=1)
    for _ in range(3):
        job = take_one(engine, lane)
        assert job.attempt == 1
        assert transitions.release(engine, held(job)) == {job.id}
    assert job_row(engine, job)["attempt"] == 0
    assert look(engine, "SELECT * FROM attempts") == []


def test_failed_attempts_come_back_later_and_later_until_they_are_used_up(engine: Engine) -> None:
    lane = make_lane(engine, 1, max_attempts=4)
    delays = []
    for attempt in (1, 2, 3):
        job = take_one(engine, lane)
        assert job.attempt == attempt
        transitions.fail(engine, [failure(job, ErrorKind.OUT_OF_MEMORY)], delay_s=100)
        assert take(engine, lane) == [], "its delay lies ahead"
        sql = "SELECT extract(epoch FROM not_before - max(ended_at)) AS s FROM jobs, attempts GROUP BY not_before"
        delays.append(look(engine, sql)[0]["s"])
        ready(engine)
    assert [round(float(delay) / 100 / 2**i) for i, delay in enumerate(delays)] == [1, 1, 1]
    transitions.fail(engine, [failure(take_one(engine, lane), ErrorKind.BLACK, "black again")], delay_s=100)
    stored = job_row(engine, job.id)
    assert (stored["state"], stored["attempt"]) == ("failed", 4)
    assert (stored["error_kind"], stored["error_text"]) == ("black", "black again")
    history = look(engine, "SELECT attempt, outcome, error_kind, worker FROM attempts ORDER BY id")
    assert [tuple(row.values()) for row in history] == [
        (1, "retried", "oom", "w1"),
        (2, "retried", "oom", "w1"),
        (3, "retried", "oom", "w1"),
        (4, "failed", "black", "w1"),
    ]


def test_the_retry_delay_stays_within_hours_after_many_attempts(engine: Engine) -> None:
    lane = make_lane(engine, 1, max_attempts=100)
    change(engine, "UPDATE jobs SET attempt = 98")
    transitions.fail(engine, [failure(take_one(engine, lane))], delay_s=2)
    assert look(engine, "SELECT not_before < now() + interval '3 hours' AS soon, state FROM jobs") == [
        {"soon": True, "state": "queued"}
    ]


@pytest.mark.parametrize("kind", NOT_RETRIED)
def test_what_no_attempt_can_mend_fails_at_once(engine: Engine, kind: ErrorKind) -> None:
    lane = make_lane(engine, 1, max_attempts=5)
    transitions.fail(engine, [failure(take_one(engine, lane), kind)], delay_s=1)
    assert states(engine) == {"failed": 1}


def test_error_texts_are_stored_whatever_they_hold(engine: Engine) -> None:
    lane = make_lane(engine, 2)
    texts = "nul \0, quote ', brace {, half \ud83d", "long " * 1000
    transitions.fail(
        engine,
        [failure(job, text=text) for job, text in zip(take(engine, lane), texts, strict=True)],
        delay_s=1,
    )
    stored = look(engine, "SELECT error_text FROM jobs ORDER BY id")
    assert stored[0]["error_text"].startswith("nul , quote ', brace {, half ")
    assert len(stored[1]["error_text"]) == 2000


def test_blocked_jobs_say_why_and_are_not_tried_again(engine: Engine) -> None:
    lane = make_lane(engine, 1)
    job = take_one(engine, lane)
    transitions.block(engine, [failure(job, ErrorKind.SAFETY, "concept 3")])
    stored = job_row(engine, job)
    assert (stored["state"], stored["error_kind"], stored["error_text"]) == ("blocked", "safety", "concept 3")
    (attempt,) = look(engine, "SELECT * FROM attempts")
    assert (attempt["job_id"], attempt["outcome"], attempt["error_kind"]) == (job.id, "blocked", "safety")
    assert look(engine, "SELECT * FROM images") == []


def test_a_rescued_job_is_queued_with_its_history(engine: Engine) -> None:
    lane = make_lane(engine, 2, max_attempts=2)
    lost, kept = take(engine, lane)
    expire(engine, lost)
    assert transitions.rescue(engine) == 1
    assert (job_row(engine, lost)["state"], job_row(engine, kept)["state"]) == ("queued", "running")
    again = take_one(engine, lane, "w2")
    assert (again.id, again.attempt) == (lost.id, 2)
    expire(engine, again)
    assert transitions.rescue(engine) == 1
    stored = job_row(engine, lost)
    assert (stored["state"], stored["error_kind"]) == ("failed", "crash")
    history = look(engine, "SELECT attempt, outcome, error_kind, worker FROM attempts ORDER BY id")
    assert [tuple(row.values()) for row in history] == [
        (1, "expired", "crash", "w1"),
        (2, "expired", "crash", "w2"),
    ]


def test_a_rescue_takes_no_more_than_its_limit_the_longest_expired_first(engine: Engine) -> None:
    jobs = take(engine, make_lane(engine, 3))
    change(engine, "UPDATE jobs SET lease_until = now() - make_interval(secs => 10 - ordinal)")
    assert transitions.rescue(engine, limit=2) == 2
    assert [job_row(engine, job)["state"] for job in jobs] == ["queued", "queued", "running"]


def test_jobs_that_took_their_worker_down_come_last_and_in_their_last_attempt_alone(engine: Engine) -> None:
    lane = make_lane(engine, 5)
    crashed = take(engine, lane, 3)
    expire(engine, *crashed)
    transitions.rescue(engine)
    assert [job.ordinal for job in take(engine, lane, 16)] == [3, 4]
    again = take(engine, lane, 16)
    assert [job.ordinal for job in again] == [0, 1]
    expire(engine, *again)
    transitions.rescue(engine)
    assert [[job.ordinal for job in take(engine, lane, 16)] for _ in range(4)] == [[2], [0], [1], []]


def test_a_job_that_kills_its_workers_fails_by_itself(engine: Engine) -> None:
    lane = make_lane(engine, 32)
    while jobs := take(engine, lane, 32):
        if any(job.ordinal == 17 for job in jobs):
            expire(engine, *jobs)
            transitions.rescue(engine)
        else:
            transitions.complete(engine, [image(job) for job in jobs])
    assert states(engine) == {"done": 31, "failed": 1}


def test_cancel_ends_what_is_queued_and_what_runs(engine: Engine) -> None:
    batch = make_batch(engine, 4)
    (lane,) = lanes_of(engine, batch)
    done, running = take(engine, lane, 2)
    transitions.complete(engine, [image(done)])
    assert actions.cancel(engine, batch.id) == 3
    assert states(engine) == {"done": 1, "cancelled": 3}
    assert transitions.release(engine, held(running)) == set()
    assert actions.cancel(engine, batch.id) == 0


def test_cancel_goes_on_past_its_limit(engine: Engine) -> None:
    lane = make_lane(engine, 5)
    assert [transitions.cancel(engine, lane, limit=2) for _ in range(4)] == [2, 2, 1, 0]


def ended(engine: Engine) -> int:
    """One batch with a job done, one cancelled, and failed or blocked ones of several kinds."""
    batch = make_batch(engine, 6, max_attempts=1)
    (lane,) = lanes_of(engine, batch)
    done, oom, nan, blocked, lost = take(engine, lane, 5)
    transitions.complete(engine, [image(done)])
    transitions.fail(
        engine, [failure(oom, ErrorKind.OUT_OF_MEMORY), failure(nan, ErrorKind.NOT_FINITE)], delay_s=1
    )
    transitions.block(engine, [failure(blocked, ErrorKind.SAFETY)])
    expire(engine, lost)
    transitions.rescue(engine)
    actions.cancel(engine, batch.id)
    return batch.id


@pytest.mark.parametrize(
    ("which", "kind", "expected"),
    [
        ([JobState.FAILED], None, [1, 2, 4]),
        ([JobState.BLOCKED], None, [3]),
        ([JobState.CANCELLED], None, [5]),
        ([JobState.FAILED, JobState.BLOCKED], None, [1, 2, 3, 4]),
        ([JobState.FAILED, JobState.BLOCKED], "safety", [3]),
        ([JobState.FAILED], "oom", [1]),
        ([JobState.FAILED], "safety", []),
        ([JobState.DONE, JobState.QUEUED], None, []),
    ],
)
def test_retry_queues_by_state_and_kind(
    engine: Engine, which: list[JobState], kind: str | None, expected: list[int]
) -> None:
    batch = ended(engine)
    assert actions.retry(engine, batch, which, kind) == len(expected)
    queued = look(engine, "SELECT ordinal, attempt, finished_at FROM jobs WHERE state = 'queued' ORDER BY id")
    assert [tuple(row.values()) for row in queued] == [(ordinal, 0, None) for ordinal in expected]
    (row,) = look(engine, "SELECT cancelled_at IS NULL AS is_open FROM batches")
    assert row["is_open"] == bool(expected)


@pytest.mark.parametrize("seed", [None, 5, 2**64 - 1])
def test_blocked_jobs_are_tried_again_with_seeds_of_their_own(engine: Engine, seed: int | None) -> None:
    rows = [{"prompt": "a fox", "num_images": 3} | ({} if seed is None else {"seed": seed})]
    batch = make_batch(engine, rows)
    (lane,) = lanes_of(engine, batch)
    first, second, third = take(engine, lane)
    seen = [{first.seed, second.seed, third.seed}]
    for _ in range(4):
        transitions.block(engine, [failure(job, ErrorKind.SAFETY) for job in (first, second)])
        assert actions.retry(engine, batch.id, [JobState.BLOCKED]) == 2
        first, second = take(engine, lane)
        seen.append({first.seed, second.seed})
    assert len(set.union(*seen)) == 3 + 4 * 2
    transitions.block(engine, [failure(first, ErrorKind.SAFETY)])
    transitions.fail(engine, [failure(second, ErrorKind.BAD_INPUT)], delay_s=0)
    actions.retry(engine, batch.id, [JobState.FAILED])
    assert take_one(engine, lane).seed == second.seed
    actions.retry(engine, batch.id, same_seed=True)
    assert take_one(engine, lane).seed == first.seed


def test_a_retried_job_that_crashed_still_comes_alone(engine: Engine) -> None:
    batch = ended(engine)
    actions.retry(engine, batch)
    (lane,) = [row["id"] for row in look(engine, "SELECT id FROM lanes")]
    assert [[job.ordinal for job in take(engine, lane)] for _ in range(3)] == [[1, 2, 3, 5], [4], []]


def test_a_retry_that_was_cut_off_is_finished_by_the_next(engine: Engine) -> None:
    batch = ended(engine)
    transitions.retry(engine, batch, list(JobState), None)  # and here the process was killed
    actions.retry(engine, batch)
    (lane,) = [row["id"] for row in look(engine, "SELECT id FROM lanes")]
    assert len(take(engine, lane)) == 4


def cut_answers(monkeypatch: pytest.MonkeyPatch, which: TextClause, times: int = 1) -> None:
    """The first answers of a statement are lost: it has been committed, and the connection is gone."""
    left = [times]

    def alone(engine: Engine, statement: Any, values: Any) -> Any:
        rows = real(engine, statement, values)
        if statement is which and left[0]:
            left[0] -= 1
            raise OperationalError("cut", {}, Exception("gone"), connection_invalidated=True)
        return rows

    real = database._run_autocommit
    monkeypatch.setattr(database, "_run_autocommit", alone)


@pytest.mark.parametrize("times", [1, 2])
def test_a_claim_whose_answer_was_lost_takes_no_other_jobs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    lane = make_lane(engine, 20)
    cut_answers(monkeypatch, transitions._CLAIM, times)
    jobs = take(engine, lane, 8)
    assert len(jobs) == 8
    assert states(engine) == counted_jobs(engine) == {"running": 8, "queued": 12}
    assert [job_row(engine, job)["lease"] for job in jobs] == [job.lease for job in jobs]
    transitions.complete(engine, [image(job) for job in jobs])


def test_a_claim_that_was_lost_before_it_happened_is_made(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = make_lane(engine, 3)

    def alone(*given: Any) -> Any:
        monkeypatch.setattr(database, "_run_autocommit", real)
        raise OperationalError("cut", {}, Exception("gone"), connection_invalidated=True)

    real = database._run_autocommit
    monkeypatch.setattr(database, "_run_autocommit", alone)
    assert len(take(engine, lane)) == 3


def test_a_claim_under_a_limit_whose_answer_was_lost_takes_no_other_jobs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = make_lane(engine, 20)
    set_tenant(engine, "*", max_running=12)

    def together(engine: Engine, work: Any) -> Any:
        monkeypatch.setattr(database, "_run_in_transaction", real)
        real(engine, work)
        raise OperationalError("cut", {}, Exception("gone"), connection_invalidated=True)

    real = database._run_in_transaction
    monkeypatch.setattr(database, "_run_in_transaction", together)
    assert len(take(engine, lane, 8)) == 8
    assert states(engine) == {"running": 8, "queued": 12}
