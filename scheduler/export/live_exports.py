"""Writes the shards of live exports while their batches render, in a thread of the scheduler.

Any number of schedulers may do so: each shard is claimed by one of them.
"""

import logging
import threading
import time
from functools import partial

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from jobs.batches.status import BatchStatus, status
from jobs.db.installation_id import this_installation
from jobs.errors import NightmillError
from jobs.exports import records
from jobs.exports.progress import progress_of
from jobs.exports.records import Export
from jobs.job_dataclasses import BatchId
from jobs.outputs.export_inventory import ExportPlace
from jobs.outputs.mount_marker import find_output
from jobs.outputs.ownership import open_claimed
from jobs.process_lifecycle import SignalSafeEvent
from jobs.rate_limited_log import RateLimitedLog
from jobs.settings import Settings
from jobs.storage.open import ObjectStore, S3Options, open_store
from models.errors import ModelError
from scheduler.export.columns_of_resumed_export import exporter_in_its_columns
from scheduler.export.finish_export import finish, tell_progress
from scheduler.export.rfc3161_time_stamps.authority_client import TimeStampAuthority
from scheduler.export.write_shards import ShardWriter

log = logging.getLogger(__name__)

POLL_S = 1.0
RETRY_S = 30.0
"""How long an export whose place or images can't be reached is left alone."""


class _StoppingError(NightmillError):
    """The scheduler stops; what was being written is released."""


class LiveExports:
    """The live exports of one installation, written step by step."""

    def __init__(self, settings: Settings, engine: Engine, stopping: SignalSafeEvent) -> None:
        """Raises UsageError if shards are to be stamped and can't be (`TimeStampAuthority.of_settings`)."""
        self.engine = engine
        self._s3 = S3Options(endpoint_url=settings.s3_endpoint_url, region=settings.s3_region)
        self._models_dir = settings.models_dir
        self._authority = TimeStampAuthority.of_settings(settings)
        self._stopping = stopping
        self._again_at: dict[int, float] = {}
        self._repeated = RateLimitedLog(log)

    def start(self) -> threading.Thread:
        """Write in a thread until the scheduler stops."""
        thread = threading.Thread(target=self._run, daemon=True, name="live exports")
        thread.start()
        return thread

    def step(self) -> int:
        """Write every shard that can be sealed now, and finish exports that have all; returns the shards written."""
        written, stamps = 0, self._authority is not None and self._authority.is_ready
        for export in records.live_exports(self.engine, this_installation(self.engine).id, stamps=stamps):
            if time.monotonic() < self._again_at.get(export.id, 0.0):
                continue
            try:
                written += self._write(export)
            except _StoppingError:
                break
            except (NightmillError, ModelError) as error:  # the latter: an extra isn't installed
                self._note(export, str(error))
            except SQLAlchemyError:
                raise  # all exports wait for the database
            except Exception as error:  # the others go on
                log.exception("export %d of %s", export.id, export.name)
                self._note(export, f"{type(error).__name__}: {error}")
        return written

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.step()
            except SQLAlchemyError as error:
                reason = str(error).splitlines()[0]
                self._repeated.tell(reason, f"live exports: {reason}")
            except Exception:  # the other exports, and the scheduler, go on
                log.exception("live exports")
                self._stopping.wait(RETRY_S)
            self._stopping.wait(POLL_S)

    def _write(self, export: Export) -> int:
        writer, place = self._open(export)
        written = writer.write_all(unfinished=False)
        if progress_of(self.engine, export.id).is_complete:
            finish(writer, place)
            log.info("export %d of %s is complete", export.id, export.name)
            self._note_missing_stamps(export, writer)
        elif written and export.finished is None:
            tell_progress(writer, place)
        return written

    def _open(self, export: Export) -> tuple[ShardWriter, ExportPlace]:
        store = self._store(export)
        writer = ShardWriter(
            self.engine,
            export,
            exporter_in_its_columns(self.engine, export),
            store,
            partial(_open_batch, self.engine, self._s3),
            self._go_on,
            models_dir=self._models_dir,
            authority=self._authority,
        )
        is_own = bool(export.prefix)
        return writer, ExportPlace(store, export.prefix, export.name, export.installation, is_own=is_own)

    def _store(self, export: Export) -> ObjectStore:
        """Open the export's place; a batch's folder only if it belongs to this installation and its share is there."""
        folder = export.prefix.partition("/")[0]
        if folder:
            batch = _batch_of_folder(self.engine, export, folder)
            return open_claimed(self.engine, batch.output, self._s3, batch.id, batch.folder)
        return open_store(export.output, self._s3)

    def _note_missing_stamps(self, export: Export, writer: ShardWriter) -> None:
        """Say why shards have no time stamp yet; the export is complete, and they get one later."""
        if writer.stamper is not None and (error := writer.stamper.error):
            reason = f"shards wait for their time stamps: {error}"
            self._repeated.tell((export.id, reason), f"export {export.id} of {export.name}: {reason}")
            records.note_error(self.engine, export.id, reason)

    def _go_on(self, rows: int) -> None:
        del rows
        if self._stopping.is_set():
            raise _StoppingError("stopping")

    def _note(self, export: Export, reason: str) -> None:
        self._again_at[export.id] = time.monotonic() + RETRY_S
        self._repeated.tell((export.id, reason), f"export {export.id} of {export.name}: {reason}")
        records.note_error(self.engine, export.id, reason)


def _batch_of_folder(engine: Engine, export: Export, folder: str) -> BatchStatus:
    with engine.connect() as connection:
        (batch, *_) = records.batches_of(connection, export.id)
    found = status(engine, str(batch))
    if found.folder != folder:
        raise NightmillError(f"{export.prefix} isn't the folder of {found.name}")
    return found


def _open_batch(engine: Engine, s3: S3Options, batch: BatchId) -> ObjectStore:
    return find_output(engine, status(engine, str(batch)).output, s3)
