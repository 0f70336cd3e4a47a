"""Shards of exports: sealed once while the batch renders, the same bytes whoever writes them, replaced one by one."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from jobs.batches import actions, drop_jobs_and_delete_batches
from jobs.db.engine import transact
from jobs.errors import NightmillError, ObjectStoreError, UsageError
from jobs.exports import records, shard_claims
from jobs.exports.records import File, ShardRecord
from jobs.exports.shard_claims import ClaimedShard, ShardLostError, ShardSnapshot
from jobs.feed import feed
from jobs.job_dataclasses import Failure, Job
from jobs.process_lifecycle import SignalSafeEvent
from jobs.queue import transitions
from jobs.settings import Settings
from jobs.states import ErrorKind
from jobs.storage.open import ObjectStore, S3Options, open_store
from scheduler.export import finish_export
from scheduler.export.export_request import ExportRequest
from scheduler.export.exporters import Exporter, Shard, WrittenFile, exporter, exporter_of
from scheduler.export.finish_export import finish
from scheduler.export.live_exports import LiveExports
from scheduler.export.open_export import open_export, place_of
from scheduler.export.run_export import Exported, export
from scheduler.export.write_shards import ShardWriter
from scheduler.ingest.ingest import Ingested
from tests.factories import await_feed, change, failure, image, lanes_of, look, make_batch, take
from tests.ownership import render
from tests.scheduler.export.datasets import with_pictures
from tests.scheduler.ingest.test_update_batch_from_manifest import first, onto

ROWS = 2


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for format in ("parquet", "jsonl"):
        monkeypatch.setattr(exporter_of(format), "shard_rows", ROWS)


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_store(str(tmp_path / "out"), S3Options())


def claimed(engine: Engine, batch: Ingested) -> dict[int, Job]:
    """All jobs of a batch by row."""
    return {job.ordinal: job for lane in lanes_of(engine, batch) for job in take(engine, lane)}


def order(engine: Engine, store: ObjectStore, *batches: Ingested, **options: Any) -> ExportRequest:
    found = [actions.status(engine, batch.name) for batch in batches]
    return ExportRequest(found, options.pop("format", "jsonl"), store, **options)


def exported(engine: Engine, store: ObjectStore, *batches: Ingested, **options: Any) -> Exported:
    return export(engine, order(engine, store, *batches, **options), lambda _: store)


def shards(engine: Engine, done: Exported) -> list[ShardRecord]:
    return records.shards_of(engine, done.id)


def ordinals(store: ObjectStore) -> list[int]:
    """The rows in all parts, in the order of their names."""
    parts = [found.key for found in store.list("part-")]
    return [json.loads(line)["ordinal"] for part in parts for line in store.get(part).splitlines()]


def success(store: ObjectStore) -> Any:
    return json.loads(store.get("_SUCCESS"))


def bytes_of(store: ObjectStore) -> dict[str, bytes]:
    return {found.key: store.get(found.key) for found in store.list("part-")}


def live(settings: Settings, engine: Engine, store: ObjectStore, batch: Ingested) -> LiveExports:
    """The scheduler's writer of a batch's export that was asked for before it was rendered."""
    opened = open_export(engine, order(engine, store, batch))
    records.make_live(engine, opened.id, is_live=True)
    return LiveExports(settings, engine, SignalSafeEvent())


class TestSealing:
    def test_a_shard_is_written_as_soon_as_its_jobs_have_ended(
        self, settings: Settings, engine: Engine, store: ObjectStore
    ) -> None:
        batch = make_batch(engine, 3 * ROWS)
        writer, jobs = live(settings, engine, store, batch), claimed(engine, batch)
        assert writer.step() == 0
        transitions.complete(engine, [image(jobs[2]), image(jobs[3]), image(jobs[0])])
        assert writer.step() == 1
        assert [found.key for found in store.list("")] == ["_INCOMPLETE", "part-00001.jsonl"]
        told = json.loads(store.get("_INCOMPLETE"))
        assert [(shard["number"], shard["sealed"]) for shard in told["shards"]] == [(1, True)]
        assert [file["name"] for file in told["files"]] == ["part-00001.jsonl"]
        transitions.fail(
            engine, [Failure(jobs[1].id, jobs[1].lease, ErrorKind.BAD_INPUT, "no such picture")], delay_s=0
        )
        transitions.complete(engine, [image(jobs[4]), image(jobs[5])])
        assert writer.step() == 2
        assert (ordinals(store), success(store)["complete"]) == ([0, 2, 3, 4, 5], True)
        assert success(store)["shards"][0]["counts"] == {"done": 1, "failed": 1}
        assert writer.step() == 0
        assert not [found.key for found in store.list("_INC")]

    def test_what_is_not_finished_is_written_by_request_and_again_later(
        self, engine: Engine, store: ObjectStore
    ) -> None:
        batch = make_batch(engine, 2 * ROWS)
        jobs = claimed(engine, batch)
        transitions.complete(engine, [image(jobs[0]), image(jobs[1]), image(jobs[2])])
        first = exported(engine, store, batch)
        assert (first.is_complete, first.images, ordinals(store)) == (False, 3, [0, 1, 2])
        assert [(shard.version, shard.is_current) for shard in shards(engine, first)] == [
            (1, True),
            (1, False),
        ]
        transitions.complete(engine, [image(jobs[3])])
        second = exported(engine, store, batch)
        assert (second.is_complete, ordinals(store)) == (True, [0, 1, 2, 3])
        assert [shard.version for shard in shards(engine, second)] == [1, 2]

    def test_the_cursor_leads_to_what_the_export_lacks(self, engine: Engine, store: ObjectStore) -> None:
        batch = make_batch(engine, 2 * ROWS)
        jobs = claimed(engine, batch)
        transitions.complete(engine, [image(jobs[0]), image(jobs[3])])
        exported(engine, store, batch)
        cursor = success(store)["cursor"]
        transitions.complete(engine, [image(jobs[1]), image(jobs[2])])
        await_feed(engine)
        assert {row["ordinal"] for row in feed.read(engine, cursor)} >= {1, 2}

    def test_an_unmet_target_is_said(self, engine: Engine, store: ObjectStore) -> None:
        met, unmet = (make_batch(engine, 2, target=2, max_replacement_ratio=0) for _ in range(2))
        for batch in (met, unmet):
            first, second = claimed(engine, batch).values()
            transitions.complete(engine, [image(first)])
            if batch is met:
                transitions.complete(engine, [image(second)])
            else:
                transitions.block(engine, [failure(second, ErrorKind.SAFETY)])
        exported(engine, store, met, prefix="met/")
        exported(engine, store, unmet, prefix="unmet/")
        plain = make_batch(engine, 1)
        exported(engine, store, plain, prefix="plain/")
        told = [json.loads(store.get(f"{name}/_SUCCESS"))["short"] for name in ("met", "unmet", "plain")]
        assert told == [{"images": 0, "values": 0}, {"images": 1, "values": 1}, None]

    def test_an_archived_batch_is_exported_as_it_is(self, engine: Engine, store: ObjectStore) -> None:
        batch = make_batch(engine, 2 * ROWS)
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        drop_jobs_and_delete_batches.archive(engine, actions.status(engine, batch.name))
        assert exported(engine, store, batch).is_complete
        assert success(store)["counts"]["done"] == 2 * ROWS


class TestChanges:
    """What happens after the seal makes a new version of the shards that it touches, and of no others."""

    @pytest.fixture
    def batch(self, engine: Engine) -> Ingested:
        """Three shards; the row 3 has failed."""
        batch = make_batch(engine, 3 * ROWS)
        jobs = claimed(engine, batch)
        third = jobs.pop(3)
        failed = Failure(third.id, third.lease, ErrorKind.BAD_INPUT, "no such picture")
        transitions.fail(engine, [failed], delay_s=0)
        transitions.complete(engine, [image(job) for job in jobs.values()])
        return batch

    def test_a_retry(self, engine: Engine, store: ObjectStore, batch: Ingested) -> None:
        done = exported(engine, store, batch)
        before, told = bytes_of(store), success(store)
        actions.retry(engine, batch.id)
        assert [shard.is_current for shard in shards(engine, done)] == [True, False, True]
        assert (bytes_of(store), success(store)) == (before, told), "readers see what was there"
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        done = exported(engine, store, batch)
        after = bytes_of(store)
        assert {name for name in after if after[name] != before[name]} == {"part-00001.jsonl"}
        assert [shard.version for shard in shards(engine, done)] == [1, 2, 1]
        assert ordinals(store) == list(range(3 * ROWS))
        assert [shard["version"] for shard in success(store)["shards"]] == [1, 2, 1]
        events = look(engine, "SELECT detail FROM events WHERE kind = 'sealed' ORDER BY id")
        told = [event["detail"] for event in events]
        assert [(each["shard"], each["version"]) for each in told] == [(0, 1), (1, 1), (2, 1), (1, 2)]
        assert told[3]["files"] == [{"name": "part-00001.jsonl", "sha256": store.digest("part-00001.jsonl")}]

    def test_an_image_that_is_rendered_again(
        self, engine: Engine, store: ObjectStore, batch: Ingested
    ) -> None:
        exported(engine, store, batch)
        (row,) = look(engine, "SELECT id, key FROM images WHERE ordinal = 5")
        transitions.render_again(engine, batch.id, [(row["id"], row["key"])], "missing")
        assert exported(engine, store, batch).images == 4
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        done = exported(engine, store, batch)
        assert [shard.version for shard in shards(engine, done)] == [1, 1, 3]
        assert ordinals(store) == [0, 1, 2, 4, 5]

    def test_a_live_export_follows_by_itself(
        self, settings: Settings, engine: Engine, store: ObjectStore, batch: Ingested
    ) -> None:
        writer = live(settings, engine, store, batch)
        assert writer.step() == 3
        actions.retry(engine, batch.id)
        assert writer.step() == 0
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        assert (writer.step(), writer.step()) == (1, 0)
        assert (ordinals(store), success(store)["complete"]) == (list(range(3 * ROWS)), True)

    def test_a_later_manifest(
        self, settings: Settings, engine: Engine, store: ObjectStore, tmp_path: Path
    ) -> None:
        """Rows that are new get shards of their own, also where others were dropped."""
        rows = [{"id": f"r{n}", "prompt": f"fox {n}"} for n in range(2 * ROWS)]
        batch = first(engine, tmp_path / "foxes.jsonl", rows)
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        writer = live(settings, engine, store, batch)
        assert writer.step() == 2
        before = bytes_of(store)
        later = [*rows[1:], {"id": "new", "prompt": "another"}, {"id": "newer", "prompt": "another one"}]
        onto(engine, batch, tmp_path / "foxes.jsonl", later)
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        assert (writer.step(), writer.step()) == (2, 0)
        after = bytes_of(store)
        assert ordinals(store) == [1, 2, 3, 4, 5]
        assert after["part-00001.jsonl"] == before["part-00001.jsonl"]
        assert success(store)["complete"]

    @pytest.mark.parametrize("when", ["before it is read", "after it was read"])
    def test_a_shard_that_changes_while_it_is_written_is_not_sealed(
        self,
        engine: Engine,
        store: ObjectStore,
        batch: Ingested,
        when: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A retry that begins and ends meanwhile: no job is open before or after."""
        read, todo = shard_claims.read_shard, ["retry"]

        def render_again(shard: ClaimedShard) -> None:
            if shard.number == 1 and todo and todo.pop():
                actions.retry(engine, batch.id)
                transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])

        def reading(engine: Engine, shard: ClaimedShard, rows: Path) -> ShardSnapshot:
            if when.startswith("before"):
                render_again(shard)
            found = read(engine, shard, rows)
            render_again(shard)
            return found

        monkeypatch.setattr(shard_claims, "read_shard", reading)
        done = exported(engine, store, batch)
        assert (done.is_complete, ordinals(store)) == (True, list(range(3 * ROWS)))

    def test_without_the_mark_of_a_retry_the_images_give_it_away(
        self, engine: Engine, store: ObjectStore, batch: Ingested, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As if the shard had had no record yet when the retry's statement looked for it."""
        read, todo = shard_claims.read_shard, ["retry"]

        def reading(engine: Engine, shard: ClaimedShard, rows: Path) -> ShardSnapshot:
            found = read(engine, shard, rows)
            if shard.number == 1 and todo and todo.pop():
                actions.retry(engine, batch.id)
                transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
                change(engine, "UPDATE export_shards SET generation = 0")
            return found

        monkeypatch.setattr(shard_claims, "read_shard", reading)
        done = exported(engine, store, batch)
        assert (done.is_complete, ordinals(store)) == (True, list(range(3 * ROWS)))

    def test_without_the_guard_what_changes_is_lost(
        self, engine: Engine, store: ObjectStore, batch: Ingested, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The twin: seals what it has read, whatever happened since."""
        unguarded = f"UPDATE export_shards s SET pending = CAST(:files AS jsonb) WHERE {shard_claims._MINE}"  # noqa: S608 - constants
        current = str(shard_claims._PUBLISH).replace(
            "written_generation = :generation", "written_generation = generation"
        )
        monkeypatch.setattr(shard_claims, "_STAGE", text(f"{unguarded} RETURNING number"))
        monkeypatch.setattr(shard_claims, "_PUBLISH", text(current))
        with pytest.raises(AssertionError):
            self.test_a_shard_that_changes_while_it_is_written_is_not_sealed(
                engine, store, batch, "after it was read", monkeypatch
            )


class TestWriters:
    def test_each_shard_is_written_by_one(self, engine: Engine, store: ObjectStore) -> None:
        batch = make_batch(engine, 20 * ROWS)
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        opened = open_export(engine, order(engine, store, batch))
        written: Counter[int] = Counter()

        class Counting(type(exporter_of("jsonl")({}))):  # type: ignore[misc,arg-type]
            def write(self, folder: Path, shard: Shard) -> Any:
                written[shard.number] += 1
                return super().write(folder, shard)

        def work(_: int) -> int:
            form = Counting(order(engine, store, batch).options)
            return ShardWriter(engine, opened, form, store, lambda _: store).write_all(unfinished=False)

        with ThreadPoolExecutor(4) as threads:
            assert sum(threads.map(work, range(4))) == 20
        assert set(written.values()) == {1}
        assert len(written) == 20

    def test_a_writer_that_died_is_followed_after_its_lease(self, engine: Engine, store: ObjectStore) -> None:
        batch = make_batch(engine, 2 * ROWS)
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        opened = open_export(engine, order(engine, store, batch))
        dead = shard_claims.claim_shard(engine, opened.id, -1, unfinished=False)
        assert dead is not None
        shard_claims.stage(
            engine, dead, shard_claims.read_shard(engine, dead, Path(store.uri).parent / "rows"), []
        )
        form = order(engine, store, batch).exporter
        writer = ShardWriter(engine, opened, form, store, lambda _: store)
        assert writer.write_all(unfinished=False) == 1
        change(
            engine, "UPDATE export_shards SET lease_until = now() - interval '1 s' WHERE lease IS NOT NULL"
        )
        assert writer.write_all(unfinished=False) == 1
        assert ordinals(store) == list(range(2 * ROWS))

    def test_a_writer_that_comes_too_late_is_overruled(self, engine: Engine, store: ObjectStore) -> None:
        """Its files may have replaced those of the one that took its place: they are written once more."""
        batch = make_batch(engine, ROWS)
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        opened = open_export(engine, order(engine, store, batch))
        form = order(engine, store, batch).exporter
        writer = ShardWriter(engine, opened, form, store, lambda _: store)
        stale = writer.claim(unfinished=False)
        assert stale is not None
        snapshot = shard_claims.read_shard(engine, stale, Path(store.uri).parent / "rows")
        change(engine, "UPDATE export_shards SET lease_until = now() - interval '1 s'")
        writer.write_all(unfinished=False)
        right, late = store.get("part-00000.jsonl"), b"of the late one"
        store.put("part-00000.jsonl", late, content_type="text/plain")
        digest = hashlib.sha256(late).hexdigest()
        with pytest.raises(ShardLostError):
            writer._publish(stale, snapshot, 0, [{"name": "part-00000.jsonl", "sha256": digest}])
        (shard,) = records.shards_of(engine, opened.id)
        assert not shard.is_current
        writer.write_all(unfinished=False)
        assert store.get("part-00000.jsonl") == right

    def test_a_writer_that_puts_its_files_late_is_not_taken_for_a_stranger(
        self, engine: Engine, store: ObjectStore
    ) -> None:
        """Two have staged other bytes of the same name when the first one puts its own."""
        batch = make_batch(engine, ROWS)
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        opened = open_export(engine, order(engine, store, batch))
        form, late = order(engine, store, batch).exporter, b"of the late one"

        class Overtaken(ShardWriter):
            def put(self, folder: Path, files: Sequence[File]) -> None:
                store.put("part-00000.jsonl", late, content_type="text/plain")
                super().put(folder, files)

        writer = Overtaken(engine, opened, form, store, lambda _: store)
        stale = writer.claim(unfinished=False)
        assert stale is not None
        snapshot = shard_claims.read_shard(engine, stale, Path(store.uri).parent / "rows")
        digest = hashlib.sha256(late).hexdigest()
        shard_claims.stage(engine, stale, snapshot, [{"name": "part-00000.jsonl", "sha256": digest}])
        change(engine, "UPDATE export_shards SET lease_until = now() - interval '1 s'")
        assert writer.write_all(unfinished=False) == 1
        assert ordinals(store) == list(range(ROWS))

    def test_who_finishes_too_late_has_it_finished_again(
        self, engine: Engine, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another one takes over while the first one's files of the whole dataset are about to be put in place."""
        batch = make_batch(engine, ROWS)
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        request = order(engine, store, batch)
        opened = open_export(engine, request)
        writer = ShardWriter(engine, opened, request.exporter, store, lambda _: store)
        writer.write_all(unfinished=False)
        put, write_index, place = writer.put, finish_export.write_index, place_of(engine, request)

        def index_of_the_first(*given: Any) -> Sequence[WrittenFile]:
            monkeypatch.setattr(finish_export, "write_index", write_index)
            written = write_index(*given)
            with Path(given[-1], "README.md").open("a") as readme:
                readme.write("of the late one")
            return written

        def overtaken(folder: Path, files: Sequence[File]) -> None:
            monkeypatch.setattr(writer, "put", put)
            change(engine, "UPDATE exports SET lease_until = now() - interval '1 s'")
            finish(writer, place)
            put(folder, files)

        monkeypatch.setattr(finish_export, "write_index", index_of_the_first)
        monkeypatch.setattr(writer, "put", overtaken)
        finish(writer, place)
        readme = store.get("README.md")
        assert b"of the late one" not in readme
        (found,) = records.exports_of(engine)
        assert found.finished is not None
        digests = {file["name"]: file["sha256"] for file in found.files}
        assert digests["README.md"] == hashlib.sha256(readme).hexdigest()

    def test_two_places_hold_the_same_bytes(self, engine: Engine, store: ObjectStore, tmp_path: Path) -> None:
        batch = make_batch(engine, 3 * ROWS)
        jobs = claimed(engine, batch)
        transitions.complete(engine, [image(job) for job in reversed(jobs.values())])
        other = open_store(str(tmp_path / "other"), S3Options())
        for format in ("jsonl", "parquet"):
            exported(engine, store, batch, format=format, prefix=f"{format}/")
            exported(engine, other, batch, format=format, prefix=f"{format}/")
        files = [found.key for found in store.list("") if "part-" in found.key]
        assert len(files) == 6
        assert [store.digest(key) for key in files] == [other.digest(key) for key in files]


class TestFiles:
    def test_one_that_is_gone_is_written_again(self, engine: Engine, store: ObjectStore) -> None:
        batch = make_batch(engine, 3 * ROWS)
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        exported(engine, store, batch)
        before = bytes_of(store)
        store.delete("part-00001.jsonl")
        exported(engine, store, batch)
        assert bytes_of(store) == before

    def test_one_of_the_same_size_that_was_changed_is_noticed(
        self, engine: Engine, store: ObjectStore
    ) -> None:
        batch = make_batch(engine, ROWS)
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        exported(engine, store, batch)
        body = store.get("part-00000.jsonl")
        change(engine, "UPDATE export_shards SET written_at = written_at - interval '10 s'")
        exported(engine, store, batch)
        store.put("part-00000.jsonl", body[::-1], content_type="text/plain")
        with pytest.raises(UsageError, match="was changed"):
            exported(engine, store, batch)
        exported(engine, store, batch, overwrite=True)
        assert store.get("part-00000.jsonl") == body

    def test_those_about_the_whole_that_are_gone_are_written_again(
        self, engine: Engine, store: ObjectStore
    ) -> None:
        batch = make_batch(engine, 3)
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        exported(engine, store, batch)
        names = ("README.md", "SHA256SUMS")
        before = [store.get(name) for name in names]
        for name in names:
            store.delete(name)
        exported(engine, store, batch)
        assert [store.get(name) for name in names] == before
        store.put("_SUCCESS", b"damaged", content_type="application/json")
        exported(engine, store, batch)
        assert success(store)["complete"] is True

    def test_one_that_is_gone_makes_no_other_export_out_of_date(
        self, engine: Engine, store: ObjectStore, tmp_path: Path
    ) -> None:
        batch, elsewhere = make_batch(engine, 3), open_store(str(tmp_path / "elsewhere"), S3Options())
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        other = exported(engine, elsewhere, batch)
        exported(engine, store, batch)
        store.delete("part-00000.jsonl")
        assert exported(engine, store, batch).is_complete
        assert all(shard.is_current for shard in shards(engine, other))

    def test_a_writer_whose_export_is_replaced_ends_and_leaves_nothing(
        self, engine: Engine, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another format comes to the place when all files of the first are staged and none is there yet."""
        batch = make_batch(engine, 3)
        transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        stage, todo = shard_claims.stage, ["replace"]

        def staging(*arguments: Any) -> None:
            stage(*arguments)
            while todo:
                todo.pop()
                exported(engine, store, batch, format="csv")

        monkeypatch.setattr(shard_claims, "stage", staging)
        with pytest.raises(NightmillError, match="replaced by another one"):
            exported(engine, store, batch)
        assert exported(engine, store, batch, format="csv").is_complete
        assert [name for name in bytes_of(store) if name.endswith(".jsonl")] == []


class TestSeveralBatches:
    def test_they_are_one_dataset(self, engine: Engine, store: ObjectStore) -> None:
        first, second = make_batch(engine, 3), make_batch(engine, 2)
        for batch in (first, second):
            transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        done = exported(engine, store, first, second, name="both")
        assert ordinals(store) == [0, 1, 2, 0, 1]
        assert [shard.batch_id for shard in shards(engine, done)] == [first.id, first.id, second.id]
        told = success(store)
        assert told["batch"] == "both"
        assert [batch["name"] for batch in told["batches"]] == [first.name, second.name]
        assert (told["images"], told["counts"]["done"]) == (5, 5)

    def test_without_one_that_is_deleted_the_others_stay(self, engine: Engine, store: ObjectStore) -> None:
        first, second = make_batch(engine, 3), make_batch(engine, 2)
        for batch in (first, second):
            transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
        exported(engine, store, first, second, name="both")
        drop_jobs_and_delete_batches.delete(engine, actions.status(engine, first.name))
        done = exported(engine, store, second, name="both")
        parts = [found.key for found in store.list("") if found.key.startswith("part-")]
        assert parts == ["part-00002.jsonl"]
        assert (done.images, success(store)["images"]) == (2, 2)
        drop_jobs_and_delete_batches.delete(engine, actions.status(engine, second.name))
        assert records.exports_of(engine) == []


@pytest.fixture
def bodies_format() -> Iterator[None]:
    """A format that holds the images."""

    @exporter("bodies", shard_rows=ROWS)
    class Bodies(Exporter):
        def write(self, folder: Path, shard: Shard) -> list[WrittenFile]:
            bodies = [body for rows in shard.images for body in shard.files(rows)]
            name = f"part-{shard.number:05d}.bodies"
            (folder / name).write_bytes(b"\n".join(bodies))
            return [WrittenFile(name, "application/octet-stream", len(bodies))]

    yield
    from scheduler.export import exporters

    del exporters._REGISTERED["bodies"]


@pytest.mark.usefixtures("bodies_format")
class TestImages:
    @pytest.fixture
    def rendered(self, engine: Engine, tmp_path: Path) -> tuple[Ingested, ObjectStore]:
        output = str(tmp_path / "images")
        batch = make_batch(engine, 2 * ROWS, output=output)
        pictures = open_store(output, S3Options())
        render(engine, pictures, batch)
        return batch, pictures

    def test_they_come_in_the_order_of_the_rows(
        self, engine: Engine, store: ObjectStore, rendered: tuple[Ingested, ObjectStore]
    ) -> None:
        batch, pictures = rendered
        export(engine, order(engine, store, batch, format="bodies"), lambda _: pictures)
        assert store.get("part-00001.bodies") == b"a picture2\na picture3"

    def test_the_index_of_fewer_and_of_more_images_replaces_the_one_before(
        self, engine: Engine, store: ObjectStore, tmp_path: Path
    ) -> None:
        found = with_pictures(engine, tmp_path / "output", 2 * ROWS, name="foxes")
        pictures = open_store(found.output, S3Options())

        def export_again() -> list[str]:
            asked = ExportRequest([actions.status(engine, "foxes")], "jsonl", store)
            done = export(engine, asked, lambda _: pictures)
            index = {file["name"]: file["sha256"] for file in done.index}
            assert {name: store.digest(name) for name in index} == index
            named = {*index, *(file["name"] for file in done.files), "_SUCCESS"}
            assert {found.key for found in store.list("")} == named
            return [name for name in index if name.startswith(".pictures/")]

        assert len(export_again()) == 4
        rows = look(engine, "SELECT id, key FROM images ORDER BY id LIMIT 3")
        gone = [(row["id"], row["key"]) for row in rows]
        transitions.render_again(engine, found.id, gone, "missing")
        assert len(export_again()) == 1
        batch = Ingested(found.id, "foxes", False, 2 * ROWS, 0, 2 * ROWS)
        for job in claimed(engine, batch).values():
            (key,) = (key for _, key in gone if int(key.split("/")[2].split("-")[0]) == job.ordinal)
            body = pictures.get(key)
            digest = hashlib.sha256(body).hexdigest()
            transitions.complete(engine, [image(job, key=key, sha256=digest, bytes=len(body))])
        assert len(export_again()) == 4

    @pytest.mark.parametrize("how", ["gone", "damaged"])
    def test_one_that_is_not_what_its_row_says_stops_the_export(
        self, engine: Engine, store: ObjectStore, rendered: tuple[Ingested, ObjectStore], how: str
    ) -> None:
        batch, pictures = rendered
        key = next(found.key for found in pictures.list(f"{batch.name}/images/") if "000003-" in found.key)
        if how == "gone":
            pictures.delete(key)
        else:
            pictures.put(key, b"another picture", content_type="image/png")
        with pytest.raises(ObjectStoreError, match="000000003"):
            export(engine, order(engine, store, batch, format="bodies"), lambda _: pictures)
        assert [found.key for found in store.list("")] == ["_INCOMPLETE", "part-00000.bodies"]
        assert not look(engine, "SELECT FROM export_shards WHERE lease IS NOT NULL")

    def test_a_live_export_says_what_it_waits_for(
        self,
        settings: Settings,
        engine: Engine,
        store: ObjectStore,
        rendered: tuple[Ingested, ObjectStore],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        batch, pictures = rendered
        (found,) = [found for found in pictures.list(f"{batch.name}/images/") if "000001-" in found.key]
        body = pictures.get(found.key)
        pictures.delete(found.key)
        opened = open_export(engine, order(engine, store, batch, format="bodies"))
        records.make_live(engine, opened.id, is_live=True)
        writer = LiveExports(settings, engine, SignalSafeEvent())
        writer.step()
        assert "000000001" in str(records.exports_of(engine)[0].error)
        assert "000000001" in caplog.text
        pictures.put(found.key, body, content_type="image/png")
        assert writer.step() == 0, "not at once again"
        writer._again_at.clear()
        writer.step()
        assert records.exports_of(engine)[0].error is None
        assert success(store)["complete"]


def test_a_stopping_scheduler_gives_the_shard_back(
    settings: Settings, engine: Engine, store: ObjectStore
) -> None:
    batch = make_batch(engine, ROWS)
    writer = live(settings, engine, store, batch)
    transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
    writer._stopping.set()
    assert writer.step() == 0
    assert not look(engine, "SELECT FROM export_shards WHERE lease IS NOT NULL OR version > 0")


def test_a_publication_is_fenced(engine: Engine, store: ObjectStore) -> None:
    """A claim that another has taken over names no files."""
    batch = make_batch(engine, ROWS)
    transitions.complete(engine, [image(job) for job in claimed(engine, batch).values()])
    opened = open_export(engine, order(engine, store, batch))
    mine = shard_claims.claim_shard(engine, opened.id, -1, unfinished=False)
    assert mine is not None
    snapshot = shard_claims.read_shard(engine, mine, Path(store.uri).parent / "rows")
    other = replace(mine, lease=type(mine.lease)(int=1))
    refused: list[Callable[[], object]] = [
        lambda: shard_claims.stage(engine, other, snapshot, []),
        lambda: transact(engine, lambda connection: shard_claims.publish(connection, other, snapshot, 2, ())),
    ]
    for step in refused:
        with pytest.raises(ShardLostError):
            step()
    digest = hashlib.sha256(b"").hexdigest()
    shard_claims.stage(engine, mine, snapshot, [{"name": "x", "sha256": digest, "bytes": 0, "rows": 0}])
    assert transact(engine, lambda connection: shard_claims.publish(connection, mine, snapshot, 2, ())) == 1
