"""Sweeping takes what no row names and none can come to name, and nothing else."""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from jobs.batches import actions
from jobs.job_dataclasses import Image, Job
from jobs.outputs.ownership import OWNER
from jobs.queue import transitions
from jobs.settings import Settings
from jobs.storage.open import MissingObjectError, ObjectStore, S3Options, open_store
from scheduler import orphaned_objects, unfinished_and_late_uploads
from scheduler.ingest.ingest import Ingested
from scheduler.orphaned_objects import sweep_batch
from scheduler.unfinished_and_late_uploads import ImageSweeper
from tests.factories import change, expire, failure, image, lanes_of, make_batch, own, take
from tests.s3 import S3Server

NOW = timedelta(seconds=-5)


@pytest.fixture(params=["folder", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server) -> tuple[str, S3Options]:
    """A place for objects of either kind."""
    if request.param == "folder":
        return str(tmp_path / "output"), S3Options()
    return f"{s3.uri}/{tmp_path.name}", S3Options(s3.endpoint_url, "us-east-1")


def upload(store: ObjectStore, batch: Ingested, job: Job, body: bytes = b"a picture") -> Image:
    """What a worker does before it completes a job."""
    digest = hashlib.sha256(body).hexdigest()
    key = f"{batch.name}/images/000000/{job.ordinal:09d}-{job.index:05d}.{digest[:12]}.png"
    store.put(key, body, content_type="image/png")
    return image(job, key=key, sha256=digest)


def keys(store: ObjectStore) -> list[str]:
    return [item.key for item in store.list("") if not item.key.endswith(OWNER)]


def swept(engine: Engine, store: ObjectStore, batch: Ingested, **options: Any) -> list[str]:
    pages = sweep_batch(engine, store, batch.id, **{"older_than": NOW} | options)
    return [item.key for page in pages for item in page]


def claimed(engine: Engine, batch: Ingested) -> list[Job]:
    return take(engine, lanes_of(engine, batch)[0])


def test_only_what_no_row_names_and_no_job_needs_goes(
    engine: Engine, output: tuple[str, S3Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also over the borders of pages and of portions."""
    monkeypatch.setattr(orphaned_objects, "PAGE", 3)
    monkeypatch.setattr(orphaned_objects, "_PORTION", 2)
    store = open_store(*output)
    batch = make_batch(engine, 6, output=output[0])
    own(engine, batch, *output)
    done, twice, failed, silent, running, blocked = claimed(engine, batch)
    lost = [upload(store, batch, job, b"lost").key for job in (twice, failed, blocked)]
    kept = [upload(store, batch, job, b"kept").key for job in (silent, running)]
    for job in (done, twice):
        completed = upload(store, batch, job)
        transitions.complete(engine, [completed])
        kept.append(completed.key)
    transitions.fail(engine, [failure(failed, text="no")], delay_s=0)
    change(engine, "UPDATE jobs SET state = 'failed', finished_at = now() WHERE id = :id", id=failed.id)
    transitions.block(engine, [failure(blocked)])
    expire(engine, silent)
    transitions.rescue(engine)
    for mine in (f"{batch.name}/images/readme.txt", f"{batch.name}/images/000000/000000000-00000.png"):
        store.put(mine, b"somebody's own", content_type="text/plain")
        kept.append(mine)
    for elsewhere in (f"{batch.name}-2", f"{batch.name}/export"):
        other = f"{elsewhere}/images/000000/000000000-00000.aaaaaaaaaaaa.png"
        store.put(other, b"of another", content_type="text/plain")
        kept.append(other)
    assert swept(engine, store, batch, dry_run=True) == sorted(lost)
    assert keys(store) == sorted(kept + lost)
    assert swept(engine, store, batch) == sorted(lost)
    assert keys(store) == sorted(kept)
    assert swept(engine, store, batch) == []


def test_files_of_others_beside_images_stay(engine: Engine, output: tuple[str, S3Options]) -> None:
    """Captions, for example, have the image's name, also when the image isn't there any more."""
    store = open_store(*output)
    batch = make_batch(engine, 2, output=output[0])
    own(engine, batch, *output)
    done, lost = claimed(engine, batch)
    orphan = upload(store, batch, lost, b"lost").key
    image_row = upload(store, batch, done)
    transitions.complete(engine, [image_row])
    transitions.complete(engine, [upload(store, batch, lost, b"again")])
    kept = keys(store)
    for key in (image_row.key, orphan):
        for extension in ("txt", "json", "npz", "mine.png"):
            kept.append(f"{key.removesuffix('png')}{extension}")
    kept.append(f"{image_row.key.removesuffix('png')}jpg")
    for key in kept[3:]:
        store.put(key, b"a red fox", content_type="text/plain")
    assert swept(engine, store, batch) == [orphan]
    assert keys(store) == sorted(set(kept) - {orphan})


def test_what_is_fresh_stays(engine: Engine, output: tuple[str, S3Options]) -> None:
    store = open_store(*output)
    batch = make_batch(engine, 1, output=output[0])
    own(engine, batch, *output)
    (job,) = claimed(engine, batch)
    lost = upload(store, batch, job)
    actions.cancel(engine, batch.id)
    assert swept(engine, store, batch, older_than=timedelta(hours=1)) == []
    assert swept(engine, store, batch) == [lost.key]


def test_pictures_of_an_earlier_installation_stay(engine: Engine, output: tuple[str, S3Options]) -> None:
    """A new job table, the same folder, a batch of the same name."""
    store = open_store(*output)
    batch = make_batch(engine, 1, output=output[0])
    own(engine, batch, *output)
    (job,) = claimed(engine, batch)
    upload(store, batch, job)
    actions.cancel(engine, batch.id)
    change(engine, "UPDATE batches SET created_at = now() + interval '10 seconds'")
    assert swept(engine, store, batch, older_than=timedelta(minutes=-1)) == []
    assert len(keys(store)) == 1


class Slow:
    """A store whose delete takes its time: it tells that it began, and waits until it may go on."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.uri = store.uri
        self.list, self.get, self.put, self.locate = store.list, store.get, store.put, store.locate
        self.began, self.may_end = threading.Event(), threading.Event()

    def delete(self, key: str) -> None:
        self.began.set()
        assert self.may_end.wait(150)
        self.store.delete(key)


@pytest.fixture(params=["locked", "twin without the lock"])
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the sweep's lock was taken out."""
    is_twin = request.param != "locked"
    if is_twin:
        statement = str(orphaned_objects._LOCK)
        assert "FOR UPDATE SKIP LOCKED" in statement
        monkeypatch.setattr(orphaned_objects, "_LOCK", text(statement.replace("FOR UPDATE SKIP LOCKED", "")))
    return is_twin


def test_a_job_queued_again_amid_the_sweep_keeps_its_new_upload(
    engine: Engine, tmp_path: Path, twin: bool
) -> None:
    """The same seed gives the same bytes and so the same key: the sweep might delete what was just uploaded anew."""
    store = open_store(str(tmp_path), S3Options())
    slow = Slow(store)
    batch = make_batch(engine, 1, output=str(tmp_path))
    (job,) = claimed(engine, batch)
    upload(store, batch, job)
    actions.cancel(engine, batch.id)
    with ThreadPoolExecutor(2) as threads:
        sweeping = threads.submit(swept, engine, slow, batch)
        assert slow.began.wait(150)
        again = threads.submit(_render_again, engine, store, batch)
        _wait(lambda: again.done() or _waits_for_a_lock(engine))
        slow.may_end.set()
        sweeping.result()
        row = again.result()
    if twin:
        with pytest.raises(MissingObjectError):
            store.get(row.key)
    else:
        assert hashlib.sha256(store.get(row.key)).hexdigest() == row.sha256


def _render_again(engine: Engine, store: ObjectStore, batch: Ingested) -> Image:
    assert actions.retry(engine, batch.id) == 1
    (job,) = claimed(engine, batch)
    made = upload(store, batch, job)
    transitions.complete(engine, [made])
    return made


def _waits_for_a_lock(engine: Engine) -> bool:
    with engine.connect() as connection:
        statement = "SELECT datname FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return connection.engine.url.database in connection.execute(text(statement)).scalars().all()


def _wait(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_row_completed_between_the_look_and_the_lock_keeps_its_object(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path), S3Options())
    batch = make_batch(engine, 1, output=str(tmp_path))
    (job,) = claimed(engine, batch)
    upload(store, batch, job)
    actions.cancel(engine, batch.id)
    look_first = orphaned_objects._delete

    def late(*arguments: Any) -> Iterator[Any]:
        _render_again(engine, store, batch)
        return look_first(*arguments)

    monkeypatch.setattr(orphaned_objects, "_delete", late)
    assert swept(engine, store, batch) == []
    assert len(keys(store)) == 1


def test_a_lock_that_is_lost_ends_the_sweep(engine: Engine, tmp_path: Path) -> None:
    """PostgreSQL was restarted amid the deletes: what is left of the portion is not deleted unlocked."""
    store = open_store(str(tmp_path), S3Options())
    batch = make_batch(engine, 4, output=str(tmp_path))
    for job in claimed(engine, batch):
        upload(store, batch, job)
    actions.cancel(engine, batch.id)
    slow = Slow(store)
    with ThreadPoolExecutor(1) as threads:
        sweeping = threads.submit(swept, engine, slow, batch)
        assert slow.began.wait(150)
        with engine.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        slow.may_end.set()
        with pytest.raises(Exception, match="terminating connection"):
            sweeping.result()
    assert len(keys(store)) == 3


def test_two_that_sweep_at_once_take_each_object_once(engine: Engine, tmp_path: Path) -> None:
    store = open_store(str(tmp_path), S3Options())
    batch = make_batch(engine, 60, output=str(tmp_path))
    lost = [upload(store, batch, job).key for job in claimed(engine, batch)]
    actions.cancel(engine, batch.id)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: swept(engine, store, batch), range(2)))
    assert sorted({key for part in found for key in part} | set(swept(engine, store, batch))) == lost
    assert keys(store) == []


def sweeper(settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> ImageSweeper:
    """One for which nothing is too fresh."""
    now = lambda *given: sweep_batch(*given, older_than=NOW)  # noqa: E731
    monkeypatch.setattr(unfinished_and_late_uploads, "sweep_batch", now)
    return ImageSweeper(settings, engine)


def finish(own: ImageSweeper) -> int:
    """Work off a round; returns how many objects went."""
    total = 0
    while not own.is_idle:
        total += own.step()
    return total


def test_a_round_sweeps_batches_that_lately_ended(
    settings: Settings, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path), S3Options())
    ended, open_one, old = (make_batch(engine, 2, output=str(tmp_path)) for _ in range(3))
    for batch in (ended, open_one, old):
        for job in claimed(engine, batch)[:1]:
            upload(store, batch, job)
    actions.cancel(engine, ended.id)
    actions.cancel(engine, old.id)
    change(
        engine,
        "UPDATE batches SET created_at = now() - interval '3 days', cancelled_at = now() - interval '2 days' "
        "WHERE id = :id",
        id=old.id,
    )
    own = sweeper(settings, engine, monkeypatch)
    assert own.step() == 0, "between rounds"
    assert own.begin() == 1
    assert own.begin() == 0, "it is under way"
    assert finish(own) == 1
    assert sorted(key.partition("/")[0] for key in keys(store)) == [open_one.name, old.name]
    assert (own.begin(), finish(own)) == (1, 0)


def test_a_store_in_trouble_does_not_keep_the_others_waiting(
    settings: Settings,
    engine: Engine,
    tmp_path: Path,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = open_store(str(tmp_path), S3Options())
    for output in ("s3://nowhere/at-all", str(tmp_path)):
        batch = make_batch(engine, 1, output=output)
        upload(store, batch, claimed(engine, batch)[0])
        actions.cancel(engine, batch.id)
    own = sweeper(settings.model_copy(update={"s3_endpoint_url": s3.endpoint_url}), engine, monkeypatch)
    assert own.begin() == 2
    assert finish(own) == 1
    assert "isn't swept: can't read s3://nowhere/at-all" in caplog.text
    assert len(keys(store)) == 1, "the unreachable one's, which lies here for comparison"
