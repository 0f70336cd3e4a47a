"""Events beside images: what writes one, what it tells, and where it stands in the order."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, text

from jobs.batches import actions, drop_jobs_and_delete_batches
from jobs.batches.record_batch_end_events import record_batch_events
from jobs.errors import LeaseLostError
from jobs.feed.write_events import Event, add_event
from jobs.job_dataclasses import Failure
from jobs.queue import transitions
from jobs.states import ErrorKind, EventKind
from tests.factories import (
    change,
    expire,
    failure,
    image,
    lanes_of,
    look,
    make_batch,
    take,
)


def events(engine: Engine) -> list[dict[str, Any]]:
    """All events in the feed's order."""
    return look(engine, "SELECT * FROM events ORDER BY epoch, xid, id")


def kinds(engine: Engine) -> list[str]:
    return [row["kind"] for row in events(engine)]


def test_what_ends_without_an_image_is_an_event_and_what_is_tried_again_is_none(engine: Engine) -> None:
    rows = [{"prompt": f"fox {i}", "id": f"f{i}"} for i in range(4)]
    batch = make_batch(engine, rows, name="foxes", max_attempts=2)
    done, broken, blocked, again = take(engine, lanes_of(engine, batch)[0])
    transitions.complete(engine, [image(done)])
    transitions.fail(engine, [failure(again, ErrorKind.EXCEPTION)], delay_s=0)
    transitions.fail(engine, [failure(broken, ErrorKind.BAD_INPUT, "no such file")], delay_s=0)
    scores = {"concepts": [0.25], "special_care": []}
    transitions.block(
        engine, [Failure(blocked.id, blocked.lease, ErrorKind.SAFETY, "concept 0 at +0.250", scores)]
    )
    failed, withheld = events(engine)
    assert (failed["kind"], failed["batch"], failed["batch_id"]) == ("failed", "foxes", batch.id)
    assert (failed["job_id"], failed["ordinal"], failed["index"], failed["row_id"]) == (broken.id, 1, 0, "f1")
    assert failed["detail"] == {"error_kind": "bad-input", "error_text": "no such file", "attempts": 1}
    assert (withheld["kind"], withheld["job_id"]) == ("blocked", blocked.id)
    assert withheld["detail"] == {
        "error_kind": "safety",
        "error_text": "concept 0 at +0.250",
        "attempts": 1,
        "scores": scores,
    }


def test_events_and_images_stand_in_one_order(engine: Engine) -> None:
    jobs = take(engine, lanes_of(engine, make_batch(engine, 6))[0])
    for job in jobs:
        if job.ordinal % 2:
            transitions.complete(engine, [image(job)])
        else:
            transitions.block(engine, [failure(job)])
    both = look(
        engine,
        "SELECT id, xid, job_id FROM images UNION ALL SELECT id, xid, job_id FROM events ORDER BY xid, id",
    )
    assert [row["job_id"] for row in both] == [job.id for job in jobs]
    assert len({row["id"] for row in both}) == 6


def test_a_job_that_is_rescued_for_the_last_time_is_an_event(engine: Engine) -> None:
    batch = make_batch(engine, 2, max_attempts=1)
    expire(engine, *take(engine, lanes_of(engine, batch)[0]))
    assert transitions.rescue(engine) == 2
    assert [(row["kind"], row["detail"]["error_kind"]) for row in events(engine)] == [("failed", "crash")] * 2


@pytest.mark.parametrize("end", [transitions.block, lambda *a: transitions.fail(*a, delay_s=0)])
def test_who_has_lost_the_lease_writes_no_event(engine: Engine, end: Any) -> None:
    batch = make_batch(engine, 1, max_attempts=1)
    (job,) = take(engine, lanes_of(engine, batch)[0])
    change(engine, "UPDATE jobs SET lease = gen_random_uuid()")
    with pytest.raises(LeaseLostError):
        end(engine, [failure(job)])
    assert events(engine) == []


def test_an_image_whose_file_is_lost_is_retracted(engine: Engine) -> None:
    batch = make_batch(engine, [{"prompt": "a", "id": "a1"}], name="foxes")
    (job,) = take(engine, lanes_of(engine, batch)[0])
    made = image(job)
    transitions.complete(engine, [made])
    (row,) = look(engine, "SELECT id, key FROM images")
    assert transitions.render_again(engine, batch.id, [(row["id"], row["key"])], "gone") == 1
    (event,) = events(engine)
    assert (event["kind"], event["image_id"], event["row_id"]) == ("retracted", row["id"], "a1")
    assert event["detail"] == {"reason": "gone", "key": made.key, "sha256": made.sha256}
    assert event["id"] > row["id"]


def test_a_batch_that_ends_is_an_event_once_after_its_images(engine: Engine) -> None:
    batch = make_batch(engine, [{"prompt": "a"}, {"prompt": "b", "width": 96}, {"prompt": ""}], name="foxes")
    first, second = (take(engine, lane)[0] for lane in lanes_of(engine, batch))
    transitions.complete(engine, [image(first)])
    assert record_batch_events(engine) == 0
    transitions.block(engine, [failure(second)])
    with ThreadPoolExecutor(4) as threads:
        recorded = sum(threads.map(lambda _: record_batch_events(engine), range(8)))
    assert recorded == 1
    _, event = events(engine)
    assert (event["kind"], event["batch"], event["ordinal"]) == ("batch", "foxes", None)
    counts = {"done": 1, "blocked": 1}
    assert event["detail"] == {"state": "done", "counts": counts, "rows": 3, "rejected": 1}


def test_a_batch_that_is_cancelled_and_opened_again_tells_each(engine: Engine) -> None:
    batch = make_batch(engine, 2)
    actions.cancel(engine, batch.id)
    actions.retry(engine, batch.id)
    for job in take(engine, lanes_of(engine, batch)[0]):
        transitions.complete(engine, [image(job)])
    record_batch_events(engine)
    states = [(row["detail"]["state"], row["detail"]["counts"]) for row in events(engine)]
    assert states == [("cancelled", {"cancelled": 2}), ("queued", {"queued": 2}), ("done", {"done": 2})]


def test_a_deleted_batch_leaves_one_event(engine: Engine) -> None:
    batch = make_batch(engine, 3, name="foxes", output="s3://bucket/foxes")
    for job in take(engine, lanes_of(engine, batch)[0]):
        transitions.block(engine, [failure(job)])
    record_batch_events(engine)
    drop_jobs_and_delete_batches.delete(engine, actions.status(engine, "foxes"))
    (event,) = events(engine)
    assert (event["kind"], event["batch_id"], event["batch"]) == ("deleted", batch.id, "foxes")
    assert event["detail"]["counts"]["blocked"] == 3
    again = make_batch(engine, 4, name="foxes", output="s3://bucket/foxes")
    assert again.id > batch.id, "whoever reads can tell the two apart"


def test_an_event_is_added_inside_a_transaction(engine: Engine) -> None:
    batch = make_batch(engine, 1, name="foxes")
    with engine.connect() as connection:
        add_event(connection, Event(EventKind.SEALED, batch.id, detail={"shard": 3}))
        connection.rollback()
    assert events(engine) == []
    with engine.begin() as connection:
        number = add_event(connection, Event(EventKind.SEALED, batch.id, detail={"shard": 4, "files": ["ä"]}))
    (event,) = events(engine)
    assert (event["id"], event["kind"], event["batch"]) == (number, "sealed", "foxes")
    assert event["detail"] == {"shard": 4, "files": ["ä"]}
    assert event["epoch"] == 0


def test_in_another_cluster_events_are_of_the_next_epoch(engine: Engine) -> None:
    batch = make_batch(engine, 1, max_attempts=1)
    (job,) = take(engine, lanes_of(engine, batch)[0])
    change(engine, "INSERT INTO feed_epochs (id, cluster) VALUES (7, 'elsewhere')")
    transitions.fail(engine, [failure(job)], delay_s=0)
    assert [row["epoch"] for row in events(engine)] == [8]


def test_the_table_takes_no_other_kinds(engine: Engine) -> None:
    with pytest.raises(Exception, match="events_kind_check"), engine.begin() as connection:
        connection.execute(
            text("INSERT INTO events (id, epoch, kind, batch_id, batch) VALUES (1, 0, 'image', 1, 'b')")
        )
