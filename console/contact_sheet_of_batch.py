"""Choose the images of a batch's contact sheet, and store the sheet beside them."""

from sqlalchemy import Engine, text

from jobs.batches.actions import BatchStatus
from jobs.db.engine import run
from jobs.errors import ObjectStoreError
from jobs.storage.base import is_key
from jobs.storage.key_layout import CONTACT_SHEET, parse_image_key
from jobs.storage.open import ObjectStore

TILES = 48

_TILES = text("""
    SELECT key, prompt FROM (
        SELECT key, prompt, row_number() OVER (ORDER BY ordinal, index) - 1 AS position
        FROM images WHERE batch_id = :batch) AS numbered
    WHERE position = ANY (CAST(:positions AS bigint[])) ORDER BY position
""")


def write_contact_sheet(engine: Engine, store: ObjectStore, batch: BatchStatus) -> str | None:
    """Write `<batch>/contact-sheet.png` beside the images and return its location; None if there are no images."""
    from console.contact_sheet import Tile, contact_sheet, evenly  # noqa: PLC0415 - Pillow takes time to import

    positions = evenly(batch.counts["done"], TILES)
    tiles = [
        Tile(_checked(row.key, batch), row.prompt)
        for row in run(engine, _TILES, {"batch": batch.id, "positions": positions})
    ]
    if not tiles:
        return None
    shown = "" if len(tiles) == batch.counts["done"] else f", {len(tiles)} of them shown"
    key = f"{batch.folder}/{CONTACT_SHEET}"
    title = f"{batch.name}: {batch.counts['done']:,} images{shown}"
    store.put(key, contact_sheet(store, tiles, title), content_type="image/png")
    return store.locate(key)


def _checked(key: str, batch: BatchStatus) -> str:
    """Return an image's key. Raises ObjectStoreError if the row was tampered with."""
    found = parse_image_key(key)
    if found is None or found.batch != batch.folder or not is_key(key):
        raise ObjectStoreError(
            f"an image row of {batch.name} names {key!r}, which nightmill never wrote: the database was changed by "
            f"somebody else; `nightmill check {batch.name}` lists such rows, --repair renders them again"
        )
    return key
