"""Delete the files that nightmill wrote for a batch, and nothing else in its folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import Engine, text

from jobs.batches.status import BatchStatus
from jobs.db.engine import run
from jobs.db.installation_id import this_installation
from jobs.exports.records import exports_of, recorded_digests
from jobs.job_dataclasses import BatchId
from jobs.outputs import export_inventory
from jobs.outputs.delete_contact_sheet import delete_contact_sheet
from jobs.outputs.export_inventory import Digests, ExportPlace
from jobs.outputs.ownership import Owner, disown, owner_of
from jobs.storage.base import ObjectStore, StoredObject
from jobs.storage.image_and_c2pa_sidecar_files import image_keys
from jobs.storage.key_layout import (
    IMAGES,
    QUARANTINE,
    TABLE_METADATA_FOLDERS,
    ImageKey,
    export_folder,
    is_batch_folder,
    is_table_metadata,
    parse_image_key,
    parse_quarantine_key,
    without_extension,
)
from jobs.storage.open import remove_empty_folders, remove_temporaries
from jobs.storage.recognise_own_c2pa_sidecars import is_own_file

PAGE = 500
_ANY_AGE = timedelta(days=-1)  # negative, to allow for clock skew of the store
GRAIN = timedelta(seconds=2)
"""Tolerance for modification times, which stores give in whole seconds."""
_Page = Sequence[tuple[StoredObject, ImageKey]]

_NAMED = text("""
    SELECT images.key, c2pa_sidecar_sha256
    FROM unnest(CAST(:ordinals AS bigint[]), CAST(:indexes AS int[])) AS g (ordinal, index)
    JOIN images ON images.batch_id = :batch AND images.ordinal = g.ordinal AND images.index = g.index
""")
# All of the batch, once: no index finds them by their keys or ordinals, and their jobs may be gone. Those whose job was
# queued again since are the batch's as well.
_QUARANTINED = text("""
    SELECT key, image ->> 'c2pa_sidecar_sha256' AS c2pa_sidecar_sha256 FROM quarantined_images WHERE batch_id = :batch
""")


def delete_files(
    engine: Engine, store: ObjectStore, batch: BatchStatus, exports: Mapping[str, Digests] | None = None
) -> None:
    """Delete a batch's images, those in quarantine, too, its export and its contact sheet, then folders now empty.

    Deleted are images named by rows, and those with a nightmill key that were uploaded after this installation
    became the owner of the folder; of the latter not the manifests that somebody else has put beside images. An
    interrupted call can be repeated. Raises ForeignOutputError if the folder belongs to another installation.
    `exports` are digests by name of the exports there, by prefix, if the database no longer says that they are there.
    """
    owner = owner_of(engine, store, batch.id, batch.folder)
    _delete_images(engine, store, batch, owner)
    known = exports_in_folder(engine, store, batch) | dict(exports or {})
    _delete_exports(engine, store, batch, known, is_own=owner is not None)
    if owner is not None:
        delete_contact_sheet(store, batch.folder)
        disown(store, batch.folder, owner)
        remove_temporaries(store, batch.folder, _ANY_AGE)
    remove_empty_folders(store, batch.folder, is_batch_folder)


def exports_in_folder(engine: Engine, store: ObjectStore, batch: BatchStatus) -> dict[str, Digests]:
    """Return the digests by name of the files of exports in the batch's folder, by the exports' prefix.

    That of an earlier version of nightmill is among them, without files: its `_SUCCESS` names them.
    """
    known: dict[str, Digests] = {export_folder(batch.folder): {}}
    for export in exports_of(engine, batch.id):
        if export.output == store.uri and export.prefix.startswith(f"{batch.folder}/"):
            known[export.prefix] = recorded_digests(engine, export)
    return known


def _delete_exports(
    engine: Engine, store: ObjectStore, batch: BatchStatus, known: Mapping[str, Digests], *, is_own: bool
) -> None:
    for prefix, digests in known.items():
        place = ExportPlace(store, prefix, batch.name, this_installation(engine).id, is_own=is_own)
        export_inventory.clear(place, export_inventory.look(place, known=digests))
        if is_own:
            _delete_table_metadata(store, prefix)


def _delete_table_metadata(store: ObjectStore, prefix: str) -> None:
    """Delete what is named like metadata of a table format: the names have UUIDs, and nothing lists them all."""
    for folder in TABLE_METADATA_FOLDERS:
        for found in list(store.list(prefix + folder)):
            if is_table_metadata(found.key.removeprefix(prefix)):
                store.delete(found.key)


def since_when(batch_made: datetime, owner: Owner | None) -> datetime | None:
    """Return the time since which images without a row in the folder must be this batch's; None if unknown."""
    return max(batch_made, owner.since) - GRAIN if owner else None


def _delete_images(engine: Engine, store: ObjectStore, batch: BatchStatus, owner: Owner | None) -> None:
    since = since_when(batch.created_at, owner)
    for page in _pages(store, f"{batch.folder}/{IMAGES}/", parse_image_key):
        _delete_page(store, page, _named(engine, batch.id, page), since)
    quarantined: set[str] | None = None
    for page in _pages(store, f"{batch.folder}/{QUARANTINE}/", parse_quarantine_key):
        if quarantined is None:
            quarantined = _keys(run(engine, _QUARANTINED, {"batch": batch.id}))
        _delete_page(store, page, quarantined, since)


def _pages(store: ObjectStore, prefix: str, parse: Callable[[str], ImageKey | None]) -> Iterator[_Page]:
    listing = store.list(prefix)
    while page := list(islice(listing, PAGE)):
        yield [(found, key) for found in page if (key := parse(found.key))]


def _delete_page(store: ObjectStore, page: _Page, named: Set[str], since: datetime | None) -> None:
    images = {without_extension(key) for key in named}
    for found, key in page:
        is_beside = (
            without_extension(found.key) in images
        )  # somebody else's, such as the picture in another format
        is_own = not is_beside and _is_since(found, since) and is_own_file(store, found, key)
        if found.key in named or is_own:
            store.delete(found.key)


def _is_since(found: StoredObject, since: datetime | None) -> bool:
    return since is not None and found.modified >= since


def _named(engine: Engine, batch: BatchId, files: _Page) -> set[str]:
    """Return the keys that image rows name, of these files or of others of the same jobs."""
    ordinals, indexes = [key.ordinal for _, key in files], [key.index for _, key in files]
    return _keys(run(engine, _NAMED, {"batch": batch, "ordinals": ordinals, "indexes": indexes}))


def _keys(rows: Sequence[Any]) -> set[str]:
    return {key for row in rows for key in image_keys(row.key, row.c2pa_sidecar_sha256)}
