"""The retention policy: what is archived and deleted, and what is kept because somebody needs it."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from jobs.batches import drop_jobs_and_delete_batches
from jobs.batches.record_batch_end_events import record_batch_events
from jobs.batches.status import status_by_id
from jobs.db.installation_id import this_installation
from jobs.errors import UsageError
from jobs.exports import records
from jobs.feed.consumers import find_or_create, turn
from jobs.feed.feed import parse_cursor
from jobs.feed.feed_query import FeedQuery
from jobs.job_dataclasses import BatchId
from jobs.process_lifecycle import SignalSafeEvent
from jobs.queue import transitions
from jobs.settings import Settings, load_settings
from scheduler.retention.archive_and_delete_old_batches import LOCK, Retention, retention_said
from scheduler.retention.exports_and_consumers_that_need_a_batch import who_needs
from tests.command_line import Nightmill
from tests.factories import age, change, image, lanes_of, look, make_batch, take
from tests.jobs.feed.test_feed import settled

Policy = Callable[..., Retention]


@pytest.fixture
def policy(settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """Makes a scheduler's policy, which looks at kept batches in every round."""
    monkeypatch.setattr("scheduler.retention.archive_and_delete_old_batches.KEPT_S", 0.0)

    def make(stopping: SignalSafeEvent | None = None, **given: str) -> Retention:
        return Retention(settings.model_copy(update=given), engine, stopping or SignalSafeEvent())

    return make


def finished(engine: Engine, name: str, days_ago: float, jobs: int = 2) -> int:
    """A batch whose jobs are all done, since so many days."""
    batch = make_batch(engine, jobs, name=name)
    (lane,) = lanes_of(engine, batch)
    transitions.complete(engine, [image(job) for job in take(engine, lane)])
    record_batch_events(engine)
    age(engine, days_ago * 86_400, batch.id)
    return batch.id


def rows(engine: Engine) -> dict[str, tuple[int, int]]:
    """The jobs and image rows of each batch."""
    found = look(
        engine,
        "SELECT name, (SELECT count(*) FROM jobs WHERE batch_id = b.id) AS jobs, "
        "(SELECT count(*) FROM images WHERE batch_id = b.id) AS images FROM batches b ORDER BY id",
    )
    return {row["name"]: (row["jobs"], row["images"]) for row in found}


def make_export(engine: Engine, *batches: int) -> int:
    with engine.begin() as connection:
        export = records.create(
            connection,
            installation=this_installation(engine).id,
            name="all",
            place=("/output", "all/"),
            format="parquet",
            options={},
            shard_rows=10,
            is_live=True,
            replaced={},
            columns=(),
        )
        records.add_shards(connection, export.id, batches)  # type: ignore[arg-type]
    return export.id


def write_all(engine: Engine) -> None:
    change(
        engine,
        "UPDATE export_shards SET written_generation = generation, is_sealed = true, written_at = now()",
    )
    change(engine, "UPDATE exports SET finished_at = now(), is_complete = true")


def test_old_batches_are_archived_and_older_ones_deleted(
    policy: Policy, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    finished(engine, "older", 181)
    finished(engine, "old", 31)
    finished(engine, "young", 29)
    make_batch(engine, 2, name="open")
    assert policy().round() == 0
    assert policy(keep_jobs="30d", keep_batches="180d").round() == 2
    assert rows(engine) == {"old": (0, 2), "young": (2, 2), "open": (2, 0)}
    (event,) = look(engine, "SELECT batch, detail FROM events WHERE kind = 'deleted'")
    assert (event["batch"], event["detail"]["by"]) == ("older", "retention")
    assert "batch older ended over 180d ago and is deleted" in caplog.text
    assert "batch old ended over 30d ago and is archived: 2 jobs" in caplog.text
    assert policy(keep_jobs="30d", keep_batches="180d").round() == 0


def test_a_batch_that_was_opened_and_has_ended_while_nobody_looked_is_kept(
    policy: Policy, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """As when somebody retried an old batch while no scheduler ran."""
    batch = finished(engine, "old", 31)
    change(engine, "UPDATE lanes SET ended_at = now()")
    assert policy(keep_batches="30d", keep_jobs="30d").round() == 0
    assert "batch old was queued again and has ended since" in caplog.text
    record_batch_events(engine)
    (row,) = look(engine, "SELECT ended_at > now() - interval '1 min' AS is_new FROM batches")
    assert row["is_new"]
    record_batch_events(engine)
    change(engine, "UPDATE lanes SET ended_at = now() + interval '1 min'")  # by a server whose clock is ahead
    for _ in range(3):
        record_batch_events(engine)
    ends = "SELECT count(*) AS n FROM events WHERE kind = 'batch' AND batch_id = :id"
    assert look(engine, ends, id=batch) == [{"n": 3}]


def test_a_batch_that_is_being_exported_is_kept(policy: Policy, engine: Engine) -> None:
    batch = finished(engine, "old", 31)
    export = make_export(engine, batch)
    change(engine, "UPDATE exports SET is_live = false")
    lease = "UPDATE export_shards SET lease = gen_random_uuid(), lease_until = now() + interval '1 min'"
    written = "UPDATE export_shards SET lease = NULL, lease_until = NULL, written_at = now()"
    for statement in (lease, written):
        change(engine, statement)
        assert policy(keep_batches="30d").round() == 0
        assert who_needs(engine, BatchId(batch)) == f"it is being exported (export {export}, all)"
        with pytest.raises(UsageError, match=f"batch old is being exported .export {export}, all."):
            drop_jobs_and_delete_batches.delete(engine, status_by_id(engine, BatchId(batch)))
    change(engine, "UPDATE export_shards SET written_at = now() - interval '11 min'")
    assert policy(keep_batches="30d").round() == 1, "whoever wrote it was killed"


def test_what_a_consumer_has_not_read_is_kept_and_told_once(
    policy: Policy, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    finished(engine, "old", 31)
    later = finished(engine, "later", 31)
    first, *_, last = settled(engine, 4)
    find_or_create(engine, "etl", None)
    keeping = policy(keep_batches="30d")
    for _ in range(2):
        assert keeping.round() == 0
    said = "is kept: the consumer etl hasn't read all of it"
    assert caplog.text.count(said) == 2, "of each batch once"
    with turn(engine, "etl", FeedQuery()) as own:
        own.acknowledge(parse_cursor(first["cursor"]))
    assert keeping.round() == 0
    change(engine, "UPDATE consumers SET batch_id = :id", id=later)
    assert keeping.round() == 1
    assert list(rows(engine)) == ["later"]
    change(engine, "UPDATE consumers SET batch_id = NULL")
    with turn(engine, "etl", FeedQuery()) as own:
        own.acknowledge(parse_cursor(last["cursor"]))
    assert keeping.round() == 1
    assert rows(engine) == {}


def test_events_that_a_consumer_reads_keep_a_batch(policy: Policy, engine: Engine) -> None:
    batch = make_batch(engine, 1, name="old")
    change(engine, "UPDATE lanes SET ended_at = now()")
    change(engine, "UPDATE batches SET ended_at = now()")
    age(engine, 31 * 86_400)
    change(engine, "UPDATE jobs SET state = 'cancelled', finished_at = now()")
    change(
        engine,
        "INSERT INTO events (id, epoch, kind, batch_id, batch) "
        "VALUES (nextval('images_id_seq'), 1, 'failed', :id, 'old')",
        id=batch.id,
    )
    change(engine, "INSERT INTO consumers (name, kinds) VALUES ('etl', '{failed}')")
    assert policy(keep_batches="30d").round() == 0
    change(engine, "UPDATE consumers SET kinds = '{image}'")
    assert policy(keep_batches="30d").round() == 1


def test_live_exports_keep_a_batch_until_they_are_complete(
    policy: Policy, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    export = make_export(engine, finished(engine, "old", 31))
    keeping = policy(keep_batches="30d")
    assert keeping.round() == 0
    assert f"the live export {export} (all) isn't complete: `nightmill exports stop {export}`" in caplog.text
    write_all(engine)
    assert keeping.round() == 1


def test_a_live_export_of_several_batches_keeps_each(
    policy: Policy, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """When it is next finished, it would delete the files of the one that is gone."""
    export = make_export(engine, finished(engine, "old", 31), finished(engine, "young", 1))
    write_all(engine)
    keeping = policy(keep_batches="30d")
    assert keeping.round() == 0
    assert "holds other batches, too" in caplog.text
    records.make_live(engine, export, is_live=False)
    assert keeping.round() == 1


def test_a_kept_batch_is_left_alone_for_a_while(
    policy: Policy, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.retention.archive_and_delete_old_batches.KEPT_S", 600.0)
    finished(engine, "old", 31)
    find_or_create(engine, "etl", None)
    keeping = policy(keep_batches="30d")
    assert keeping.round() == 0
    change(engine, "DELETE FROM consumers")
    assert keeping.round() == 0
    assert policy(keep_batches="30d").round() == 1


def test_one_scheduler_at_a_time(policy: Policy, engine: Engine) -> None:
    finished(engine, "old", 31)
    with engine.connect() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        assert policy(keep_jobs="30d").round() == 0
    assert policy(keep_jobs="30d").round() == 1


def test_a_few_batches_a_round(policy: Policy, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.retention.archive_and_delete_old_batches.A_ROUND", 2)
    for number in range(3):
        finished(engine, f"old-{number}", 31, jobs=1)
    assert policy(keep_batches="30d").round() == 2
    assert list(rows(engine)) == ["old-2"]


def test_a_scheduler_that_stops_leaves_the_rest_to_the_next(
    policy: Policy, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop_jobs_and_delete_batches, "CHUNK", 1)
    finished(engine, "old", 31, jobs=3)
    stopping = SignalSafeEvent()
    one = policy(stopping, keep_batches="30d")
    delete = drop_jobs_and_delete_batches.run

    def run_once(*given: Any) -> Any:
        stopping.set()
        return delete(*given)

    with monkeypatch.context() as patched:
        patched.setattr(drop_jobs_and_delete_batches, "run", run_once)
        assert one.round() == 0
    assert rows(engine) == {"old": (2, 3)}
    assert policy(keep_batches="30d").round() == 1
    assert rows(engine) == {}


def test_the_thread_ends_at_once_where_the_policy_is_off_and_with_the_scheduler(
    policy: Policy, engine: Engine
) -> None:
    policy().start().join()
    finished(engine, "old", 31)
    stopping = SignalSafeEvent()
    thread = policy(stopping, keep_batches="30d").start()
    while rows(engine):
        pass
    stopping.set()
    thread.join()


def test_a_scheduler_process_does_it(settings: Settings, engine: Engine, tmp_path: Path) -> None:
    finished(engine, "old", 31)
    nightmill = Nightmill(settings.model_copy(update={"keep_batches": "30d"}), tmp_path)
    process = nightmill.start("scheduler")
    while rows(engine):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.terminate()
    _, log = process.communicate()
    assert (process.returncode, "batch old ended over 30d ago and is deleted" in log) == (0, True), log


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("30", "a length of time, as in 90s"),
        ("a month", "a length of time"),
        ("59m", "at least 1h"),
        ("0d", "1h"),
    ],
)
def test_what_is_no_age_is_refused(monkeypatch: pytest.MonkeyPatch, given: str, said: str) -> None:
    monkeypatch.setenv("NIGHTMILL_KEEP_BATCHES", given)
    with pytest.raises(UsageError, match=f"NIGHTMILL_KEEP_BATCHES: must be .*{said}"):
        load_settings()


def test_what_is_set_is_said(settings: Settings) -> None:
    assert retention_said(settings) == "off: no batch is archived or deleted by itself"
    both = settings.model_copy(update={"keep_jobs": "30d", "keep_batches": "180d"})
    said = (
        "schedulers archive batches 30d after their end and delete batches 180d after their end, files stay"
    )
    assert retention_said(both) == said
