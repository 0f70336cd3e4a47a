"""Marker files of output folders: written on first use and recorded in the database, to detect unmounted shares.

If the marker is missing, the share with the images isn't mounted, or the folder was emptied.
"""

import json
from itertools import islice
from uuid import UUID, uuid4

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.errors import OutputGoneError
from jobs.storage.base import MissingObjectError, ObjectStore, S3Options
from jobs.storage.folder import MARKER, FolderStore
from jobs.storage.key_layout import parse_image_key
from jobs.storage.open import open_store

_KNOWN = text("SELECT marker FROM outputs WHERE uri = :uri")

_REMEMBER = text("""
    INSERT INTO outputs (uri, marker) VALUES (:uri, :marker)
    ON CONFLICT (uri) DO UPDATE SET marker = excluded.marker RETURNING uri
""")

# The first and the last image of up to 200 batches in the output, the latest batches first.
_IMAGES = text("""
    SELECT key FROM (SELECT id FROM batches WHERE output IN (:output, :uri) ORDER BY id DESC LIMIT 200) AS b,
        LATERAL (
            (SELECT key FROM images WHERE batch_id = b.id ORDER BY ordinal, index LIMIT 1)
            UNION (SELECT key FROM images WHERE batch_id = b.id ORDER BY ordinal DESC, index DESC LIMIT 1)) AS i
    LIMIT 20
""")


def open_output(engine: Engine, output: str, s3: S3Options) -> ObjectStore:
    """Open the store of a batch's output for writing; a folder gets its marker when it is first used.

    Raises OutputGoneError if a folder that held images lacks its marker. The methods of the returned store raise it,
    too.
    """
    store = open_store(output, s3)
    if not isinstance(store, FolderStore):
        return store
    known, found = _known(engine, store), _found(store)
    if known is None or known != found:
        if held := _image_keys(engine, output, store):
            _require_images(store, held, known, found)
        mark(engine, store)
    return store.marked()


def find_output(engine: Engine, output: str, s3: S3Options) -> ObjectStore:
    """Open the store of a batch's output for reading or deletion. Raises OutputGoneError like `open_output`."""
    store = open_store(output, s3)
    if not isinstance(store, FolderStore) or not (held := _image_keys(engine, output, store)):
        return store
    if known := _known(engine, store):
        return store.marked()
    _require_images(store, held, known, _found(store))
    return store


def mark(engine: Engine, store: FolderStore) -> None:
    """Write the folder's marker, unless it has one, and record it in the database."""
    marker = uuid4()
    body = json.dumps({"nightmill": "images are written to this folder", "id": str(marker)}).encode()
    if not store.put_new(MARKER, body, content_type="application/json"):
        marker = _found(store) or marker
    run(engine, _REMEMBER, {"uri": store.uri, "marker": marker})


def _known(engine: Engine, store: FolderStore) -> UUID | None:
    return next((row.marker for row in run(engine, _KNOWN, {"uri": store.uri})), None)


def _found(store: FolderStore) -> UUID | None:
    try:
        return UUID(json.loads(store.get(MARKER))["id"])
    except MissingObjectError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        return UUID(int=0)


def _image_keys(engine: Engine, output: str, store: FolderStore) -> list[str]:
    rows = run(engine, _IMAGES, {"output": output, "uri": store.uri})
    return [row.key for row in rows if parse_image_key(row.key)]


def _require_images(store: FolderStore, keys: list[str], known: UUID | None, found: UUID | None) -> None:
    """Accept a folder with another marker, or without a recorded one, if it holds one of the images.

    Raises OutputGoneError otherwise.
    """
    if (known is None or found is not None) and any(
        there.key == key for key in keys for there in islice(store.list(key), 1)
    ):
        return
    if found is None and known is not None:
        store.marked().get(MARKER)  # says whether it is gone or empty
    raise OutputGoneError(
        f"{store.uri} holds none of the images that were written there before: is the right share mounted? Nothing is "
        "written there; if it was emptied on purpose, `nightmill adopt BATCH` says so"
    )
