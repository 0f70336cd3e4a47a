"""Sweeps objects that no image row references: uploads of workers that died or lost their job before completing it.

No object that a row references, or may come to reference, can be deleted. An object is referenced by completing its
job, for which the job must be running. So a job that has ended is locked, then it is checked again whether its row
references the object, and the object is deleted only under that lock: nobody can queue the job again, claim it and
upload meanwhile. Before each delete, a query verifies that the transaction still holds the lock. The age limit is a
second safeguard, against writers that bypass the job table: it protects all recent objects, whatever the job's state.

Nothing is deleted where this installation isn't recorded as the folder's owner, and nothing older than that record:
such objects may be images of another installation. Where a row's key isn't one that its job could have, all objects of
the job stay, and so do files of retracted images that were to be kept. Files in quarantine are swept in the same
way: those that the row of a blocked job doesn't name, or no longer, as the job was queued again. Manifests that
nightmill can't have written stay (`jobs.storage.recognise_own_c2pa_sidecars`): whoever signs the images put them there.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from sqlalchemy import Connection, Engine, TextClause, text

from jobs.batches.delete_files import since_when
from jobs.db.engine import run
from jobs.job_dataclasses import BatchId, JobId
from jobs.outputs.ownership import owner_of
from jobs.queue.sql_predicates import FOLDER, in_quarantine
from jobs.states import FINISHED, EventKind, sql_list
from jobs.storage.base import ObjectStore, StoredObject
from jobs.storage.key_layout import (
    IMAGES,
    QUARANTINE,
    SIDECAR,
    ImageKey,
    digest_in_key_sql,
    parse_image_key,
    parse_quarantine_key,
    sidecar_key_sql,
    without_extension_sql,
)
from jobs.storage.open import remove_temporaries
from jobs.storage.recognise_own_c2pa_sidecars import is_own_file

OLD = timedelta(hours=1)
PAGE = 100
_PORTION = 50
_ENDED = sql_list(FINISHED)

_BATCH = text(f"SELECT id, {FOLDER}, output, created_at, now() AS now FROM batches WHERE id = :batch")  # noqa: S608


def _names(key: str) -> str:
    """Return the SQL of whether the object `g.key` is the image that a row has by this key, or lies beside it.

    What lies beside it under its name and isn't the row's is somebody else's, such as a picture in another format.
    """
    return f"coalesce({without_extension_sql('g.key')} = {without_extension_sql(key)}, false)"


_UNNAMED = text(f"""
    SELECT g.key, jobs.id AS job
    FROM unnest(CAST(:keys AS text[]), CAST(:ordinals AS bigint[]), CAST(:indexes AS int[])) AS g (key, ordinal, index)
    JOIN jobs ON jobs.batch_id = :batch AND jobs.ordinal = g.ordinal AND jobs.index = g.index
    LEFT JOIN images ON images.job_id = jobs.id
    WHERE state IN ({_ENDED}) AND (images.key IS NULL OR (
        NOT {_names("images.key")} AND starts_with(
            images.key,
            regexp_replace(g.key, '[0-9a-f]{{12}}[.]([a-z]+|{SIDECAR})$', '') || {digest_in_key_sql("images")} || '.')))
      AND NOT EXISTS (
        SELECT FROM events WHERE events.batch_id = :batch AND events.ordinal = g.ordinal AND events."index" = g.index
          AND kind = '{EventKind.RETRACTED}' AND detail ? 'keeps_file'
          AND g.key IN (detail ->> 'key', {sidecar_key_sql("detail ->> 'key'")}))
""")  # noqa: S608

# The same for files in quarantine, which the rows of blocked jobs name.
_UNNAMED_QUARANTINED = text(f"""
    SELECT g.key, jobs.id AS job
    FROM unnest(CAST(:keys AS text[]), CAST(:ordinals AS bigint[]), CAST(:indexes AS int[])) AS g (key, ordinal, index)
    JOIN jobs ON jobs.batch_id = :batch AND jobs.ordinal = g.ordinal AND jobs.index = g.index
    LEFT JOIN quarantined_images q ON {in_quarantine()}
    WHERE state IN ({_ENDED}) AND NOT {_names("q.key")}
""")  # noqa: S608

_LOCK = text(f"""
    SELECT id FROM jobs WHERE id = ANY (CAST(:jobs AS bigint[])) AND state IN ({_ENDED})
    ORDER BY id FOR UPDATE SKIP LOCKED
""")  # noqa: S608

_STILL_HERE = text("SELECT 1")


@dataclass(frozen=True)
class _Folder:
    """A folder of a batch that is swept: its keys, and the statement that finds those that no row names."""

    name: str
    parse: Callable[[str], ImageKey | None]
    unnamed: TextClause


_FOLDERS = (
    _Folder(IMAGES, parse_image_key, _UNNAMED),
    _Folder(QUARANTINE, parse_quarantine_key, _UNNAMED_QUARANTINED),
)


@dataclass(frozen=True)
class _Candidate:
    """An old object whose key identifies its job."""

    object: StoredObject
    key: ImageKey

    def is_own(self, store: ObjectStore) -> bool:
        """Whether nightmill can have written it."""
        return is_own_file(store, self.object, self.key)


def sweep_batch(
    engine: Engine, store: ObjectStore, batch: BatchId, *, older_than: timedelta = OLD, dry_run: bool = False
) -> Iterator[list[StoredObject]]:
    """Delete a batch's unreferenced objects older than `older_than`; yields those deleted, one listing page at a time.

    Partly written files are deleted, too, if they are older than an hour. Jobs that haven't ended keep all their
    objects, and so do archived batches, whose jobs aren't known any more. With `dry_run` nothing is deleted. The caller
    may stop after any page, and any number of processes may sweep at once. Raises ForeignOutputError where the folder
    is another installation's, ObjectStoreError when the store refuses.
    """
    for row in run(engine, _BATCH, {"batch": batch}):
        owner = owner_of(engine, store, batch, row.folder)
        since = since_when(row.created_at, owner)
        if since is None:
            return
        if not dry_run:
            remove_temporaries(store, row.folder, max(older_than, OLD))
        for folder in _FOLDERS:
            listing = store.list(f"{row.folder}/{folder.name}/")
            while page := list(islice(listing, PAGE)):
                candidates = _candidates(folder, page, since, row.now - older_than)
                with engine.begin() as connection:
                    unnamed = _unnamed(connection, batch, candidates, folder.unnamed)
                suspects = [suspect for suspect in unnamed if suspect[0].is_own(store)]
                if dry_run:
                    yield [candidate.object for candidate, _ in suspects]
                else:
                    yield list(_delete(engine, store, batch, suspects, folder.unnamed))


def _candidates(
    folder: _Folder, page: Sequence[StoredObject], after: datetime, before: datetime
) -> list[_Candidate]:
    parsed = ((found, folder.parse(found.key)) for found in page if after <= found.modified < before)
    return [_Candidate(found, key) for found, key in parsed if key]


def _unnamed(
    connection: Connection, batch: BatchId, candidates: Sequence[_Candidate], unnamed: TextClause
) -> list[tuple[_Candidate, JobId]]:
    """Return the objects whose job has ended and whose job's row, if there is one, references another object."""
    by_key = {candidate.object.key: candidate for candidate in candidates}
    values = {
        "batch": batch,
        "keys": list(by_key),
        "ordinals": [candidate.key.ordinal for candidate in candidates],
        "indexes": [candidate.key.index for candidate in candidates],
    }
    return [(by_key[row.key], row.job) for row in connection.execute(unnamed, values)]


def _delete(
    engine: Engine,
    store: ObjectStore,
    batch: BatchId,
    suspects: Sequence[tuple[_Candidate, JobId]],
    unnamed: TextClause,
) -> Iterator[StoredObject]:
    for start in range(0, len(suspects), _PORTION):
        portion = suspects[start : start + _PORTION]
        with engine.begin() as connection:
            held = connection.execute(_LOCK, {"jobs": [job for _, job in portion]}).scalars().all()
            # A separate statement: its snapshot includes everything committed before the locks were granted.
            mine = [candidate for candidate, job in portion if job in held]
            for candidate, _ in _unnamed(connection, batch, mine, unnamed):
                connection.execute(_STILL_HERE)
                store.delete(candidate.object.key)
                yield candidate.object
