"""Ownership of batch folders: an owner object in each names the installation and the batch.

Several installations may share an output. Each neither writes to nor deletes from folders of the others. The owner
object is written before the first image, by a conditional write if the store supports it, so that only one of two
concurrent writers becomes the owner.

A folder without an owner object (a batch of an earlier version) is taken over if it has no images, or has an image that
a row of this database names. In any other case the owner is unknown, and the folder is left alone.
"""

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from uuid import UUID

from sqlalchemy import Engine, text

from jobs.db.engine import database_time, run
from jobs.db.installation_id import this_installation
from jobs.errors import ForeignOutputError, ObjectStoreError
from jobs.job_dataclasses import BatchId
from jobs.outputs.mount_marker import open_output
from jobs.settings import without_password
from jobs.storage.base import MissingObjectError, ObjectStore, S3Options
from jobs.storage.key_layout import is_sidecar_key, parse_image_key
from jobs.storage.open import open_store, read_object

OWNER = ".nightmill-owner.json"
_OWNER_BYTES = 1 << 20
_TRIED = 20

_FIRST_IMAGES = text(
    "SELECT key, bytes FROM images WHERE batch_id = :batch ORDER BY ordinal, index LIMIT :limit"
)
_NAME = text("SELECT name FROM batches WHERE id = :batch")


@dataclass(frozen=True)
class Owner:
    """The content of an owner object; `since` is the time of the owner's database."""

    installation: UUID
    batch: int
    database: str
    host: str
    since: datetime

    def body(self) -> bytes:
        """Return the owner object as stored (JSON)."""
        values = {
            "nightmill": "owner of this batch's folder",
            "installation": str(self.installation),
            "batch": self.batch,
            "database": self.database,
            "host": self.host,
            "since": self.since.isoformat(),
        }
        return json.dumps(values, indent=2).encode()


def owner_key(name: str) -> str:
    """Return the key of a batch's owner object."""
    return f"{name}/{OWNER}"


def claim(engine: Engine, store: ObjectStore, batch: BatchId, name: str) -> Owner:
    """Make this installation the owner of the batch's folder, unless it is already.

    Raises ForeignOutputError if the folder belongs to another installation or may do so, ObjectStoreError if the store
    refuses.
    """
    found = owner_of(engine, store, batch, name)
    if found is not None and found.batch == batch:
        return found
    mine = _owner(engine, batch)
    if found is not None:  # of a batch that was deleted since, whose files may have stayed
        store.put(owner_key(name), mine.body(), content_type="application/json")
        return mine
    if store.put_new(owner_key(name), mine.body(), content_type="application/json"):
        return mine
    found = owner_of(engine, store, batch, name)
    if found is None:
        raise ObjectStoreError(f"{store.locate(owner_key(name))} came and went: try again")
    return found


def open_claimed(engine: Engine, output: str, s3: S3Options, batch: BatchId, name: str) -> ObjectStore:
    """Open the store of a batch's output for writing and claim the batch's folder; raises like `claim`.

    Also raises OutputGoneError like `jobs.outputs.mount_marker.open_output`.
    """
    store = open_output(engine, output, s3)
    claim(engine, store, batch, name)
    return store


def owner_of(engine: Engine, store: ObjectStore, batch: BatchId, name: str) -> Owner | None:
    """Return the owner object of a folder of this installation; None if it has none and may be claimed.

    Raises ForeignOutputError if the folder belongs to another installation or may do so.
    """
    found = read_owner(store, name)
    if found is not None:
        _require_ours(engine, store, name, batch, found)
    elif _holds_images(store, name) and not _holds_image_of(engine, store, batch):
        raise ForeignOutputError(
            f"{store.locate(name)} holds images that no row of this database names, and no {OWNER} that says whose "
            "they are: nothing is changed there; choose another --name or --out"
        )
    return found


def batch_folder_around(uri: str, s3: S3Options) -> str | None:
    """Return the nearest folder at or above a folder or ``s3://`` URI with an owner object; None if there is none."""
    uri = open_store(uri, s3).uri
    if not uri.startswith("s3://"):
        path = Path(os.path.realpath(uri))
        return next((str(above) for above in (path, *path.parents) if os.path.lexists(above / OWNER)), None)
    bucket, *folders = uri.removeprefix("s3://").split("/")
    for depth in range(len(folders), 0, -1):
        above = "/".join([bucket, *folders[:depth]])
        with suppress(ObjectStoreError):  # no owner object, or no permission to read
            read_object(f"s3://{above}/{OWNER}", _OWNER_BYTES, s3)
            return f"s3://{above}"
    return None


def disown(store: ObjectStore, name: str, owner: Owner) -> None:
    """Delete the owner object of a batch if it is still `owner`'s."""
    if read_owner(store, name) == owner:
        store.delete(owner_key(name))


def adopt(engine: Engine, store: ObjectStore, batch: BatchId, name: str) -> Owner:
    """Take over a folder without a known owner, or one owned by this database before it was restored here."""
    found, here = read_owner(store, name), this_installation(engine)
    if found is not None and found.installation not in (here.id, *here.earlier):
        _require_ours(engine, store, name, batch, found)
    mine = _owner(engine, batch)
    store.put(owner_key(name), mine.body(), content_type="application/json")
    return mine


def read_owner(store: ObjectStore, name: str) -> Owner | None:
    """Read the folder's owner object, of this or another installation; None if there is none."""
    try:
        values = json.loads(store.get(owner_key(name)))
        return Owner(
            UUID(values["installation"]),
            int(values["batch"]),
            str(values["database"]),
            str(values["host"]),
            datetime.fromisoformat(values["since"]),
        )
    except MissingObjectError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ObjectStoreError):
            raise
        raise ForeignOutputError(
            f"{store.locate(owner_key(name))} can't be read, so nobody knows whose the folder is: nothing is changed "
            "there; choose another --name or --out"
        ) from None


def _owner(engine: Engine, batch: BatchId) -> Owner:
    database = without_password(engine.url.set(drivername="postgresql").render_as_string())
    if socket_folder := engine.url.query.get("host"):  # else all private databases look alike
        database += f"?host={socket_folder}"
    since = database_time(engine).astimezone(UTC)
    return Owner(this_installation(engine).id, batch, database, socket.gethostname(), since)


def _require_ours(engine: Engine, store: ObjectStore, name: str, batch: BatchId, found: Owner) -> None:
    here = this_installation(engine)
    if found.installation == here.id:
        return
    hint = "choose another --name or --out, or, if that installation is no more, move the folder away or delete it"
    if found.installation in here.earlier:
        named = [row.name for row in run(engine, _NAME, {"batch": batch})] or [name]
        hint += (
            "; or, as this database was restored from that one: if it is out of use, "
            f"`nightmill adopt {named[0]}` takes the folder over"
        )
    raise ForeignOutputError(
        f"{store.locate(name)} belongs to another installation of nightmill ({found.installation}, {found.database} on "
        f"{found.host}, since {found.since:%Y-%m-%d %H:%M} UTC): nothing is changed there; {hint}"
    )


def _holds_images(store: ObjectStore, name: str) -> bool:
    keys = (found.key for found in store.list(f"{name}/images/"))
    return any(parse_image_key(key) and not is_sidecar_key(key) for key in keys)


def _holds_image_of(engine: Engine, store: ObjectStore, batch: BatchId) -> bool:
    """Whether the folder has one of the batch's first images, by key and size; the key contains the digest."""
    rows = run(engine, _FIRST_IMAGES, {"batch": batch, "limit": _TRIED})
    named = {row.key: row.bytes for row in rows if parse_image_key(row.key)}
    return any(
        (found.key, found.bytes) == (key, size)
        for key, size in named.items()
        for found in islice(store.list(key), 1)
    )
