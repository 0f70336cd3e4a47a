"""Upkeep of object stores: what uploads left behind that were cut off, or that came too late for their job."""

import logging
import time
from collections.abc import Iterator
from datetime import timedelta

from sqlalchemy import Engine, text

from jobs.database import run
from jobs.errors import NightmillError, ServiceError
from jobs.job import BatchId
from jobs.object_types import StoredObject
from jobs.objects import S3Options, open_store, remove_unfinished
from jobs.settings import Settings
from scheduler.unreferenced import sweep_batch

log = logging.getLogger(__name__)

STALE = timedelta(days=1)
ROUND_S = 3600
STEP_S = 0.2

_OUTPUTS = text("""
    SELECT output, array_agg(name) AS names FROM batches WHERE output LIKE 's3://%' GROUP BY output
""")

# What ended before may be swept by hand: nobody uploads to it any more, and listing all there ever was costs money.
_LATELY_ENDED = text("""
    SELECT id, output FROM batches WHERE NOT EXISTS (
        SELECT FROM tallies WHERE batch_id = batches.id AND state IN ('queued', 'running')
        GROUP BY state HAVING sum(delta) > 0)
      AND greatest(created_at, cancelled_at, (SELECT max(created_at) FROM images WHERE batch_id = batches.id))
        > now() - interval '1 day'
    ORDER BY id
""")


def sweep_uploads(settings: Settings, engine: Engine) -> int:
    """Abort our batches' multipart uploads to S3 that were begun over a day ago; they cost money and never end.

    An output in trouble is logged and doesn't keep the others waiting.
    """
    options, aborted = _options(settings), 0
    for row in run(engine, _OUTPUTS, {}):
        try:
            aborted += remove_unfinished(open_store(row.output, options), row.names, STALE)
        except NightmillError as error:
            log.warning("stale uploads to %s are left: %s", row.output, error)
    return aborted


class ImageSweeper:
    """Sweeps unreferenced objects of batches that ended within a day, in short steps: other duties can't wait."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine
        self._todo: list[tuple[BatchId, str]] = []
        self._pages: Iterator[list[StoredObject]] = iter(())

    @property
    def is_idle(self) -> bool:
        """Whether the round is over."""
        return not self._todo

    def begin(self) -> int:
        """Begin a round, unless one is under way; returns how many batches it has."""
        if not self.is_idle:
            return 0
        self._todo = [(row.id, row.output) for row in run(self.engine, _LATELY_ENDED, {})]
        self._open()
        return len(self._todo)

    def step(self) -> int:
        """Look for `STEP_S` or until something went; returns how many objects that were."""
        until, swept = time.monotonic() + STEP_S, 0
        while not (swept or self.is_idle or time.monotonic() > until):
            swept = self._page()
        return swept

    def _page(self) -> int:
        """Sweep one page; a store in trouble is left until the next round."""
        try:
            page = next(self._pages, None)
        except ServiceError:
            self._next()
            raise
        if page is None:
            self._next()
        return len(page or ())

    def _next(self) -> None:
        self._todo.pop(0)
        self._open()

    def _open(self) -> None:
        for batch, output in self._todo[:1]:
            store = open_store(output, _options(self.settings))
            self._pages = sweep_batch(self.engine, store, batch)


def _options(settings: Settings) -> S3Options:
    return S3Options(settings.s3_endpoint_url, settings.s3_region, read_timeout=10, max_attempts=1)
