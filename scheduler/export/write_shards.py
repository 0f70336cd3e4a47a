"""Writes the shards of an export: read the rows, make the files, put them in place, name them in the table."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from sqlalchemy import Connection, Engine

from jobs.db.engine import transact
from jobs.errors import ObjectStoreError, UsageError
from jobs.exports import records, shard_claims
from jobs.exports.delete_unreferenced_files import delete_unnamed
from jobs.exports.mark_outdated_shards import mark_shard
from jobs.exports.records import Export, File, note_replaced, recorded_digests
from jobs.exports.shard_claims import ClaimedShard, ShardLostError, ShardSnapshot
from jobs.feed.write_events import Event, add_event
from jobs.job_dataclasses import BatchId
from jobs.states import EventKind
from jobs.storage.base import ObjectStore, digest_if_there
from jobs.storage.image_and_c2pa_sidecar_files import read_file
from jobs.storage.key_layout import is_copy
from jobs.storage.open import abort_uploads_of
from jobs.webhooks.webhook_events import EventType, emit
from scheduler.export.columns_of_resumed_export import known_columns
from scheduler.export.export_request import OpenBatch
from scheduler.export.exporters import Exporter, Shard, WrittenFile
from scheduler.export.image_copies.copies_of_shard import CopiesOfShard
from scheduler.export.rfc3161_time_stamps.authority_client import TimeStampAuthority
from scheduler.export.rfc3161_time_stamps.stamp_shards import ShardStamper
from scheduler.export.rows.read_shard_rows_and_images import CountedRows, image_reader, sidecar_reader
from scheduler.export.tables.export_table import ShardCommit, TablePlace

T = TypeVar("T")

_COPIERS = 8


class ShardWriter:
    """Writes shards of one export. `on_rows` is called with numbers of image rows as they are written.

    `models_dir` has the user's own model cards, which the dataset's card tells of; `authority` stamps sealed shards.
    """

    def __init__(
        self,
        engine: Engine,
        export: Export,
        exporter: Exporter,
        store: ObjectStore,
        open_batch: OpenBatch,
        on_rows: Callable[[int], None] = lambda _: None,
        *,
        models_dir: Path | None = None,
        authority: TimeStampAuthority | None = None,
        overwrite: bool = False,
        replace: bool = False,
    ) -> None:
        self.engine, self.export, self.exporter, self.store = engine, export, exporter, store
        self.models_dir, self.overwrite = models_dir, overwrite
        self.table = exporter.table(TablePlace(engine, store, export))
        self._open_batch, self._on_rows = open_batch, on_rows
        self.stamper = ShardStamper(engine, authority, lambda: on_rows(0)) if authority else None
        self._replaceable = frozenset(recorded_digests(engine, export)) if replace else frozenset()

    def write_all(self, *, unfinished: bool) -> int:
        """Write each outdated shard that no one else writes, once; returns how many.

        Shards with unfinished jobs are passed over, or written without being sealed if `unfinished`.
        """
        written, after = 0, -1
        while shard := self.claim(after, unfinished=unfinished):
            after = shard.number
            with suppress(ShardLostError):  # it is outdated, and comes again with the next call
                self.write(shard)
                written += 1
        return written

    def claim(self, after: int = -1, *, unfinished: bool) -> ClaimedShard | None:
        """Claim the first outdated shard behind a number; None if there is none that is free."""
        return shard_claims.claim_shard(self.engine, self.export.id, after, unfinished=unfinished)

    def write(self, shard: ClaimedShard) -> None:
        """Write a claimed shard. Raises ShardLostError if its rows changed meanwhile; then nothing was put in place."""
        with shard_claims.kept(self.engine, shard), tempfile.TemporaryDirectory() as temporary:
            rows, folder = Path(temporary, "rows.csv"), Path(temporary, "files")
            folder.mkdir()
            rows.touch()
            with ThreadPoolExecutor(1, "read-shard") as reader:  # which reads on while rows are written
                reading = reader.submit(shard_claims.read_shard, self.engine, shard, rows)
                images, copies = CountedRows(rows, reading, self._on_rows), CopiesOfShard()
                noted = copies.noting(images) if self.exporter.options.copy_images else iter(images)
                written = self.exporter.write(folder, self._shard(shard, noted))
            snapshot = reading.result()
            own = [describe(folder, file) for file in written]
            self._measure_sidecars(shard, copies)
            files = [*own, *copies.files]
            self._stage(shard, snapshot, files)
            self._copy(shard.batch_id, copies)
            self.put(folder, own)
            self._commit(shard, snapshot, own)
            self._publish(shard, snapshot, images.rows, files)
        if self.table is None:  # else earlier snapshots name them until the export is finished
            self._delete_left_over(shard, files)
        if self.stamper is not None:
            self.stamper.stamp(self.export.id, shard.number)

    def _stage(self, shard: ClaimedShard, snapshot: ShardSnapshot, files: Sequence[File]) -> None:
        mine = {(file["name"], file["sha256"]) for file in files}
        left = [file for file in shard.pending or () if (file["name"], file["sha256"]) not in mine]
        if left:  # perhaps put there, or only later by who was too slow, and named by nothing from now on
            transact(self.engine, lambda connection: note_replaced(connection, self.export.id, left))
        shard_claims.stage(self.engine, shard, snapshot, files)
        if shard.pending:  # whoever staged them was stopped, perhaps in an upload
            self._abort_uploads(shard.pending)

    def _commit(self, shard: ClaimedShard, snapshot: ShardSnapshot, files: Sequence[File]) -> None:
        """Let the table have the files; a writer that is killed before or after it leaves that to the next one."""
        if self.table is None:
            return
        is_new = shard.version == 0 or [dict(file) for file in shard.files] != files
        self.table.commit(
            ShardCommit(
                shard.number,
                shard.version + is_new,
                snapshot.cursor,
                [file["name"] for file in shard.files],
                [file["name"] for file in files],
            )
        )

    def put(self, folder: Path, files: Sequence[File]) -> None:
        """Put files in place that aren't there already.

        Raises UsageError if another file has one's name, unless it may be overwritten. The parts of an upload that was
        stopped are deleted: they are invisible and cost money.
        """
        known = cache(self._recorded_digests)  # of all shards: read only if there is something in the way
        try:
            for file in files:
                self._put_one(file, partial(folder.joinpath, file["name"]), known)
        except BaseException:
            with suppress(ObjectStoreError):
                self._abort_uploads(files)
            raise

    def _copy(self, batch: BatchId, copies: CopiesOfShard) -> None:
        """Put copies of images in place that aren't there already; each is compared with its row's SHA-256."""
        sources = copies.sources()
        if not sources:
            return
        store, known = self._open_batch(batch), cache(self._recorded_digests)

        def copy(source: tuple[str, File]) -> None:
            key, file = source
            self._put_one(file, lambda: read_file(store, key, file["sha256"]), known)

        self._for_each(sources, copy)

    def _measure_sidecars(self, shard: ClaimedShard, copies: CopiesOfShard) -> None:
        """Have the copies know how large the manifests are, of which rows have the digests alone.

        Only those are read that the shard hasn't had yet: else their copies are in place, and needn't be made.
        """
        copies.measured_before([*shard.files, *(shard.pending or ())])
        wanted = [source for source in copies.sources() if source[1]["bytes"] is None]
        if not wanted:
            return
        store = self._open_batch(shard.batch_id)

        def measure(source: tuple[str, File]) -> None:
            key, file = source
            copies.measured(file["name"], len(read_file(store, key, file["sha256"])))

        self._for_each(wanted, measure)

    def _for_each(self, items: Sequence[T], do: Callable[[T], None]) -> None:
        with ThreadPoolExecutor(_COPIERS, "copy-images") as threads:
            for start in range(
                0, len(items), 4 * _COPIERS
            ):  # few at a time: after an error none of the others
                list(threads.map(do, items[start : start + 4 * _COPIERS]))
                self._on_rows(0)  # which raises if the process is to stop

    def _abort_uploads(self, files: Sequence[File]) -> None:
        abort_uploads_of(self.store, [self.export.prefix + file["name"] for file in files])

    def _recorded_digests(self) -> dict[str, set[str]]:
        return recorded_digests(self.engine, records.get(self.engine, self.export.id) or self.export)

    def _put_one(
        self, file: File, body: Callable[[], Path | bytes], known: Callable[[], dict[str, set[str]]]
    ) -> None:
        key = self.export.prefix + file["name"]
        there = digest_if_there(self.store, key)
        if there == file["sha256"]:
            return
        is_mine = there is None or there in known().get(file["name"], ())
        if not is_mine and not self.overwrite and file["name"] not in self._replaceable:
            raise UsageError(
                f"{self.store.locate(key)} is in the way: no export of {self.export.name} by this installation wrote "
                "it so; export to another folder, or say --replace, if you have changed it, else --overwrite"
            )
        self.store.put(key, body(), content_type=file["content_type"])

    def _publish(
        self, shard: ClaimedShard, snapshot: ShardSnapshot, images: int, files: Sequence[File]
    ) -> None:
        try:
            transact(self.engine, lambda connection: self._name(connection, shard, snapshot, images, files))
        except ShardLostError:
            transact(self.engine, lambda connection: self._note_late(connection, shard, files))
            raise

    def _name(
        self,
        connection: Connection,
        shard: ClaimedShard,
        snapshot: ShardSnapshot,
        images: int,
        files: Sequence[File],
    ) -> None:
        """Name the files as the shard's; tell readers of the feed and webhooks if it is sealed anew."""
        version = shard_claims.publish(connection, shard, snapshot, images, known_columns(self.exporter))
        if left_over := _left_over(
            shard, files
        ):  # known as ours, if this process ends before it has deleted them
            note_replaced(connection, self.export.id, left_over)
        if snapshot.is_open or (shard.is_sealed and version == shard.version):
            return
        detail = {
            "export": self.export.id,
            "dataset": self.export.name,
            "format": self.export.format,
            "shard": shard.number,
            "version": version,
            "images": images,
            "cursor": snapshot.cursor,
            "place": f"{self.export.output.rstrip('/')}/{self.export.prefix}",
            "files": [
                {"name": file["name"], "sha256": file["sha256"]}
                for file in files
                if not is_copy(file["name"])
            ],
        }
        add_event(connection, Event(EventKind.SEALED, shard.batch_id, detail=detail))
        what = f"{self.export.id}:{shard.number}:{version}"
        emit(connection, EventType.SHARD_SEALED, what, {"batch": shard.batch_id, **detail})

    def _note_late(self, connection: Connection, shard: ClaimedShard, files: Sequence[File]) -> None:
        """Have the shard written again: what was put may have replaced the files of whoever has claimed it since."""
        mark_shard(connection, self.export.id, shard.number)
        note_replaced(connection, self.export.id, files)
        records.note_files_of_replaced_export(connection, self.export, files)

    def _delete_left_over(self, shard: ClaimedShard, files: Sequence[File]) -> None:
        """Delete the files of the version before that this one doesn't have, nor another shard."""
        delete_unnamed(self.engine, self.export.id, _left_over(shard, files), self._delete)

    def _delete(self, file: File) -> None:
        key = self.export.prefix + file["name"]
        if digest_if_there(self.store, key) == file["sha256"]:
            self.store.delete(key)

    def _shard(self, shard: ClaimedShard, images: Iterator[pa.RecordBatch]) -> Shard:
        batch = shard.batch_id
        sidecars = sidecar_reader(lambda: self._open_batch(batch))
        return Shard(shard.number, shard.count, images, self.image_reader(batch), sidecars)

    def image_reader(self, batch: BatchId) -> Callable[[pa.RecordBatch], Iterator[bytes]]:
        """Return what reads the image files of a batch's rows, in their order, and compares them with the rows."""
        return image_reader(lambda: self._open_batch(batch))


def _left_over(shard: ClaimedShard, files: Sequence[File]) -> list[File]:
    """Return the files of the version before that this one doesn't have."""
    names = {file["name"] for file in files}
    return [file for file in [*shard.files, *(shard.pending or [])] if file["name"] not in names]


def describe(folder: Path, file: WrittenFile) -> dict[str, Any]:
    """Return the record of a local file, with its size and digest."""
    path = folder / file.name
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    given = asdict(file) | {"bytes": path.stat().st_size, "sha256": digest}
    return given if file.unfit else {name: value for name, value in given.items() if name != "unfit"}
