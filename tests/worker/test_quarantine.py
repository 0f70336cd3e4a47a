"""Quarantine: flagged images are kept beside the dataset, and come back without being rendered again."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.batches import actions, dead_letters, drop_jobs_and_delete_batches
from jobs.batches.check_and_repair_objects import check
from jobs.batches.move_images_to_another_output import delete_moved, move
from jobs.db.engine import database_time, transact
from jobs.feed import feed
from jobs.feed.feed_query import FeedQuery
from jobs.outputs.ownership import claim
from jobs.policy.change_policy import change_policy
from jobs.policy.safety_thresholds import SafetyThresholds
from jobs.queue import transitions
from jobs.report.failures_since import failures_since
from jobs.safety_reevaluation.apply_safety_policy import SafetyPolicy
from jobs.safety_reevaluation.block_and_unblock_jobs import hold
from jobs.safety_reevaluation.select_changed_verdicts import count_freed_jobs
from jobs.states import STORED_EVENTS, EventKind, SafetyAction, SafetyStrength
from jobs.storage.key_layout import image_key, parse_image_key, parse_quarantine_key, quarantine_key
from jobs.storage.open import ObjectStore, S3Options, open_store
from scheduler.ingest.ingest import Ingested
from scheduler.orphaned_objects import sweep_batch
from tests.factories import await_feed, change, look, own_since, states
from tests.worker.contexts import files_in, images_of, jobs_of, render
from tests.worker.test_judge import ALL, NOTHING, judged, work_off
from worker.lanes.worker_context import WorkerContext

FOX = {"prompt": "a red fox", "steps": 2, "seed": 7}
FLAGGED = FOX | {"model": "flagged"}


@pytest.fixture
def foxes(context: WorkerContext, tmp_path: Path) -> Ingested:
    """One image that is flagged, one that isn't, one prompt that is blocked."""
    return render(context, tmp_path, [FLAGGED, FOX, FOX | {"prompt": "a naked man"}], safety="quarantine")


def store_of(context: WorkerContext) -> ObjectStore:
    return open_store(context.settings.output, S3Options())


def files(context: WorkerContext) -> list[str]:
    return files_in(Path(context.settings.output))


def in_quarantine(context: WorkerContext) -> list[str]:
    return [name for name in files(context) if "/quarantine/" in name]


def events(context: WorkerContext) -> list[dict[str, Any]]:
    await_feed(context.engine)
    query = FeedQuery((EventKind.IMAGE, *STORED_EVENTS))
    pages = feed.pages(context.engine, feed.Cursor(0, 0, 0), query)
    return [json.loads(line) for page in pages for line in page.lines]


def test_keys_of_quarantined_images_are_no_image_keys() -> None:
    key = image_key("foxes", 1234, 0, "a" * 64, "png")
    place = quarantine_key(key)
    assert place == f"foxes/quarantine/000001/000001234-00000.{'a' * 12}.png"
    assert (parse_image_key(place), parse_quarantine_key(key)) == (None, None)
    assert parse_quarantine_key(place) == parse_image_key(key)


def test_flagged_images_are_kept_beside_the_dataset(context: WorkerContext, foxes: Ingested) -> None:
    flagged, safe, prompt = jobs_of(context.engine, foxes)
    assert [job["state"] for job in (flagged, safe, prompt)] == ["blocked", "done", "blocked"]
    assert flagged["error_text"].startswith("safety checker: concept 0 at +")
    (image,) = images_of(context.engine, foxes)
    (quarantined,) = in_quarantine(context)
    assert files(context) == sorted([image["key"], quarantined])
    found = dead_letters.failures(context.engine, foxes.id)
    assert [job["quarantined"] for job in found] == [quarantined, None]
    assert found[0]["history"][0]["outcome"] == "blocked"
    began = database_time(context.engine) - timedelta(hours=1)
    lately = {
        job["job"]: job["quarantined"] for job in failures_since(context.engine, began, None, None, limit=9)
    }
    assert lately == {flagged["id"]: quarantined, prompt["id"]: None}
    told = {event["job_id"]: event for event in events(context) if event["event"] in ("image", "blocked")}
    assert told[flagged["id"]]["event"] == "blocked"
    assert told[flagged["id"]]["detail"]["quarantined"] == quarantined
    assert len(told[flagged["id"]]["detail"]["scores"]["concepts"]) == 17
    assert "quarantined" not in told[prompt["id"]]["detail"]


def test_a_freed_image_is_moved_and_not_rendered_again(context: WorkerContext, foxes: Ingested) -> None:
    (quarantined,) = in_quarantine(context)
    body = store_of(context).get(quarantined)
    done = judged(context, foxes, NOTHING)
    assert (done.restored, done.queued, done.blocked) == (1, 0, 0)
    assert states(context.engine) == {"done": 2, "blocked": 1}
    freed, _ = images_of(context.engine, foxes)
    assert (quarantine_key(freed["key"]), in_quarantine(context)) == (quarantined, [])
    assert store_of(context).get(freed["key"]) == body
    assert (freed["safety_verdict"], freed["safety_reason"]) == ("safe", None)
    assert (freed["prompt"], freed["seed"], freed["worker"]) == ("a red fox", 7, "tester")
    assert freed["versions"]["safety_thresholds"] == "all=-2"
    assert freed["quality"] is not None or freed["phash"] is not None
    status = actions.status(context.engine, str(foxes.id))
    assert [wrong for page in check(context.engine, store_of(context), status) for wrong in page] == []
    assert [event["job_id"] for event in events(context) if event["event"] == "image"][-1] == freed["job_id"]
    again = judged(context, foxes, NOTHING)
    assert (again.restored, again.queued, again.blocked) == (0, 0, 0)


def test_blocked_images_are_moved_into_quarantine_and_back(context: WorkerContext, foxes: Ingested) -> None:
    (before,) = images_of(context.engine, foxes)
    blocked = judged(context, foxes, ALL)
    assert (blocked.blocked, blocked.quarantined_files, blocked.deleted_files) == (1, 1, 0)
    assert images_of(context.engine, foxes) == []
    assert files(context) == in_quarantine(context)
    assert quarantine_key(before["key"]) in in_quarantine(context)
    retracted, told = [event for event in events(context) if event["job_id"] == before["job_id"]][-2:]
    assert (retracted["event"], told["event"]) == ("retracted", "blocked")
    assert told["detail"]["quarantined"] == quarantine_key(before["key"])
    freed = judged(context, foxes, None)
    assert (freed.restored, freed.queued) == (1, 0)
    (after,) = images_of(context.engine, foxes)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"id", "xid", "inputs_sha256", "created_at"}


def test_a_batch_that_blocked_may_keep_what_another_policy_blocks(
    context: WorkerContext, tmp_path: Path
) -> None:
    batch = render(context, tmp_path, [FLAGGED, FOX])
    assert in_quarantine(context) == []
    done = judged(context, batch, ALL, action=SafetyAction.QUARANTINE)
    assert (done.blocked, done.quarantined_files, len(in_quarantine(context))) == (1, 1, 1)
    freed = judged(context, batch, NOTHING)
    assert (freed.restored, freed.queued) == (1, 1), "of one that was blocked before there is no file"
    work_off(context, batch)
    assert states(context.engine) == {"done": 2}


def test_a_file_that_was_damaged_is_rendered_again(context: WorkerContext, foxes: Ingested) -> None:
    (quarantined,) = in_quarantine(context)
    store_of(context).put(quarantined, b"no image", content_type="image/png")
    done = judged(context, foxes, NOTHING)
    assert (done.restored, done.queued) == (0, 1)
    work_off(context, foxes)
    assert states(context.engine) == {"done": 2, "blocked": 1}


def test_a_freed_image_is_not_reused_as_one_that_was_not_flagged(
    context: WorkerContext, foxes: Ingested, tmp_path: Path
) -> None:
    judged(context, foxes, NOTHING)
    batch = render(context, tmp_path, [FLAGGED, FOX], safety="quarantine")
    assert [job["state"] for job in jobs_of(context.engine, batch)] == ["blocked", "done"]


def test_a_sweep_takes_only_what_no_blocked_job_names(context: WorkerContext, foxes: Ingested) -> None:
    engine, store = context.engine, store_of(context)
    claim(engine, store, foxes.id, foxes.name)
    own_since(engine, foxes, context.settings.output, days=1)
    kept = in_quarantine(context)

    def swept() -> list[str]:
        pages = sweep_batch(engine, store, foxes.id, older_than=timedelta(seconds=-5))
        return [found.key for page in pages for found in page]

    assert swept() == []
    transitions.retry(engine, foxes.id, ["blocked"], "safety")
    assert swept() == [], "its job may still be blocked with the same file"
    work_off(context, foxes)
    (other,) = [name for name in in_quarantine(context) if name not in kept]
    assert swept() == kept
    assert in_quarantine(context) == [other]
    assert dead_letters.failures(engine, foxes.id)[0]["quarantined"] == other


def test_what_was_retried_is_not_freed_with_the_file_of_before(
    context: WorkerContext, foxes: Ingested
) -> None:
    engine = context.engine
    judged(context, foxes, None, action=SafetyAction.BLOCK)
    transitions.retry(engine, foxes.id, ["blocked"], "safety")
    work_off(context, foxes)
    assert dead_letters.failures(engine, foxes.id)[0]["quarantined"] is None
    done = judged(context, foxes, NOTHING)
    assert (done.restored, done.queued) == (0, 1)


def test_delete_and_move_take_what_is_in_quarantine(
    context: WorkerContext, foxes: Ingested, tmp_path: Path
) -> None:
    engine, store = context.engine, store_of(context)
    there = files(context)
    target = open_store(str(tmp_path / "elsewhere"), S3Options())
    claim(engine, target, foxes.id, foxes.name)
    status = actions.status(engine, str(foxes.id))
    move(engine, status, store, target, str(tmp_path / "elsewhere"))
    delete_moved(engine, status, store)
    assert (files(context), files_in(tmp_path / "elsewhere")) == ([], there)
    moved = actions.status(engine, str(foxes.id))
    drop_jobs_and_delete_batches.archive(engine, moved)
    assert [job["quarantined"] is None for job in dead_letters.failures(engine, foxes.id)] == [False, True]
    drop_jobs_and_delete_batches.delete(engine, moved, target)
    assert files_in(tmp_path / "elsewhere") == []
    assert look(engine, "SELECT * FROM quarantined_images") == []
    assert not (tmp_path / "elsewhere" / foxes.name).exists()


def test_a_lost_lease_keeps_no_other_job_from_being_stored(
    context: WorkerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = transitions.block
    stolen: list[int] = []

    def steal(engine: Any, failures: Any, **options: Any) -> None:
        if not stolen:
            stolen.append(failures[0].id)
            change(engine, "UPDATE jobs SET lease = gen_random_uuid() WHERE id = :id", id=failures[0].id)
        block(engine, failures, **options)

    monkeypatch.setattr("worker.lanes.delivery.transitions.block", steal)
    batch = render(
        context, tmp_path, [FLAGGED, FLAGGED | {"seed": 8}, FLAGGED | {"seed": 9}], safety="quarantine"
    )
    assert states(context.engine) == {"blocked": 2, "running": 1}, "one is another worker's now"
    assert len(look(context.engine, "SELECT * FROM quarantined_images")) == 2
    assert images_of(context.engine, batch) == []


def test_a_move_that_is_cut_off_leaves_what_a_sweep_deletes(
    context: WorkerContext, foxes: Ingested, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, store = context.engine, store_of(context)
    own_since(engine, foxes, context.settings.output, days=1)

    def killed(*_: object, **__: object) -> int:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("jobs.safety_reevaluation.move_quarantined_files.delete_files_of_jobs", killed)
        with pytest.raises(RuntimeError):
            judged(context, foxes, NOTHING)
    assert (states(engine), len(files(context))) == ({"done": 2, "blocked": 1}, 3)
    again = judged(context, foxes, NOTHING)
    assert (again.restored, again.queued) == (0, 0)
    pages = sweep_batch(engine, store, foxes.id, older_than=timedelta(seconds=-5))
    assert ["/quarantine/" in found.key for page in pages for found in page] == [True]
    assert files(context) == [row["key"] for row in images_of(engine, foxes)]


def test_a_move_that_is_cut_off_before_its_rows_is_done_by_the_next(
    context: WorkerContext, foxes: Ingested, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> set[int]:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("jobs.safety_reevaluation.move_quarantined_files.block_images", killed)
        with pytest.raises(RuntimeError):
            judged(context, foxes, ALL)
    assert (states(context.engine), len(files(context))) == ({"done": 1, "blocked": 2}, 3)
    assert judged(context, foxes, ALL).quarantined_files == 1
    assert files(context) == in_quarantine(context)
    assert len(files(context)) == 2


@pytest.mark.parametrize("thresholds", [ALL, NOTHING])
def test_of_two_policies_at_once_the_later_one_holds(
    context: WorkerContext, foxes: Ingested, thresholds: str
) -> None:
    """The earlier call has looked at the images when the batch gets another policy; it changes none of them."""

    def overtaken(*arguments: Any) -> None:
        patch.undo()
        later = SafetyPolicy(SafetyAction.QUARANTINE, SafetyStrength.STRONG)
        transact(context.engine, lambda connection: change_policy(connection, foxes.id, later.keys()))
        hold(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.safety_reevaluation.move_quarantined_files.hold", overtaken)
        done = judged(context, foxes, thresholds)
    assert (done.blocked, done.restored, done.queued, done.is_overtaken) == (0, 0, 0, True)
    assert states(context.engine) == {"done": 1, "blocked": 2}


@pytest.mark.parametrize("safety", ["blur", "blacken"])
def test_an_image_that_was_altered_is_rendered_again_when_it_is_freed(
    context: WorkerContext, tmp_path: Path, safety: str
) -> None:
    batch = render(context, tmp_path, [FLAGGED], safety=safety)
    (altered,) = images_of(context.engine, batch)
    assert judged(context, batch, None, action=SafetyAction.QUARANTINE).quarantined_files == 1
    nothing, standard = (SafetyThresholds.of(SafetyStrength.STANDARD, given) for given in (NOTHING, None))
    counts = count_freed_jobs(context.engine, batch.id, nothing, standard)
    assert (counts.changed, counts.with_file) == (1, 0)
    freed = judged(context, batch, NOTHING)
    assert (freed.restored, freed.queued) == (0, 1)
    work_off(context, batch)
    (after,) = images_of(context.engine, batch)
    assert (after["safety_verdict"], after["safety_reason"]) == ("safe", None)
    assert after["sha256"] != altered["sha256"], "not the picture without its content"
    assert after["watermark"] is not None


def test_a_flagged_image_of_the_checker_is_restored(context: WorkerContext, tmp_path: Path) -> None:
    batch = render(context, tmp_path, [FLAGGED], safety="flag")
    judged(context, batch, None, action=SafetyAction.QUARANTINE)
    assert judged(context, batch, NOTHING).restored == 1
    (after,) = images_of(context.engine, batch)
    assert (after["safety_verdict"], after["safety_reason"]) == ("safe", None)


@pytest.mark.parametrize("action", [SafetyAction.BLOCK, SafetyAction.QUARANTINE])
@pytest.mark.parametrize(
    ("safety", "row"), [("flag", FLAGGED), ("blur", FLAGGED), ("flag", FOX), ("blacken", FOX)]
)
def test_what_the_prompt_filter_flagged_is_blocked_and_never_freed_by_scores(
    context: WorkerContext, tmp_path: Path, safety: str, row: dict[str, Any], action: SafetyAction
) -> None:
    engine = context.engine
    batch = render(context, tmp_path, [row | {"prompt": "a naked man"}], safety=safety)
    assert judged(context, batch, None, action=action).blocked == 1
    (job,) = jobs_of(engine, batch)
    assert job["error_text"] == "prompt holds 'naked man'"
    assert [event["detail"].get("scores") for event in events(context) if event["event"] == "blocked"] == [
        None
    ]
    freed = judged(context, batch, NOTHING)
    assert (freed.restored, freed.queued) == (0, 0)
    assert states(engine) == {"blocked": 1}


def test_of_an_archived_batch_the_key_of_the_last_block_is_shown(
    context: WorkerContext, foxes: Ingested
) -> None:
    engine = context.engine
    judged(context, foxes, None, action=SafetyAction.BLOCK)
    transitions.retry(engine, foxes.id, ["blocked"], "safety")
    work_off(context, foxes)
    drop_jobs_and_delete_batches.archive(engine, actions.status(engine, str(foxes.id)))
    assert [job["quarantined"] for job in dead_letters.failures(engine, foxes.id)] == [None, None]
    change(engine, "UPDATE batches SET ended_at = now()")
    began = database_time(engine) - timedelta(hours=1)
    assert {job["quarantined"] for job in failures_since(engine, began, None, None, limit=9)} == {None}
