"""Maintenance of object stores: removes unfinished multipart uploads, and objects uploaded too late for their job."""

import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import cache

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.errors import ForeignOutputError, NightmillError
from jobs.job_dataclasses import BatchId
from jobs.outputs.mount_marker import find_output
from jobs.outputs.ownership import owner_of
from jobs.settings import Settings
from jobs.states import OPEN, sql_list
from jobs.storage.base import ObjectStore, StoredObject
from jobs.storage.open import S3Options, abort_stale_uploads, open_store
from scheduler.orphaned_objects import sweep_batch

log = logging.getLogger(__name__)

STALE = timedelta(days=1)
ROUND_S = 3600
STEP_S = 0.2

_OUTPUTS = text("""
    SELECT output, jsonb_object_agg(coalesce(folder, name), id) AS ids FROM batches
    WHERE output LIKE 's3://%' GROUP BY output
""")

# Older batches may be swept by hand: nobody uploads to them any more, and listing all batches ever made costs money.
_LATELY_ENDED = text(f"""
    SELECT id, output FROM batches WHERE NOT EXISTS (
        SELECT FROM job_counts WHERE batch_id = batches.id AND state IN ({sql_list(OPEN)})
        GROUP BY state HAVING sum(delta) > 0)
      AND greatest(created_at, cancelled_at, (SELECT max(created_at) FROM images WHERE batch_id = batches.id))
        > now() - interval '1 day'
    ORDER BY id
""")  # noqa: S608 - constants


def sweep_uploads(settings: Settings, engine: Engine) -> int:
    """Abort our batches' multipart uploads to S3 that were begun over a day ago; they cost money and never end.

    Errors of one output are logged and don't delay the others.
    """
    options, aborted = _options(settings), 0
    for row in run(engine, _OUTPUTS, {}):
        try:
            aborted += _sweep_uploads(engine, open_store(row.output, options), row.ids)
        except NightmillError as error:
            log.warning("stale uploads to %s are left: %s", row.output, error)
    return aborted


def _sweep_uploads(engine: Engine, store: ObjectStore, ids: dict[str, BatchId]) -> int:
    @cache
    def is_ours(folder: str) -> bool:
        if folder not in ids:
            return False
        try:
            return owner_of(engine, store, ids[folder], folder) is not None
        except ForeignOutputError:
            return False

    return abort_stale_uploads(store, is_ours, STALE)


class ImageSweeper:
    """Sweeps unreferenced objects of batches that ended within a day, in short steps: other tasks can't wait."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine
        self._todo: list[tuple[BatchId, str]] = []
        self._pages: Iterator[list[StoredObject]] = iter(())

    @property
    def is_idle(self) -> bool:
        """Whether the round is finished."""
        return not self._todo

    def begin(self) -> int:
        """Begin a round, unless one is in progress; returns the number of its batches."""
        if not self.is_idle:
            return 0
        self._todo = [(row.id, row.output) for row in run(self.engine, _LATELY_ENDED, {})]
        self._open()
        return len(self._todo)

    def step(self) -> int:
        """Sweep for `STEP_S` or until objects were deleted; returns how many."""
        until, swept = time.monotonic() + STEP_S, 0
        while not (swept or self.is_idle or time.monotonic() > until):
            swept = self._page()
        return swept

    def _page(self) -> int:
        """Sweep one page; if its store or folder fails, the batch is skipped until the next round."""
        try:
            page = next(self._pages, None)
        except NightmillError as error:
            log.warning("batch %d isn't swept: %s", self._todo[0][0], error)
            page = None
        if page is None:
            self._next()
        return len(page or ())

    def _next(self) -> None:
        self._todo.pop(0)
        self._open()

    def _open(self) -> None:
        for batch, output in self._todo[:1]:
            self._pages = self._sweep(batch, output)

    def _sweep(self, batch: BatchId, output: str) -> Iterator[list[StoredObject]]:
        """Open the store with the first page, so that an error in opening it affects one batch only."""
        yield from sweep_batch(self.engine, find_output(self.engine, output, _options(self.settings)), batch)


def _options(settings: Settings) -> S3Options:
    return S3Options(settings.s3_endpoint_url, settings.s3_region, read_timeout=10, max_attempts=1)
