"""Results of a finished batch beside its images: contact sheet, truncated prompts, rendering speed."""

from dataclasses import dataclass

from sqlalchemy import Engine, text

from jobs.batches.actions import BatchStatus
from jobs.db.engine import run
from jobs.errors import ObjectStoreError
from jobs.job_dataclasses import BatchId
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

_EFFORT = text("""
    SELECT count(*) AS images, coalesce(sum(
        coalesce((timings ->> 'generate')::float, 0) + coalesce((timings ->> 'upscale')::float, 0)
        + coalesce((timings ->> 'upscale_input')::float, 0)), 0) AS drawing_s,
        coalesce(extract(epoch FROM max(created_at) - :since), 0) AS seconds, count(DISTINCT worker) AS workers
    FROM images WHERE batch_id = :batch AND created_at > :since
""")


_TRUNCATED = text("SELECT count(*) AS images FROM images WHERE batch_id = :batch AND prompt_truncated")


def truncated(engine: Engine, batch: BatchId) -> int:
    """Count the images whose prompt or negative prompt exceeds the model's token limit."""
    images: int = run(engine, _TRUNCATED, {"batch": batch})[0].images
    return images


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
    key = f"{batch.name}/{CONTACT_SHEET}"
    title = f"{batch.name}: {batch.counts['done']:,} images{shown}"
    store.put(key, contact_sheet(store, tiles, title), content_type="image/png")
    return store.locate(key)


def _checked(key: str, batch: BatchStatus) -> str:
    """Return an image's key. Raises ObjectStoreError if the row was tampered with."""
    found = parse_image_key(key)
    if found is None or found.batch != batch.name or not is_key(key):
        raise ObjectStoreError(
            f"an image row of {batch.name} names {key!r}, which nightmill never wrote: the database was changed by "
            f"somebody else; `nightmill check {batch.name}` lists such rows, --repair renders them again"
        )
    return key


@dataclass(frozen=True)
class Effort:
    """Work done on a batch since a moment: images, seconds until the last one, total rendering seconds of the workers.

    `workers` counts all that took part, including those that another command started.
    """

    images: int
    seconds: float
    drawing_s: float
    workers: int

    @property
    def drawing_share(self) -> float:
        """Share of the workers' time spent on rendering, 0 to 1; images from before that moment don't count twice."""
        return min(1.0, self.drawing_s / max(1e-3, self.seconds * max(1, self.workers)))


def effort(engine: Engine, batch: BatchId, since: object) -> Effort:
    """Return the work that was done on the batch since a moment."""
    row = run(engine, _EFFORT, {"batch": batch, "since": since})[0]
    return Effort(row.images, float(row.seconds), float(row.drawing_s), row.workers)
