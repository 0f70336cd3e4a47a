"""Move image files into quarantine and out of it, as their jobs are blocked and freed.

A file is copied and compared, then the rows change, then the file of before is deleted. Batch and jobs are locked from
the copy to the change, so that nobody moves the batch meanwhile, and no sweep takes the copy for one that no row names;
an interrupted call leaves such a file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Row, text

from jobs.batches.retract_images import PORTION, delete_files_of_jobs
from jobs.db.engine import transact
from jobs.job_dataclasses import JobId
from jobs.queue.sql_predicates import in_quarantine
from jobs.safety_reevaluation.block_and_unblock_jobs import (
    BlockedImage,
    BlockedJob,
    JudgedBatch,
    block_images,
    hold,
    restore_images,
)
from jobs.states import JobState
from jobs.storage.base import BadObjectError, ObjectStore
from jobs.storage.image_and_c2pa_sidecar_files import ImageFile, image_files, put_files, read_files
from jobs.storage.key_layout import parse_image_key, quarantine_key

T = TypeVar("T")

_THREADS = 8

_IMAGES = text("""
    SELECT jobs.id AS job, images.id, images.key, images.sha256, images.format, images.c2pa_sidecar_sha256
    FROM images JOIN jobs ON jobs.id = images.job_id
    WHERE images.id = ANY (CAST(:ids AS bigint[])) AND state = 'done' ORDER BY jobs.id FOR UPDATE OF jobs
""")
_QUARANTINED = text(f"""
    SELECT jobs.id AS job, jobs.id, jobs.finished_at AS blocked_at, q.image ->> 'key' AS key,
        q.image ->> 'sha256' AS sha256, q.image ->> 'format' AS format, q.key AS quarantined,
        q.image ->> 'c2pa_sidecar_sha256' AS c2pa_sidecar_sha256
    FROM unnest(CAST(:ids AS bigint[]), CAST(:since AS timestamptz[])) AS g (job, blocked_at)
    JOIN jobs ON jobs.id = g.job AND jobs.finished_at = g.blocked_at
    JOIN quarantined_images q ON {in_quarantine()}
    ORDER BY jobs.id FOR UPDATE OF jobs
""")


@dataclass(frozen=True)
class _Copy:
    """The files of an image, to be stored under other keys as well."""

    sources: Sequence[ImageFile]
    targets: Sequence[ImageFile]


def quarantine_images(
    engine: Engine, store: ObjectStore, batch: JudgedBatch, images: Sequence[BlockedImage]
) -> tuple[int, int]:
    """Block image rows and move their files into quarantine; returns the numbers of rows and of files.

    A file that is missing or damaged, or isn't below the batch's folder, is left where it is. Raises OvertakenError
    once the batch isn't as it was judged (`block_and_unblock_jobs.hold`); nothing is copied then.
    """
    by_id = {image.image: image for image in images}

    def change(connection: Connection, rows: Sequence[Row[Any]], copied: set[int]) -> set[JobId]:
        kept = [
            replace(by_id[row.id], quarantined=quarantine_key(row.key) if row.id in copied else None)
            for row in rows
        ]
        return block_images(connection, batch.id, kept)

    def copy_of(row: Row[Any]) -> _Copy | None:
        key = parse_image_key(row.key)
        is_own = key is not None and key.batch == batch.folder
        return _copy_to(row, row.key, quarantine_key(row.key)) if is_own else None

    changed = moved = 0
    for portion in _portions(images):
        values = {"ids": [image.image for image in portion]}
        rows, files = _move(engine, store, batch, values, _Move(_IMAGES, copy_of, change, JobState.BLOCKED))
        changed, moved = changed + rows, moved + files
    return changed, moved


def restore_quarantined(
    engine: Engine,
    store: ObjectStore,
    batch: JudgedBatch,
    jobs: Sequence[BlockedJob],
    recorded: Mapping[str, str],
) -> int:
    """Free blocked jobs by moving their files out of quarantine; returns their number.

    `recorded` is what image rows note of the new policy. Those whose file is missing or damaged stay blocked, and so do
    jobs that aren't blocked for the same image any more. Raises OvertakenError like `quarantine_images`.
    """

    def change(connection: Connection, rows: Sequence[Row[Any]], copied: set[int]) -> set[JobId]:
        jobs_of_copies = [BlockedJob(row.job, row.blocked_at) for row in rows if row.id in copied]
        return restore_images(connection, batch.id, jobs_of_copies, recorded)

    def copy_of(row: Row[Any]) -> _Copy:
        return _copy_to(row, row.quarantined, row.key)

    restored = 0
    for portion in _portions(jobs):
        values = {"ids": [each.job for each in portion], "since": [each.blocked_at for each in portion]}
        restored += _move(engine, store, batch, values, _Move(_QUARANTINED, copy_of, change, JobState.DONE))[
            0
        ]
    return restored


def _portions(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), PORTION):
        yield items[start : start + PORTION]


@dataclass(frozen=True)
class _Move:
    """How files are moved: the rows to lock, what is copied, what changes in the tables, and what jobs become."""

    lock: Any
    copy_of: Callable[[Row[Any]], _Copy | None]
    change: Callable[[Connection, Sequence[Row[Any]], set[int]], set[JobId]]
    state: JobState


def _move(
    engine: Engine, store: ObjectStore, batch: JudgedBatch, values: Mapping[str, object], move: _Move
) -> tuple[int, int]:
    """Move the files of one portion; returns the numbers of rows changed and of files moved."""

    def copied(connection: Connection) -> tuple[set[JobId], list[tuple[JobId, list[str]]]]:
        hold(connection, batch)
        rows = connection.execute(move.lock, values).all()
        copies = _copied(store, rows, move.copy_of)
        jobs = move.change(connection, rows, set(copies))
        moved = [row for row in rows if row.id in copies and row.job in jobs]
        return jobs, [(row.job, [file.key for file in copies[row.id].sources]) for row in moved]

    jobs, left = transact(engine, copied)
    return len(jobs), delete_files_of_jobs(engine, store, left, move.state)


def _copied(
    store: ObjectStore, rows: Sequence[Row[Any]], copy_of: Callable[[Row[Any]], _Copy | None]
) -> dict[int, _Copy]:
    """Copy the files of rows; returns the copies by the rows' ids, without those whose file can't be used."""
    wanted = {row.id: copy for row in rows if (copy := copy_of(row)) is not None}
    with ThreadPoolExecutor(_THREADS) as threads:
        made = threads.map(lambda copy: _copy(store, copy), wanted.values())
        return {id: copy for (id, copy), is_made in zip(wanted.items(), made, strict=True) if is_made}


def _copy_to(row: Row[Any], source: str, target: str) -> _Copy:
    columns = row.sha256, row.format, row.c2pa_sidecar_sha256
    return _Copy(image_files(source, *columns), image_files(target, *columns))


def _copy(store: ObjectStore, copy: _Copy) -> bool:
    try:
        bodies = read_files(store, copy.sources)
    except BadObjectError:
        return False
    put_files(store, copy.targets, bodies)
    return True
