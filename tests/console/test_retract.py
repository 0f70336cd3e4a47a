"""`nightmill retract`: rows and files go, readers are told, and `retry --retracted` brings the same images back."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from jobs.batches import actions, drop_jobs_and_delete_batches
from jobs.batches.retract_images import chosen_images, retract
from jobs.feed import feed
from jobs.feed.feed_query import FeedQuery
from jobs.images.where_expression import compile_condition
from jobs.queue import transitions
from jobs.states import EventKind
from jobs.storage.key_layout import CONTACT_SHEET, image_key
from jobs.storage.open import MissingObjectError, ObjectStore, S3Options, open_store
from scheduler.ingest.ingest import Ingested
from scheduler.orphaned_objects import sweep_batch
from tests.console.conftest import Typed
from tests.factories import (
    await_feed,
    image,
    job_row,
    lane_differences,
    lanes_of,
    look,
    make_batch,
    own_since,
    states,
    take,
)

ROWS = [{"prompt": f"fox {i}", "id": f"r{i}", "label": "fox" if i % 2 else "owl"} for i in range(6)]
REASON = ("--reason", "the label is wrong")


def render(engine: Engine, batch: Ingested, store: ObjectStore) -> None:
    """Complete all queued jobs, with files whose bytes follow from the seed."""
    for lane in lanes_of(engine, batch):
        for job in take(engine, lane):
            digest = f"{job.seed:064x}"
            key = image_key(batch.name, job.ordinal, job.index, digest, "png")
            store.put(key, str(job.seed).encode(), content_type="image/png")
            transitions.complete(engine, [image(job, key=key, sha256=digest, bytes=len(str(job.seed)))])


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "output"), S3Options())


@pytest.fixture
def foxes(engine: Engine, store: ObjectStore, tmp_path: Path) -> Iterator[Ingested]:
    batch = make_batch(engine, ROWS, name="foxes", output=str(tmp_path / "output"))
    render(engine, batch, store)
    yield batch
    assert lane_differences(engine) == [] or not look(engine, "SELECT FROM jobs")


def events(engine: Engine) -> list[dict[str, Any]]:
    await_feed(engine)
    query = FeedQuery((EventKind.RETRACTED, EventKind.BATCH))
    return [
        json.loads(line) for page in feed.pages(engine, feed.Cursor(0, 0, 0), query) for line in page.lines
    ]


def files(store: ObjectStore) -> list[str]:
    return [found.key for found in store.list("foxes/images/")]


def test_images_by_number(engine: Engine, typed: Typed, foxes: Ingested, store: ObjectStore) -> None:
    before = look(engine, "SELECT id, key, sha256, job_id FROM images ORDER BY id")
    ended = typed("retract", str(before[1]["id"]), str(before[4]["id"]), *REASON, "--json")
    assert (ended.code, ended.json["retracted"], ended.json["deleted_files"]) == (0, 2, 2), ended.err
    gone = [before[1], before[4]]
    assert files(store) == [row["key"] for row in before if row not in gone]
    assert states(engine, foxes.id) == {"done": 4, "retracted": 2}
    told = [event for event in events(engine) if event["event"] == "retracted"]
    assert [(event["image_id"], event["detail"]) for event in told] == [
        (row["id"], {"reason": "the label is wrong", "key": row["key"], "sha256": row["sha256"]})
        for row in gone
    ]
    assert typed("status", "foxes", "--json").json["counts"]["retracted"] == 2
    again = typed("retract", str(before[1]["id"]), *REASON)
    assert (again.code, f"there are no image rows {before[1]['id']}" in again.err) == (2, True)


@pytest.mark.usefixtures("foxes")
def test_exports_that_still_hold_what_was_retracted_are_named(
    engine: Engine, typed: Typed, tmp_path: Path
) -> None:
    assert typed("export", "foxes", "--format", "jsonl", "--to", str(tmp_path / "a")).code == 0
    assert typed("export", "foxes", "--format", "csv", "--to", str(tmp_path / "b")).code == 0
    one, other = look(engine, "SELECT id FROM exports ORDER BY id")
    typed("exports", "live", str(other["id"]))
    image = look(engine, "SELECT id FROM images ORDER BY id")[0]["id"]
    assert typed("retract", str(image), *REASON, "--dry-run", "--json").json["outdated_exports"] == []
    assert typed("retract", str(image), *REASON, "--json").json["outdated_exports"] == [one["id"]]
    assert typed("export", "foxes", "--format", "jsonl", "--to", str(tmp_path / "a")).code == 0
    ended = typed("retract", str(image + 1), *REASON)
    assert f"is still in: foxes (jsonl) in {tmp_path / 'a'}" in ended.err.replace("\n", " ")
    assert str(tmp_path / "b") not in ended.err


def test_retry_leaves_retracted_jobs_alone_unless_they_are_asked_for(
    engine: Engine, typed: Typed, foxes: Ingested, store: ObjectStore
) -> None:
    before = look(engine, "SELECT id, key, sha256, seed, ordinal FROM images ORDER BY id")
    assert typed("retract", "foxes", "--where", "meta.label = 'fox'", *REASON).code == 0
    assert states(engine, foxes.id) == {"done": 3, "retracted": 3}
    assert "0 jobs queued again" in typed("retry", "foxes").err
    assert "3 jobs queued again" in typed("retry", "foxes", "--retracted").err
    assert "0 jobs queued again" in typed("retry", "foxes", "--retracted").err
    render(engine, foxes, store)
    after = look(engine, "SELECT id, key, sha256, seed, ordinal FROM images ORDER BY ordinal")
    same = [{k: v for k, v in row.items() if k != "id"} for row in before]
    assert [{k: v for k, v in row.items() if k != "id"} for row in after] == same
    assert [new["id"] > old["id"] for new, old in zip(after, before, strict=True)] == [False, True] * 3
    assert files(store) == [row["key"] for row in after]
    assert typed("retry", "foxes", "--retracted", "--only", "failed").code == 2


def test_the_contact_sheet_goes_with_what_it_shows(typed: Typed, foxes: Ingested, store: ObjectStore) -> None:
    sheet = f"foxes/{CONTACT_SHEET}"
    store.put(sheet, b"six foxes", content_type="image/png")
    assert typed("retract", "foxes", "--where", "ordinal = 9", *REASON).code == 0
    assert typed("retract", "foxes", "--where", "ordinal = 1", *REASON, "--keep-files").code == 0
    assert store.get(sheet) == b"six foxes"
    assert typed("retract", "foxes", "--where", "ordinal = 2", *REASON).code == 0
    with pytest.raises(MissingObjectError):
        store.get(sheet)
    assert typed("retract", "foxes", "--where", "ordinal = 3", *REASON).code == 0


def test_the_contact_sheet_goes_first(
    engine: Engine, foxes: Ingested, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever repeats a call that was cut off has nothing left to retract."""
    store.put(f"foxes/{CONTACT_SHEET}", b"six foxes", content_type="image/png")
    (page,) = chosen_images(engine, foxes.id, compile_condition("ordinal = 1"))

    def cut_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transitions, "retract", cut_off)
    with pytest.raises(KeyboardInterrupt):
        retract(engine, actions.status(engine, "foxes"), page, "wrong", store)
    with pytest.raises(MissingObjectError):
        store.get(f"foxes/{CONTACT_SHEET}")


def test_files_that_are_kept_are_not_swept(
    engine: Engine, typed: Typed, foxes: Ingested, store: ObjectStore, tmp_path: Path
) -> None:
    own_since(engine, foxes, str(tmp_path / "output"), days=1)
    there = files(store)
    kept = typed("retract", "foxes", "--where", "ordinal = 1", *REASON, "--keep-files", "--json")
    assert (kept.json["retracted"], kept.json["deleted_files"]) == (1, 0)
    assert list(sweep_batch(engine, store, foxes.id, older_than=timedelta(0))) in ([], [[]])
    assert files(store) == there


def test_nothing_is_done_without_yes_above_ten(engine: Engine, typed: Typed, tmp_path: Path) -> None:
    batch = make_batch(engine, 12, name="many", output=str(tmp_path / "output"))
    render(engine, batch, open_store(str(tmp_path / "output"), S3Options()))
    asked = typed("retract", "many", "--where", "ordinal >= 0", *REASON)
    assert (asked.code, "this retracts 12 images of many for good: say --yes" in asked.err) == (2, True)
    tried = typed("retract", "many", "--where", "ordinal > 0", *REASON, "--dry-run", "--json")
    assert (tried.code, tried.json["chosen"], tried.json["retracted"]) == (0, 11, 0)
    assert states(engine, batch.id) == {"done": 12}
    assert typed("retract", "many", "--where", "ordinal > 0", *REASON, "--yes").code == 0
    assert states(engine, batch.id) == {"done": 1, "retracted": 11}


def test_images_of_an_archived_batch(
    engine: Engine, typed: Typed, foxes: Ingested, store: ObjectStore
) -> None:
    drop_jobs_and_delete_batches.archive(engine, actions.status(engine, "foxes"))
    ended = typed("retract", "foxes", "--where", "meta.label = 'owl'", *REASON, "--json")
    assert (ended.code, ended.json["retracted"], ended.json["deleted_files"]) == (0, 3, 3), ended.err
    assert len(files(store)) == 3
    counts = actions.status(engine, "foxes").counts
    assert {state: n for state, n in counts.items() if n} == {"done": 3, "retracted": 3}
    rows = look(engine, "SELECT ordinal, state, meta FROM archived_jobs ORDER BY ordinal")
    assert [(row["ordinal"], row["state"], row["meta"]["label"]) for row in rows] == [
        (n, "retracted", "owl") for n in (0, 2, 4)
    ]
    assert [event["ordinal"] for event in events(engine) if event["event"] == "retracted"] == [0, 2, 4]
    assert "is archived, its jobs are gone" in typed("retry", "foxes", "--retracted").err


def test_what_changed_since_it_was_looked_at_is_left_alone(
    engine: Engine, foxes: Ingested, store: ObjectStore
) -> None:
    """A second retraction of the same rows, after the first one's jobs were rendered again."""
    batch = actions.status(engine, "foxes")
    (page,) = chosen_images(engine, foxes.id, compile_condition("ordinal < 2"))
    assert retract(engine, batch, page, "bad", store) == (2, 2)
    assert retract(engine, batch, page, "bad", store) == (0, 0)
    assert actions.retry_retracted(engine, foxes.id) == 2
    render(engine, foxes, store)
    assert retract(engine, batch, page, "bad", store) == (0, 0)
    assert len(files(store)) == 6
    assert job_row(engine, page[0].job)["state"] == "done"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("foxes", *REASON), "foxes is no image_id: give numbers of images, or a batch with --where"),
        (("foxes", "owls", "--where", "ordinal = 1", *REASON), "--where chooses images of one batch"),
        (("foxes", "--where", "ordinal = 1", "--reason", " "), "--reason: say why"),
        (("foxes", "--where", "ordinal = ", *REASON), "expected a value"),
        (("999", *REASON), "there are no image rows 999"),
        (("nobody", "--where", "ordinal = 1", *REASON), "no batch 'nobody'"),
    ],
)
def test_what_is_wrong_is_said(typed: Typed, foxes: Ingested, options: tuple[str, ...], message: str) -> None:
    ended = typed("retract", *options)
    assert (ended.code, message in " ".join(ended.err.split())) == (2, True), ended.err


def test_copies_are_told_and_taken_with_the_option(typed: Typed, engine: Engine) -> None:
    """Copies as a worker's reuse writes them: two batches with the files of the first, the second of a copy."""
    store = open_store(typed.settings.output, S3Options())
    batches = [make_batch(engine, 2, name=name, output=typed.settings.output) for name in "abc"]
    for batch in batches:
        render(engine, batch, store)
    rows = [
        look(engine, "SELECT id FROM images WHERE batch_id = :id ORDER BY ordinal", id=batch.id)
        for batch in batches
    ]
    first, second, third = ([row["id"] for row in found] for found in rows)
    copied = "UPDATE images SET reused_from = :root WHERE id = ANY (:ids)"
    with engine.begin() as connection:
        connection.execute(text(copied), {"root": first[0], "ids": [second[0], third[0]]})
    asked = typed("retract", str(second[0]), *REASON, "--dry-run", "--copies", "--json").json
    assert (asked["chosen"], asked["copy_ids"]) == (3, [first[0], third[0]])
    alone = typed("retract", str(first[0]), *REASON)
    assert "2 copies of them in other rows stay" in alone.err
    taken = typed("retract", str(second[0]), *REASON, "--copies", "--json").json
    assert (taken["chosen"], taken["retracted"], taken["deleted_files"]) == (2, 2, 2)
    left = [row["id"] for row in look(engine, "SELECT id FROM images ORDER BY id")]
    assert left == [first[1], second[1], third[1]]
