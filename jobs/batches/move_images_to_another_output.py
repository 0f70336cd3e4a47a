"""Moves a batch's images to another output: copied and compared, then named by one statement, then deleted here."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Engine, text

from jobs.batches.delete_files import delete_files, exports_in_folder
from jobs.batches.status import BatchStatus
from jobs.db.engine import run, transact
from jobs.errors import UsageError
from jobs.exports.records import move_exports
from jobs.feed.write_events import Event, add_event
from jobs.outputs.export_inventory import Digests
from jobs.queue.sql_predicates import HAS_OPEN_JOBS
from jobs.states import EventKind
from jobs.storage.base import (
    BadObjectError,
    MissingObjectError,
    ObjectStore,
    digest_if_there,
)
from jobs.storage.image_and_c2pa_sidecar_files import files_of_row, put_files, read_files
from jobs.storage.key_layout import CONTACT_SHEET

PAGE = 200
THREADS = 8
MOVED_FROM = "moved_from"
"""Key in the batch's settings: the output whose files are still to be deleted."""
_EXPORTS = "moved_exports"
"""Key in the batch's settings: the files of the exports there, by the exports' prefix, by name: their digests."""

_PAGE = text("""
    SELECT id, ordinal, "index" AS number, key, sha256, format, c2pa_sidecar_sha256 FROM images
    WHERE batch_id = :batch AND (ordinal, "index") > (:ordinal, :index) ORDER BY ordinal, "index" LIMIT :limit
""")
_QUARANTINED = text("""
    SELECT job_id, key, image ->> 'sha256' AS sha256, image ->> 'format' AS format,
        image ->> 'c2pa_sidecar_sha256' AS c2pa_sidecar_sha256
    FROM quarantined_images
    WHERE batch_id = :batch AND job_id > :after ORDER BY job_id LIMIT :limit
""")
_SEEN = "SELECT count(*) || '/' || coalesce(max(id), 0) AS seen FROM images WHERE batch_id = :batch"
_LOCK = text("SELECT id FROM batches WHERE id = :batch FOR NO KEY UPDATE")
_SWITCH = text(f"""
    UPDATE batches SET output = :output, settings = settings || CAST(:noted AS jsonb)
    WHERE id = :batch AND NOT EXISTS (SELECT FROM lanes WHERE batch_id = :batch AND {HAS_OPEN_JOBS})
      AND ({_SEEN}) = :seen
    RETURNING id
""")
_NOTED = text("SELECT settings -> :key AS noted FROM batches WHERE id = :batch")
_FORGET = text("""
    UPDATE batches SET settings = settings - CAST(:keys AS text[]) WHERE id = :batch RETURNING id
""")


def moved_from(engine: Engine, batch: BatchStatus) -> str | None:
    """Return the output that a batch was moved from by a call that was cut off before it had deleted the files."""
    found: str | None = run(engine, _NOTED, {"batch": batch.id, "key": MOVED_FROM})[0].noted
    return found


def check_can_move(batch: BatchStatus) -> None:
    """Raise UsageError while jobs of the batch are unfinished."""
    if batch.remaining:
        raise UsageError(
            f"batch {batch.name} has {batch.remaining:,} jobs that haven't ended: wait, or `nightmill cancel` it first"
        )


def move(
    engine: Engine,
    batch: BatchStatus,
    source: ObjectStore,
    target: ObjectStore,
    output: str,
    on_images: Callable[[int], None] = lambda _: None,
) -> None:
    """Copy an ended batch's images to `target`, compare them, and let the rows name them there.

    Exports beside the images are written anew there by the next export. Objects that are there already are kept, so
    that an interrupted call can be repeated. The files at the source stay: `delete_moved` deletes them. Raises
    UsageError while jobs are unfinished, and BadObjectError for an image that is missing or differs from its row.
    """
    check_can_move(batch)
    while True:  # images that were added meanwhile are copied in another round
        seen = run(engine, text(_SEEN), {"batch": batch.id})[0].seen
        copied = 0
        for count in _copies(engine, batch, source, target):
            copied += count
            on_images(copied)
        _copy_quarantined(engine, batch, source, target)
        _copy_contact_sheet(batch, source, target)
        if transact(engine, lambda connection: _switch(connection, batch, source, target, output, seen)):  # noqa: B023
            return


def delete_moved(engine: Engine, batch: BatchStatus, source: ObjectStore) -> None:
    """Delete the files of a moved batch where it was, as `delete_files` does."""
    exports: dict[str, Digests] | None = run(engine, _NOTED, {"batch": batch.id, "key": _EXPORTS})[0].noted
    delete_files(engine, source, batch, exports=exports)
    run(engine, _FORGET, {"batch": batch.id, "keys": [MOVED_FROM, _EXPORTS]})


def _switch(
    connection: Connection,
    batch: BatchStatus,
    source: ObjectStore,
    target: ObjectStore,
    output: str,
    seen: str,
) -> bool:
    """Let the batch's rows name the target, unless images were added or jobs were queued since."""
    connection.execute(_LOCK, {"batch": batch.id})
    exports = {
        prefix: {name: sorted(digests) for name, digests in files.items()}
        for prefix, files in exports_in_folder(connection.engine, source, batch).items()
    }
    noted = {MOVED_FROM: batch.output, _EXPORTS: exports}
    values = {"batch": batch.id, "output": output, "seen": seen, "noted": json.dumps(noted)}
    if connection.execute(_SWITCH, values).one_or_none() is None:
        return False
    move_exports(connection, batch.id, source.uri, target.uri, f"{batch.folder}/")
    add_event(connection, Event(EventKind.BATCH, batch.id, detail={"moved_to": target.uri}))
    return True


def _copies(engine: Engine, batch: BatchStatus, source: ObjectStore, target: ObjectStore) -> Iterator[int]:
    with ThreadPoolExecutor(THREADS) as threads:
        for page in _pages(engine, batch):
            list(threads.map(lambda row: _copy(source, target, row), page))
            yield len(page)


def _pages(engine: Engine, batch: BatchStatus) -> Iterator[Sequence[Any]]:
    after = {"ordinal": -1, "index": 0}
    while page := run(engine, _PAGE, {"batch": batch.id, "limit": PAGE, **after}):
        yield page
        after = {"ordinal": page[-1].ordinal, "index": page[-1].number}


def _copy_quarantined(engine: Engine, batch: BatchStatus, source: ObjectStore, target: ObjectStore) -> None:
    """Copy files in quarantine; one that is missing or damaged stays behind, and its image would be rendered again."""
    after = 0
    while page := run(engine, _QUARANTINED, {"batch": batch.id, "limit": PAGE, "after": after}):
        for row in page:
            with suppress(BadObjectError):
                _copy(source, target, row)
        after = page[-1].job_id


def _copy_contact_sheet(batch: BatchStatus, source: ObjectStore, target: ObjectStore) -> None:
    key = f"{batch.folder}/{CONTACT_SHEET}"
    with suppress(MissingObjectError):
        target.put(key, source.get(key), content_type="image/png")


def _copy(source: ObjectStore, target: ObjectStore, row: Any) -> None:
    missing = [file for file in files_of_row(row) if digest_if_there(target, file.key) != file.sha256]
    put_files(target, missing, read_files(source, missing))
