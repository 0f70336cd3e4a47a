"""Retract images that are to be used no more: their rows and files go, an event and the state of their jobs stay."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, text

from jobs.batches.status import BatchStatus
from jobs.db.engine import run
from jobs.errors import UsageError
from jobs.images.where_expression import Condition
from jobs.job_dataclasses import BatchId, JobId
from jobs.outputs.delete_contact_sheet import delete_contact_sheet
from jobs.queue import transitions
from jobs.states import JobState
from jobs.storage.base import ObjectStore
from jobs.storage.image_and_c2pa_sidecar_files import image_keys
from jobs.storage.key_layout import parse_image_key
from jobs.suggest_names_and_shorten_lists import some_of

PAGE = 500
PORTION = 50
"""So many files are changed while their jobs are locked."""

_COLUMNS = 'i.id, i.key, i.job_id, i.ordinal, i."index" AS number, i.batch_id, i.c2pa_sidecar_sha256'

_BY_ID = text(f"SELECT {_COLUMNS} FROM images i WHERE i.id = ANY (CAST(:ids AS bigint[])) ORDER BY i.id")

# While a job is locked in this state, nobody can queue it again, claim it and upload its file anew.
_LOCK = text("""
    SELECT id FROM jobs WHERE id = ANY (CAST(:jobs AS bigint[])) AND state = :state ORDER BY id FOR UPDATE
""")
_STILL_HERE = text("SELECT 1")


@dataclass(frozen=True)
class ImageRow:
    """What identifies an image row that is to be retracted."""

    id: int
    key: str
    job: JobId
    ordinal: int
    index: int
    sidecar_sha256: str | None = None


def images_by_id(engine: Engine, ids: Sequence[int]) -> dict[BatchId, list[ImageRow]]:
    """Return image rows by their batch. Raises UsageError if one isn't there."""
    found: dict[BatchId, list[ImageRow]] = defaultdict(list)
    for row in run(engine, _BY_ID, {"ids": list(ids)}):
        found[row.batch_id].append(_image_row(row))
    there = {image.id for images in found.values() for image in images}
    if missing := [number for number in ids if number not in there]:
        raise UsageError(
            f"there are no image rows {some_of(missing, 10)}: `image_id` in the feed and in exports is the number"
        )
    return dict(found)


def count_chosen(engine: Engine, batch: BatchId, condition: Condition) -> int:
    """Return how many images of the batch meet a condition."""
    statement = f"SELECT count(*) AS n FROM {_chosen(condition)}"
    count: int = run(engine, text(statement), {"batch": batch, **condition.values})[0].n
    return count


def chosen_images(engine: Engine, batch: BatchId, condition: Condition) -> Iterator[list[ImageRow]]:
    """Yield the image rows of the batch that meet a condition, in manifest order, page by page."""
    statement = text(f"""
        SELECT {_COLUMNS} FROM {_chosen(condition)} AND (i.ordinal, i."index") > (:ordinal, :number)
        ORDER BY i.ordinal, i."index" LIMIT :limit
    """)
    place = {"ordinal": -1, "number": -(2**31)}
    values = {"batch": batch, "limit": PAGE, **condition.values}
    while rows := run(engine, statement, values | place):
        yield [_image_row(row) for row in rows]
        place = {"ordinal": rows[-1].ordinal, "number": rows[-1].number}


def _chosen(condition: Condition) -> str:
    return f"images i JOIN batches b ON b.id = i.batch_id WHERE i.batch_id = :batch AND {condition.sql}"


def _image_row(row: Any) -> ImageRow:
    return ImageRow(row.id, row.key, row.job_id, row.ordinal, row.number, row.c2pa_sidecar_sha256)


def retract(
    engine: Engine, batch: BatchStatus, images: Sequence[ImageRow], reason: str, store: ObjectStore | None
) -> tuple[int, int]:
    """Retract image rows of a batch, and delete their files and the contact sheet unless `store` is None.

    Returns the numbers of rows and of files; rows that are gone or changed meanwhile are skipped. Rows go first: a file
    that an interrupted call leaves is one that no row names, which a sweep deletes.
    """
    if store is not None:  # first, as an interrupted call that is repeated has nothing left to retract
        delete_contact_sheet(store, batch.folder)
    rows = [(image.id, image.key) for image in images]
    is_archived = batch.archived_at is not None
    retracted = transitions.retract(
        engine, batch.id, rows, reason, is_archived=is_archived, keeps_file=store is None
    )
    if store is None:
        return len(retracted), 0
    taken = [image for image in images if image.job in retracted]
    return len(retracted), delete_image_files(engine, store, batch, taken, JobState.RETRACTED)


def delete_image_files(
    engine: Engine, store: ObjectStore, batch: BatchStatus, images: Sequence[ImageRow], state: JobState
) -> int:
    """Delete the files of images whose rows are gone, and whose jobs ended so; returns the number of images.

    Skips files whose job has another state by now, and those whose key isn't one of the batch.
    """
    own = [
        (image.job, image_keys(image.key, image.sidecar_sha256)) for image in images if _is_of(batch, image)
    ]
    return delete_files_of_jobs(engine, store, own, state, is_archived=batch.archived_at is not None)


def _is_of(batch: BatchStatus, image: ImageRow) -> bool:
    key = parse_image_key(image.key)
    return key is not None and key.batch == batch.folder


def delete_files_of_jobs(
    engine: Engine,
    store: ObjectStore,
    images: Sequence[tuple[JobId, Sequence[str]]],
    state: JobState,
    *,
    is_archived: bool = False,
) -> int:
    """Delete images that no row names any more, given as (job, keys), of jobs in this state; returns their number.

    The jobs are locked meanwhile, unless the batch `is_archived` and has none; those in another state keep their files.
    """
    deleted = 0
    for start in range(0, len(images), PORTION):
        portion = images[start : start + PORTION]
        with engine.begin() as connection:
            values = {"jobs": [job for job, _ in portion], "state": state}
            held = connection.execute(_LOCK, values).scalars().all()
            for job, keys in portion:
                if is_archived or job in held:
                    for key in keys:
                        connection.execute(_STILL_HERE)
                        store.delete(key)
                    deleted += 1
    return deleted
