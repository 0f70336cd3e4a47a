"""Check a batch's image rows against the stored objects, and queue the jobs of missing or damaged ones again."""

import hashlib
import random
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from math import ceil
from typing import Any

from sqlalchemy import Engine, text

from jobs.batches.actions import BatchStatus, reopen
from jobs.db.engine import run
from jobs.errors import UsageError
from jobs.job_dataclasses import BatchId
from jobs.queue import transitions
from jobs.storage.base import DamagedObjectError, MissingObjectError, ObjectStore, is_key
from jobs.storage.key_layout import parse_image_key, sidecar_key

PAGE = 200
THREADS = 8

_COUNT = text("SELECT count(*) AS n FROM images WHERE batch_id = :batch")

# Keyset pagination: a cursor would keep a transaction open for as long as reading all objects takes.
_ROWS = text("""
    SELECT id, job_id, ordinal, "index" AS number, key, bytes, sha256, c2pa_sidecar_sha256 FROM images
    WHERE batch_id = :batch AND (ordinal, "index") > (:ordinal, :index) ORDER BY ordinal, "index" LIMIT :limit
""")


@dataclass(frozen=True)
class Wrong:
    """An image row whose object, or sidecar, is missing (`is_missing`) or differs from the row, with the reason.

    `is_blocked`: something else occupies the object's key, so that no image can be stored there until it is removed.
    The sidecar's may be occupied: another rendering has another manifest, and so another key.
    """

    image: int
    job: int
    ordinal: int
    index: int
    key: str
    is_missing: bool
    reason: str
    is_blocked: bool = False


def check(
    engine: Engine,
    store: ObjectStore,
    batch: BatchStatus,
    share: float = 1.0,
    on_images: Callable[[int], None] = lambda _: None,
) -> Iterator[list[Wrong]]:
    """Read the objects of a random share (0 to 1) of the batch's image rows; yields the problems page by page.

    The manifests beside them are read, too.

    `on_images` is called with the number read so far. Raises ObjectStoreError if the store is unavailable or refuses a
    request, which is no statement about the object.
    """
    read = 0
    with ThreadPoolExecutor(THREADS) as threads, closing(_chosen(engine, batch.id, share)) as rows:
        while page := list(islice(rows, PAGE)):
            found = threads.map(lambda row: _compare(store, batch.folder, row), page)
            yield [wrong for wrong in found if wrong is not None]
            read += len(page)
            on_images(read)


def image_count(engine: Engine, batch: BatchId) -> int:
    """Return the number of image rows of the batch."""
    count: int = run(engine, _COUNT, {"batch": batch})[0].n
    return count


def sample_size(count: int, share: float) -> int:
    """Return the sample size for a share of `count` images, rounded up."""
    return min(count, ceil(count * share))


def repair(engine: Engine, batch: BatchStatus, wrong: Sequence[Wrong]) -> int:
    """Delete the image rows and queue their jobs again; returns the number queued. Ends a cancellation.

    The new images get new rows and appear in the feed again. Blocked ones are skipped: their images would be rendered
    again and again, and could never be stored.
    """
    if batch.archived_at is not None:
        raise UsageError(
            f"{batch.name} is archived: its jobs are gone, so that nothing of it can be rendered again"
        )
    storable = [(each.image, each.key) for each in wrong if not each.is_blocked]
    if not storable:
        return 0
    queued = transitions.render_again(engine, batch.id, storable, "its file is missing or damaged")
    reopen(engine, batch.id)
    return queued


def _chosen(engine: Engine, batch: BatchId, share: float) -> Generator[Any, None, None]:
    """Yield a uniform random sample of image rows in manifest order (selection sampling: Knuth, TAOCP 3.4.2 S)."""
    left = image_count(engine, batch)
    wanted, place = sample_size(left, share), {"ordinal": -1, "index": -(2**31)}
    while wanted and (page := run(engine, _ROWS, {"batch": batch, "limit": 10 * PAGE} | place)):
        for row in page:
            if random.random() * left < wanted:  # noqa: S311 - a sample needs no secrecy
                wanted -= 1
                yield row
            left -= 1
        place = {"ordinal": page[-1].ordinal, "index": page[-1].number}


def _compare(store: ObjectStore, batch: str, row: Any) -> Wrong | None:
    def wrong(reason: str, *, is_missing: bool = False, is_blocked: bool = False) -> Wrong:
        return Wrong(row.id, row.job_id, row.ordinal, row.number, row.key, is_missing, reason, is_blocked)

    parsed = parse_image_key(row.key)
    if parsed is None or not is_key(row.key) or parsed.batch != batch:
        return wrong(
            "the row's key isn't one that nightmill wrote: the database was changed by somebody else"
        )
    files = [("the object", row.key, row.bytes, row.sha256)]
    if row.c2pa_sidecar_sha256 is not None:
        files.append(("its C2PA manifest", sidecar_key(row.key), None, row.c2pa_sidecar_sha256))
    for what, key, size, digest in files:
        try:
            body = store.get(key)
        except MissingObjectError as error:
            reason = str(error) if error.is_blocked else f"{what} isn't there"
            return wrong(reason, is_missing=True, is_blocked=error.is_blocked and key == row.key)
        except DamagedObjectError as error:
            return wrong(str(error), is_blocked=error.is_blocked and key == row.key)
        if size not in (None, len(body)):
            return wrong(f"{what} has {len(body):,} bytes, the row says {size:,}")
        if hashlib.sha256(body).hexdigest() != digest:
            return wrong(f"{what} has another SHA-256")
    return None
