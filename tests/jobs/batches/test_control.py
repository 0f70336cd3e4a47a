"""Canaries, targets, tenants, schedules, dead letters, archives: what a render queue needs beside claims."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from jobs.batches import accepted_image_quotas, actions, drop_jobs_and_delete_batches
from jobs.batches.dead_letters import failures, kinds
from jobs.batches.eta import LaneWork, finish, seconds_left
from jobs.errors import UsageError
from jobs.job_dataclasses import Job
from jobs.queue import canary_rollout, transitions
from jobs.queue.tenants import forget_tenant, set_tenant, tenants
from jobs.states import NO_LIMIT, ErrorKind
from jobs.storage.key_layout import image_key
from jobs.storage.open import S3Options, open_store
from scheduler.advance_time_windows import move_windows
from scheduler.ingest.ingest import Ingested
from tests.factories import (
    change,
    counted_jobs,
    failure,
    image,
    lane_differences,
    lanes_of,
    look,
    make_batch,
    states,
    take,
)


def take_all(engine: Engine, batch: Ingested) -> list[Job]:
    return [job for lane in lanes_of(engine, batch) for job in take(engine, lane)]


def finish_all(engine: Engine, batch: Ingested, bad: int = 0) -> list[Job]:
    """Claim all that can be claimed, block the first `bad` and complete the others."""
    jobs = sorted(take_all(engine, batch), key=lambda job: job.id)
    transitions.block(engine, [failure(job, ErrorKind.SAFETY) for job in jobs[:bad]])
    transitions.complete(engine, [image(job) for job in jobs[bad:]])
    return jobs


def test_a_canary_goes_ahead_and_the_rest_follows_when_it_is_well(engine: Engine) -> None:
    batch = make_batch(engine, 10, canary=3, canary_bound=0.34)
    assert {job.ordinal for job in finish_all(engine, batch, bad=1)} == {0, 1, 2}
    assert take_all(engine, batch) == []
    assert canary_rollout.judge(engine) == 1
    assert actions.status(engine, batch.name).canary_verdict == "passed"
    assert {job.ordinal for job in take_all(engine, batch)} == set(range(3, 10))
    assert canary_rollout.judge(engine) == 0


def test_a_canary_that_dies_pauses_the_batch_until_somebody_overrules_it(engine: Engine) -> None:
    batch = make_batch(engine, 10, canary=4, canary_bound=0.25)
    jobs = take_all(engine, batch)
    assert canary_rollout.judge(engine) == 0, "they are on their way"
    transitions.block(engine, [failure(job, ErrorKind.SAFETY) for job in jobs[:2]])
    assert canary_rollout.judge(engine) == 1, "two of four are enough to know"
    status = actions.status(engine, batch.name)
    assert (status.state, status.canary_verdict) == ("paused", "stopped")
    assert status.stopped_because == "canary: 2 of the first 4 jobs failed or were blocked, more than 25.0 %"
    assert take_all(engine, batch) == []
    actions.resume(engine, batch.id)
    status = actions.status(engine, batch.name)
    assert (status.canary_verdict, status.stopped_because) == ("overruled", None)
    assert len(take_all(engine, batch)) == 6


def test_a_canary_of_rejected_rows_passes(engine: Engine) -> None:
    batch = make_batch(engine, [{"prompt": ""}, {"prompt": ""}, {"prompt": "fox"}], canary=2)
    assert canary_rollout.judge(engine) == 1
    assert len(take_all(engine, batch)) == 1


def classes(engine: Engine, batch: Ingested, state: str = "done") -> dict[str, int]:
    rows = look(
        engine,
        "SELECT meta ->> 'label' AS label, count(*) AS n FROM jobs WHERE batch_id = :id AND state = :state GROUP BY 1",
        id=batch.id,
        state=state,
    )
    return {row["label"]: row["n"] for row in rows}


def test_a_target_is_reached_whatever_is_blocked(engine: Engine) -> None:
    """Two classes, rows for five and two images, every third one blocked: seven accepted ones of each."""
    rows: list[dict[str, Any]] = [{"prompt": f"cat {i}", "label": "cat"} for i in range(5)]
    rows.append({"prompt": "dog", "label": "dog", "num_images": 2})
    batch = make_batch(engine, rows, target=7, target_per="label")
    assert batch.jobs == 14
    assert classes(engine, batch, "queued") == {"cat": 7, "dog": 7}
    turns = itertools.count()
    while jobs := take_all(engine, batch):
        bad = [job for job in jobs if next(turns) % 3 == 0]
        transitions.block(engine, [failure(job, ErrorKind.SAFETY) for job in bad])
        transitions.complete(engine, [image(job) for job in jobs if job not in bad])
        accepted_image_quotas.make_up(engine)
    assert classes(engine, batch) == {"cat": 7, "dog": 7}
    assert lane_differences(engine) == []
    assert accepted_image_quotas.short(engine, batch.id) == []
    made = look(
        engine, 'SELECT ordinal, "index", seed, prompt, state FROM jobs WHERE batch_id = :id', id=batch.id
    )
    assert len({row["seed"] for row in made}) == len(made), "every replacement has a seed of its own"
    assert {row["seed"] < 2**32 for row in made} == {True}
    assert look(engine, "SELECT jobs FROM batches")[0]["jobs"] == len(made)


def test_replacements_end_at_the_cap(engine: Engine) -> None:
    batch = make_batch(engine, 4, target=4, max_replacement_ratio=1.5)
    while finish_all(engine, batch, bad=100):
        accepted_image_quotas.make_up(engine)
    assert states(engine) == {"blocked": 4 + 6}
    assert accepted_image_quotas.make_up(engine) == 0
    (lacking,) = accepted_image_quotas.short(engine, batch.id)
    assert lacking == {"value": "", "target": 4, "accepted": 0, "on_their_way": 0}
    assert accepted_image_quotas.shortfall(engine, batch.id) == (4, 1)


def test_what_lacks_of_a_target_is_counted_over_its_values(engine: Engine) -> None:
    rows = [{"prompt": label, "label": label} for label in ("cat", "cat", "dog", "owl")]
    batch = make_batch(engine, rows, target=2, target_per="label", max_replacement_ratio=0)
    jobs = take_all(engine, batch)
    lost = [next(job for job in jobs if job.prompt == prompt) for prompt in ("dog", "owl")]
    transitions.block(engine, [failure(job, ErrorKind.SAFETY) for job in lost])
    assert accepted_image_quotas.shortfall(engine, batch.id) == (6, 3), "of what is open, too"
    transitions.complete(engine, [image(job) for job in jobs if job not in lost])
    assert accepted_image_quotas.shortfall(engine, batch.id) == (2, 2)
    assert accepted_image_quotas.shortfall(engine, make_batch(engine, 1).id) is None


def test_a_column_that_no_row_has_is_no_target_of_any_value(engine: Engine) -> None:
    rows = [{"prompt": "a", "class": None, "place": 1}]
    for given, said in (("clas", "did you mean 'class'"), ("colour", "those there are: class, place")):
        with pytest.raises(
            UsageError, match=f"--set target_per={given}: no row has a column '{given}'; {said}"
        ):
            make_batch(engine, rows, target=2, target_per=given)
    assert look(engine, "SELECT FROM batches") == []
    assert make_batch(engine, rows, target=2, target_per="class").jobs == 2


def test_two_schedulers_replace_each_job_once(engine: Engine) -> None:
    from concurrent.futures import ThreadPoolExecutor

    batch = make_batch(engine, 60, target=60)
    finish_all(engine, batch, bad=60)
    with ThreadPoolExecutor(4) as pool:
        made = sum(pool.map(lambda _: accepted_image_quotas.make_up(engine), range(4)))
    assert made == 60
    assert states(engine) == {"blocked": 60, "queued": 60}
    assert lane_differences(engine) == []


def test_what_a_new_seed_cannot_mend_is_not_replaced(engine: Engine) -> None:
    batch = make_batch(engine, 2, target=2)
    jobs = take_all(engine, batch)
    transitions.fail(engine, [failure(jobs[0], ErrorKind.BAD_INPUT)], delay_s=0)
    transitions.block(engine, [failure(jobs[1], ErrorKind.SAFETY)])
    assert accepted_image_quotas.make_up(engine, batch.id) == 1
    actions.cancel(engine, batch.id)
    assert accepted_image_quotas.make_up(engine) == 0


@pytest.mark.parametrize(("kind", "attempts"), [(kind, min(3, kind.most_attempts)) for kind in ErrorKind])
def test_how_often_an_error_is_tried_again(engine: Engine, kind: ErrorKind, attempts: int) -> None:
    batch = make_batch(engine, 1)
    for number in range(1, attempts + 1):
        (job,) = take_all(engine, batch)
        assert job.attempt == number
        transitions.fail(engine, [failure(job, kind, f"it broke {number} times")], delay_s=0)
    assert states(engine) == {"failed": 1}
    (dead,) = failures(engine, batch.id, kind)
    assert [tried["error_text"] for tried in dead["history"]] == [
        f"it broke {n + 1} times" for n in range(attempts)
    ]
    assert kinds(engine, batch.id) == [{"error_kind": kind, "state": "failed", "jobs": 1}]
    assert failures(engine, batch.id, "no such kind") == []


def test_delays_double_with_each_attempt_give_or_take_a_quarter(engine: Engine) -> None:
    batch = make_batch(engine, 40, max_attempts=5)
    for attempt in range(1, 4):
        jobs = take_all(engine, batch)
        transitions.fail(engine, [failure(job) for job in jobs], delay_s=100)
        delays = [
            row["delay"]
            for row in look(engine, "SELECT extract(epoch FROM not_before - now())::float AS delay FROM jobs")
        ]
        expected = 100 * 2 ** (attempt - 1)
        assert 0.74 * expected < min(delays) < max(delays) < 1.26 * expected
        assert max(delays) - min(delays) > 0.2 * expected, "jitter keeps them apart"
        change(engine, "UPDATE jobs SET not_before = now()")


def test_tenants_are_listed_set_and_forgotten(engine: Engine) -> None:
    batch = make_batch(engine, [{"prompt": "a", "tenant": "ada"}, {"prompt": "b"}])
    take(engine, lanes_of(engine, batch)[0])
    limits = {"max_running": None, "max_queued": None, "prompt_terms": None}
    none = {"weight": 1, **limits, "queued": 0, "running": 0, "done": 0}
    ada = none | {"name": "ada", "running": 1}
    nobody = none | {"name": "", "queued": 1}
    assert tenants(engine) == [nobody, ada]
    set_tenant(engine, "ada", weight=3)
    set_tenant(engine, "ada", max_running=5)
    set_tenant(engine, "*", max_running=9)
    assert tenants(engine) == [
        nobody,
        none | {"name": "*", "max_running": 9},
        ada | {"weight": 3, "max_running": 5},
    ]
    set_tenant(engine, "ada", max_running=NO_LIMIT)
    assert tenants(engine)[-1] == ada | {"weight": 3}
    forget_tenant(engine, "ada")
    assert tenants(engine)[-1] == ada
    for wrong in ({"weight": 0}, {"weight": 1001}, {"max_running": -5}):
        with pytest.raises(UsageError):
            set_tenant(engine, "ada", **wrong)
    with pytest.raises(UsageError, match="no weight"):
        set_tenant(engine, "*", weight=2)
    with pytest.raises(UsageError, match="nothing is set"):
        forget_tenant(engine, "eve")


def test_a_schedule_is_changed_while_the_batch_runs(engine: Engine) -> None:
    batch = make_batch(engine, 3)
    moment = datetime.now(UTC) + timedelta(hours=1)
    actions.change(
        engine, batch.id, {"priority": 7, "not_before": moment, "deadline": moment + timedelta(hours=1)}
    )
    status = actions.status(engine, batch.name)
    assert (status.priority, status.not_before, status.starts_at) == (7, moment, moment)
    assert take_all(engine, batch) == []
    actions.change(engine, batch.id, {"not_before": None, "window": "00:00-23:59 UTC"})
    status = actions.status(engine, batch.name)
    assert status.window == "00:00-23:59 UTC"
    assert status.closes_at is not None
    actions.change(engine, batch.id, {"window": None})
    assert len(take_all(engine, batch)) == 3


def test_a_window_that_has_closed_opens_again(engine: Engine) -> None:
    batch = make_batch(engine, 1, window="22:00-07:00 Europe/Berlin")
    first = actions.status(engine, batch.name)
    assert move_windows(engine) == 0
    change(engine, "UPDATE batches SET opens_at = now() - interval '9 h', closes_at = now()")
    assert take_all(engine, batch) == []
    assert move_windows(engine) == 1
    after = actions.status(engine, batch.name)
    assert (after.opens_at, after.closes_at) == (first.opens_at, first.closes_at)


def test_the_schedule_makes_no_other_batch_and_a_target_does(engine: Engine) -> None:
    first = make_batch(engine, 2, name="same")
    rows = [{"prompt": f"fox {i}"} for i in range(2)]
    again = make_batch(engine, rows, name="same", priority=9, window="22:00-07:00 UTC", canary=1)
    assert (again.id, again.is_new) == (first.id, False)
    with pytest.raises(UsageError, match="belongs to a batch"):
        make_batch(engine, rows, name="same", target=5)


def test_an_eta_follows_what_the_lanes_have_measured() -> None:
    lanes = [LaneWork(100, 4, 2.0), LaneWork(10, 0, 30.0)]
    assert seconds_left(lanes, 0, 2) == pytest.approx((200 + 300) / 2)
    assert seconds_left(lanes, 0.5, 2) == pytest.approx(500 / (0.5 * 2.0)), "its share was one worker"
    assert seconds_left([LaneWork(10, 0, None), LaneWork(10, 1, 3.0)], 0, 1) == pytest.approx(60)
    assert seconds_left([LaneWork(10, 0, None)], 2.0, 1) == pytest.approx(5)
    assert seconds_left([LaneWork(10, 0, None)], 0, 1) is None
    assert seconds_left(lanes, 0, 0) is None, "nobody works"


def test_an_eta_jumps_over_closed_hours() -> None:
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    night = "22:00-06:00 UTC"
    assert finish(3600, noon, None, None) == noon + timedelta(hours=1)
    assert finish(3600, noon, noon + timedelta(hours=2), None) == noon + timedelta(hours=3)
    assert finish(8 * 3600, noon, None, night) == datetime(2026, 11, 22, 6, tzinfo=UTC)
    assert finish(9 * 3600, noon, None, night) == datetime(2026, 11, 22, 23, tzinfo=UTC)
    assert finish(1e9, noon, None, night) is None


def test_a_deadline_that_will_be_missed_is_told(engine: Engine) -> None:
    now = datetime.now(UTC)
    batch = make_batch(engine, 100, deadline=now + timedelta(minutes=10))
    assert actions.status(engine, batch.name).misses_deadline is None, "nothing is known yet"
    change(engine, "UPDATE lanes SET image_s = 5; INSERT INTO workers (name, device) VALUES ('w', 'cpu')")
    assert actions.status(engine, batch.name).misses_deadline is False, "500 s"
    change(engine, "UPDATE lanes SET image_s = 7")
    status = actions.status(engine, batch.name)
    assert status.misses_deadline
    assert status.eta_s == pytest.approx(700, abs=1)
    change(engine, "UPDATE lanes SET image_s = 5")
    actions.change(engine, batch.id, {"deadline": now - timedelta(minutes=1)})
    assert actions.status(engine, batch.name).misses_deadline


def test_an_archived_batch_keeps_its_counts_and_images(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop_jobs_and_delete_batches, "CHUNK", 3)
    batch = make_batch(engine, 10)
    with pytest.raises(UsageError, match="haven't ended"):
        drop_jobs_and_delete_batches.archive(engine, actions.status(engine, batch.name))
    jobs = take_all(engine, batch)
    transitions.fail(engine, [failure(jobs[0], ErrorKind.BAD_INPUT)], delay_s=0)
    transitions.complete(engine, [image(job) for job in jobs[1:]])
    seen: list[int] = []
    assert drop_jobs_and_delete_batches.archive(engine, actions.status(engine, batch.name), seen.append) == 10
    assert seen == [3, 6, 9, 10]
    status = actions.status(engine, batch.name)
    assert (status.counts["done"], status.counts["failed"], status.state) == (9, 1, "done")
    assert status.archived_at is not None
    left = look(
        engine,
        "SELECT (SELECT count(*) FROM jobs) j, (SELECT count(*) FROM attempts) a, (SELECT count(*) FROM images) i",
    )
    assert left == [{"j": 0, "a": 0, "i": 9}]
    assert counted_jobs(engine, batch.id) == {"done": 9, "failed": 1}
    with pytest.raises(UsageError, match="is archived, its jobs are gone"):
        actions.retry(engine, batch.id)
    assert drop_jobs_and_delete_batches.archive(engine, status) == 0


def test_a_deleted_batch_leaves_nothing_and_others_alone(
    engine: Engine, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop_jobs_and_delete_batches, "CHUNK", 3)
    store = open_store(str(tmp_path), S3Options())
    rows = [{"prompt": f"fox {i}"} for i in range(7)] + [{"prompt": ""}] * 4
    gone, kept = (make_batch(engine, rows, name=name, output=str(tmp_path)) for name in ("gone", "gone-not"))
    for batch in (gone, kept):
        for job in finish_all(engine, batch, bad=1)[1:]:
            store.put(image_key(batch.name, job.ordinal, 0, "0" * 64, "png"), b"x", content_type="image/png")
    assert drop_jobs_and_delete_batches.delete(engine, actions.status(engine, "gone"), store) == 7 + 6 + 4 + 1
    assert [stored.key.split("/")[0] for stored in store.list("") if "/images/" in stored.key] == [
        "gone-not"
    ] * 6
    with pytest.raises(UsageError, match="no batch"):
        actions.status(engine, "gone")
    for table in ("jobs", "images", "rejects", "job_counts", "lanes"):
        found = look(engine, f"SELECT DISTINCT batch_id FROM {table}")  # noqa: S608
        assert found == [{"batch_id": kept.id}], table
    events = look(engine, "SELECT batch_id, batch, kind FROM events ORDER BY id")
    assert [(row["batch_id"], row["kind"]) for row in events] == [(kept.id, "blocked"), (gone.id, "deleted")]
    assert lane_differences(engine) == []
    again = make_batch(engine, rows, name="gone", output=str(tmp_path))
    assert (again.is_new, again.jobs) == (True, 7)
