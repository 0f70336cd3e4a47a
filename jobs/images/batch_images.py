"""Paged reading of a batch's image rows, so that long-running readers hold no transaction open."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Engine, text

from jobs.db.engine import run
from jobs.images.row_serialisation import COLUMNS, record
from jobs.job_dataclasses import BatchId

PAGE = 500
_SAMPLE = 1000

_PAGE = text(f"""
    SELECT {COLUMNS} FROM images i JOIN batches b ON b.id = i.batch_id
    WHERE i.batch_id = :batch AND (i.ordinal, i.index) > (:ordinal, :index) ORDER BY i.ordinal, i.index LIMIT :limit
""")

_MODELS = text(
    "SELECT model, count(*) AS images FROM images WHERE batch_id = :batch GROUP BY model ORDER BY model"
)

_META_COLUMNS = text("""
    SELECT DISTINCT json_object_keys(meta) AS name FROM (
        SELECT meta FROM images WHERE batch_id = :batch ORDER BY ordinal, index LIMIT :sample) AS first ORDER BY 1
""")


def pages_of(engine: Engine, batch: BatchId, *, size: int = PAGE) -> Iterator[list[dict[str, Any]]]:
    """Yield the image records of a batch in manifest order, in pages of up to `size`, one transaction per page."""
    after = {"ordinal": -1, "index": 0}
    while rows := run(engine, _PAGE, {"batch": batch, "limit": size, **after}):
        page = [record(row) for row in rows]
        yield page
        after = {name: page[-1][name] for name in after}


def images_by_model(engine: Engine, batch: BatchId) -> dict[str, int]:
    """Return the number of the batch's images by model."""
    return {row.model: row.images for row in run(engine, _MODELS, {"batch": batch})}


def meta_columns(engine: Engine, batch: BatchId) -> Sequence[str]:
    """Return the names of the user's own manifest columns, from the first 1000 images of the batch."""
    return [row.name for row in run(engine, _META_COLUMNS, {"batch": batch, "sample": _SAMPLE})]
